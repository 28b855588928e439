"""A model being trained on this device: three graphs on stock ONNX Runtime, weights held in one vector.

Per step the training graph turns (inputs, target, weights) into (loss, gradient), then the optimiser graph moves the
weights. Everything that a model carries lies in one float32 vector (parameters, then buffers), of which ONNX Runtime is
given views: it reads weights and writes gradients where they are, and nothing is gathered or copied for an exchange.

Invariant: the weights change only by complete steps. The training graph writes nowhere but into the gradient and beside
the buffers, so a step that fails or is cancelled leaves everything as it was; the optimiser graph, which works in place
(optimizers.py says why it may), is short and never cancelled.

A Session belongs to one thread at a time; `cancel` alone may be called from another. The interpreter lock is released
while ONNX Runtime computes. The graphs come from whoever built the artifacts: sizes, hashes, signatures and contents
(vetting.py) are checked first; trial.py runs them in another process before this one depends on them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgefl.durable import write_atomically
from edgefl.errors import DataError, ModelError
from edgefl.trainer.files import checkpoint
from edgefl.trainer.files.inference_model import with_weights
from edgefl.trainer.files.manifest import (
    CHECKPOINT,
    EVALUATION,
    INFERENCE,
    OPTIMIZER,
    TRAINING,
    Parameter,
    Tensor,
    read_file,
    read_manifest,
)
from edgefl.trainer.running.batch import Batch, fit_batch
from edgefl.trainer.running.beside import Beside
from edgefl.trainer.running.cancelled import TrainingCancelledError
from edgefl.trainer.running.correction import Correction
from edgefl.trainer.running.metrics import metrics, weight
from edgefl.trainer.running.runtime import open_graph, run_options

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float32]

MAX_BINDINGS = 4
"""Batch sizes whose input memory is kept: the full one, the last of an epoch, and a spare for each."""


MAX_DIVIDED = 1 << 22
"""Parameters up to which threads take parts of a batch: each beyond the first has a gradient of its own, 16 MB. The
products of larger matrices keep ONNX Runtime's threads busy by themselves."""


class Part:
    """What one thread has to itself: the gradient and the loss of its samples, their share of the whole loss, the
    batches bound."""

    def __init__(self, gradient: Vector) -> None:
        self.gradient = gradient
        self.loss, self.scale = np.zeros((), np.float32), np.ones((), np.float32)
        self.share = 1.0
        self.bound: dict[int, tuple[Batch, Any]] = {}


class Session:
    """Train, evaluate and export the model of an artifact directory.

    threads: to compute on; by default one core is left to the daemon. Where samples keep to themselves (the manifest's
    `divisible`), each thread differentiates a part of the batch. provider: "cpu", or "cuda" where this device's
    onnxruntime has it. Raises ModelError for a directory that is incomplete, altered, or not of this version.
    """

    def __init__(self, directory: str | os.PathLike[str], *, threads: int | None = None, provider: str = "cpu") -> None:
        self.directory = Path(directory)
        self.manifest = m = read_manifest(self.directory)
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self._provider = provider
        self._options = run_options()
        self._uncancelled = run_options()
        self._vector = np.zeros(m.vector_size, np.float32)
        self._trained = self._vector[: m.trained_size]
        self._gradient = np.zeros(m.trained_size, np.float32)
        self._moved = np.zeros(m.vector_size - m.trained_size, np.float32)
        divided = m.divisible and provider == "cpu" and m.trained_size <= MAX_DIVIDED
        self._parts = [Part(self._gradient)]
        self._parts += [Part(np.zeros_like(self._gradient)) for _ in range(self._threads - 1 if divided else 0)]
        self._beside = Beside(self._threads - 1)
        self._state = {name: np.zeros(m.trained_size, np.float32) for name in m.optimizer.state}
        self._lr, self._step = np.zeros((), np.float32), np.zeros((), np.float32)
        self._seed = np.zeros((), np.int64)

        carried = [Tensor(p.name, "float32", p.shape) for p in m.carried]
        scale, seed = Tensor("scale", "float32", ()), Tensor("seed", "int64", ())
        inputs = [*m.inputs, m.target, *carried]
        given = [*inputs, scale, *([seed] if m.seeded else [])]
        alone = len(self._parts) == 1
        threads = self._threads if alone else 1
        self._training = self._open(TRAINING, given, 1 + len(carried), by_name=len(inputs), threads=threads)
        self._stepping = None if m.optimizer.takes_step else self._open_optimizer()
        self._evaluation: ort.InferenceSession | None = None
        self._evaluating: dict[int, tuple[Batch, Any]] = {}
        self.load(checkpoint.parse(read_file(self.directory, m, CHECKPOINT)))

    # Training

    def step(
        self,
        batch: Mapping[str, Any],
        lr: float,
        *,
        micro_batch: int | None = None,
        correction: Correction | None = None,
    ) -> float:
        """One optimiser step on a batch: model inputs by their own names and the labels as `target`.

        micro_batch: at most this many samples are in memory at once; their gradients are added up to that of the whole
        batch (batch normalisation sees the parts). correction: what a strategy adds to the gradient (correction.py).
        Returns the loss before the step (mean over the batch); it may be infinite or NaN. Raises DataError for a batch
        that does not fit the model, TrainingCancelledError, ModelError if ONNX Runtime fails.
        """
        takes_step = self.manifest.optimizer.takes_step
        plain = correction is None
        loss = self._differentiate(batch, -lr if takes_step and plain else 1.0, micro_batch)
        if correction is not None:
            correction.apply(self._gradient, self._trained)
            if takes_step:
                self._gradient *= np.float32(-lr)
        self._lr[...] = lr
        self._step += 1
        if self._stepping is None:
            self._trained += self._gradient
        else:
            self._run(*self._stepping, self._uncancelled)
        self._vector[self._gradient.size :] = self._moved
        self._seed += 1
        return loss

    def training_loss(self, batch: Mapping[str, Any]) -> float:
        """The mean loss as training sees it: with batch statistics and dropout, of the seed that is due."""
        return self._differentiate(batch, 1.0, None)

    def gradients(self, batch: Mapping[str, Any], *, micro_batch: int | None = None) -> dict[str, Vector]:
        """Gradient of the mean loss for every parameter, without a step."""
        self._differentiate(batch, 1.0, micro_batch)
        return {p.name: view.copy() for p, view in _views(self._gradient, self.manifest.parameters)}

    def evaluate(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """{"loss": mean, "samples": n} and what the loss's predictions are judged by ({"accuracy": 0..1} for labels).
        Raises as `step`."""
        sums = self.evaluate_sums(batch)
        means = {name: total / weight if weight else 0.0 for name, (total, weight) in sums.items()}
        return {**means, "samples": len(batch["target"])}

    def evaluate_sums(self, batch: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """The same as (sum, weight) of each: those of several batches, or devices, add up. Raises as `step`."""
        m = self.manifest
        if self._evaluation is None:
            carried = [Tensor(p.name, "float32", p.shape) for p in m.carried]
            inputs = [*m.inputs, m.target, *carried]
            self._evaluation = self._open(EVALUATION, inputs, 1 + len(m.outputs), by_name=len(inputs))
        given, binding = self._bound(self._evaluating, batch, self._bind_evaluation)
        self._run(self._evaluation, binding, self._options)
        loss, prediction = binding.copy_outputs_to_cpu()
        target = given[m.target.name]
        share = weight(m.loss.name, m.loss.options, target)
        measured = metrics(m.loss.name, m.loss.options, prediction, target, stripped=m.stripped)
        count = measured.pop("count")
        return {"loss": (float(loss) * share, share)} | {k: (value * count, count) for k, value in measured.items()}

    def cancel(self) -> None:
        """From any thread: make the run under way, or else the next one, raise TrainingCancelledError."""
        self._options.terminate = True

    def reseed(self, seed: int) -> None:
        """From here on dropout draws by this seed; every step moves it on by one."""
        self._seed[...] = seed & (2**62 - 1)

    # Weights

    def parameters(self) -> dict[str, Vector]:
        """A copy of every tensor of the vector by name, float32: parameters, then buffers."""
        return {p.name: view.copy() for p, view in _views(self._vector, self.manifest.carried)}

    def load(self, parameters: Mapping[str, Array]) -> None:
        """Replace all tensors of the vector; the optimiser's state stays. Raises ModelError unless names, shapes, dtype
        float32 fit and all values are finite; then nothing is changed."""
        expected = {p.name: p.shape for p in self.manifest.carried}
        if set(parameters) != set(expected):
            odd = sorted(set(parameters) ^ set(expected))
            raise ModelError(f"weights do not fit the model: {odd[0]!r} is missing or unknown")
        for name, array in parameters.items():
            if array.shape != expected[name] or array.dtype != np.float32:
                raise ModelError(f"weight {name!r} is {array.dtype}{array.shape}, not float32{expected[name]}")
            if not np.isfinite(array).all():
                raise ModelError(f"weight {name!r} holds infinities or NaN")
        for p, view in _views(self._vector, self.manifest.carried):
            view[...] = parameters[p.name]

    def vector(self) -> Vector:
        """Everything that the model carries as one flat float32 vector, in manifest order; a copy."""
        copy: Vector = self._vector.copy()
        return copy

    def view(self) -> Vector:
        """The same without a copy: read-only, and it changes with every step."""
        view = self._vector[:]
        view.flags.writeable = False
        return view

    def load_vector(self, vector: Vector) -> None:
        """The inverse of `vector`; raises as `load`."""
        if vector.shape != self._vector.shape or vector.dtype != np.float32:
            raise ModelError(
                f"a vector of {vector.dtype}{vector.shape} does not fit: it must be float32{self._vector.shape}"
            )
        if not np.isfinite(vector).all():
            raise ModelError("the vector holds infinities or NaN")
        self._vector[...] = vector

    def reset_optimizer(self) -> None:
        """Momentum, moments and step count back to zero."""
        self._step[...] = 0
        for state in self._state.values():
            state[...] = 0

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the user's own model with the current weights: a plain ONNX file. Atomic; raises StorageError."""
        original = read_file(self.directory, self.manifest, INFERENCE)
        write_atomically(Path(path), with_weights(original, self.manifest, self.view()))

    # Inside

    def _differentiate(self, batch: Mapping[str, Any], scale: float, micro_batch: int | None) -> float:
        """Fill the gradient with scale · that of the mean loss; the mean loss."""
        m = self.manifest
        samples = len(batch["target"]) if micro_batch is not None and "target" in batch else 0
        if micro_batch is None or samples <= micro_batch:
            return self._differentiate_part(batch, scale)
        if micro_batch < 1:
            raise DataError(f"a micro batch of {micro_batch} samples is not possible", hint="use at least 1")
        total, loss = np.zeros_like(self._gradient), 0.0
        whole = weight(m.loss.name, m.loss.options, np.asarray(batch["target"])) or 1.0
        for first in range(0, samples, micro_batch):
            part = {name: array[first : first + micro_batch] for name, array in batch.items()}
            share = weight(m.loss.name, m.loss.options, np.asarray(part["target"])) / whole
            loss += share * self._differentiate_part(part, scale * share)
            total += self._gradient
        self._gradient[...] = total
        return loss

    def _differentiate_part(self, batch: Mapping[str, Any], scale: float) -> float:
        """Fill the gradient with scale · that of the mean loss; the mean loss. Every thread takes a part."""
        m, divided = self.manifest, self._divided(batch)
        taking = self._parts[: len(divided)]
        bound = [
            self._bound(part.bound, given, partial(self._bind_training, part))
            for part, given in zip(taking, divided, strict=True)
        ]
        weights = [1.0]
        if len(taking) > 1:
            weights = [weight(m.loss.name, m.loss.options, given[m.target.name]) for given, _ in bound]
        whole = sum(weights) or 1.0
        for part, own in zip(taking, weights, strict=True):
            part.share = own / whole
            part.scale[...] = scale * part.share
        self._require_no(self._beside.run([partial(self._train_on, binding) for _, binding in bound]))
        for part in taking[1:]:
            self._gradient += part.gradient
        return sum(part.share * float(part.loss) for part in taking)

    def _train_on(self, binding: Any) -> None:
        """On any thread; what it works on lives until it has ended."""
        self._training.run_with_iobinding(binding, self._options)

    def _divided(self, batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Parts of the batch of the same size, but for one sample, as many as can be computed side by side."""
        arrays = list(batch.values())
        sizes = {len(array) if type(array) is np.ndarray and array.ndim else 0 for array in arrays}
        samples = sizes.pop() if len(sizes) == 1 else 0  # what is wrong with others is found where they are bound
        count = min(samples, len(self._parts))
        if count < 2:
            return [batch]
        edges = [samples * i // count for i in range(count + 1)]
        return [{name: array[a:b] for name, array in batch.items()} for a, b in pairwise(edges)]

    def _bound(self, known: dict[int, tuple[Batch, Any]], batch: Mapping[str, Any], bind: Any) -> tuple[Batch, Any]:
        """The batch in memory that is bound to the graph already, or is from now on."""
        m = self.manifest
        samples = len(batch["target"]) if "target" in batch and np.ndim(batch["target"]) else 0
        found = known.get(samples)
        if found is not None:
            found[0].fill(batch, m)
            return found
        given = fit_batch(batch, m)
        if len(known) >= MAX_BINDINGS:
            del known[next(iter(known))]
        known[given.samples] = given, bind(given)
        return known[given.samples]

    def _bind_training(self, part: Part, given: Batch) -> Any:
        m, binding = self.manifest, self._training.io_binding()
        _bind_inputs(binding, given, _views(self._vector, m.carried))
        names = [argument.name for argument in self._training.get_inputs()]
        scalars: list[Array] = [part.scale, self._seed]
        for name, array in zip(names[len(given) + len(m.carried) :], scalars, strict=False):
            binding.bind_ortvalue_input(name, _shared(array))
        gradients = [view for _, view in _views(part.gradient, m.parameters)]
        moved = [view for _, view in _views(self._moved, m.buffers)]
        results: list[Array] = [part.loss, *gradients, *moved]
        for output, array in zip(self._training.get_outputs(), results, strict=True):
            binding.bind_ortvalue_output(output.name, _shared(array))
        return binding

    def _bind_evaluation(self, given: Batch) -> Any:
        assert self._evaluation is not None  # noqa: S101 - opened by the only caller
        binding = self._evaluation.io_binding()
        _bind_inputs(binding, given, _views(self._vector, self.manifest.carried))
        for output in self._evaluation.get_outputs()[:2]:
            binding.bind_output(output.name)
        return binding

    def _open_optimizer(self) -> tuple[ort.InferenceSession, Any]:
        """The optimiser and its binding. (Where it takes steps its graph is one addition, which needs no session.)"""
        m, trained = self.manifest, self._trained
        state = list(self._state.values())
        given: dict[str, Array] = {"lr": self._lr, **({"step": self._step} if m.optimizer.counts else {})}
        given |= {"parameters": trained, "gradient": self._gradient, **self._state}
        inputs = [Tensor(name, "float32", array.shape) for name, array in given.items()]
        session = self._open(OPTIMIZER, inputs, 1 + len(state), by_name=0)
        binding = session.io_binding()
        for argument, array in zip(session.get_inputs(), given.values(), strict=True):
            binding.bind_ortvalue_input(argument.name, _shared(array))
        for output, array in zip(session.get_outputs(), [trained, *state], strict=True):
            binding.bind_ortvalue_output(output.name, _shared(array))
        return session, binding

    def _run(self, session: ort.InferenceSession, binding: Any, options: Any) -> None:
        try:
            session.run_with_iobinding(binding, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            self._require_no([error])

    def _require_no(self, errors: Sequence[BaseException]) -> None:
        """Raises TrainingCancelledError or ModelError for what ONNX Runtime has raised, if anything."""
        if not errors:
            return
        if self._options.terminate:
            self._options.terminate = False
            raise TrainingCancelledError("training was cancelled") from None
        raise ModelError(f"ONNX Runtime failed: {str(errors[0]).strip()[:300]}") from errors[0]

    def _open(
        self, name: str, inputs: Sequence[Tensor], outputs: int, *, by_name: int, threads: int | None = None
    ) -> ort.InferenceSession:
        content = read_file(self.directory, self.manifest, name)
        return open_graph(
            content,
            name,
            self.manifest.operators,
            inputs,
            outputs,
            by_name=by_name,
            threads=threads or self._threads,
            provider=self._provider,
        )


def _bind_inputs(binding: Any, given: Batch, carried: Sequence[tuple[Parameter, Vector]]) -> None:
    for name, array in given.items():
        binding.bind_ortvalue_input(name, _shared(array))
    for parameter, view in carried:
        binding.bind_ortvalue_input(parameter.name, _shared(view))


def _views(vector: Vector, parameters: Sequence[Parameter]) -> list[tuple[Parameter, Vector]]:
    """Each tensor as a view of the flat vector, in order."""
    views, start = [], 0
    for parameter in parameters:
        views.append((parameter, vector[start : start + parameter.size].reshape(parameter.shape)))
        start += parameter.size
    return views


def _shared(array: Array) -> Any:
    """The array's own memory as ONNX Runtime sees it; the array must outlive it."""
    return ort.OrtValue.ortvalue_from_numpy(array)
