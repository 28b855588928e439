"""A model being trained on this device: three graphs on stock ONNX Runtime, weights held in its memory.

Per step the training graph turns (inputs, target, parameters) into (loss, gradients), then the optimiser graph turns
(lr, parameters, gradients, state) into new parameters and state. Nothing passes through Python but the loss.

Invariant: parameters and state exist twice; a graph reads one set and writes the other, and the sets change roles only
when the step is complete. Writing in place would be silently wrong (a parameter may be read after it is written), and a
step that fails or is cancelled leaves the weights as they were.

A Session belongs to one thread at a time; `cancel` alone may be called from another. The interpreter lock is released
while ONNX Runtime computes. The graphs come from whoever built the artifacts: sizes, hashes, signatures and contents
(vetting.py) are checked first; what remains is that standard operators with absurd attributes could still exhaust
memory or crash the process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgefl.durable import write_atomically
from edgefl.errors import DataError, LocalError, ModelError
from edgefl.trainer import checkpoint
from edgefl.trainer.inference_model import with_weights
from edgefl.trainer.manifest import (
    CHECKPOINT,
    EVALUATION,
    INFERENCE,
    OPTIMIZER,
    TRAINING,
    Shape,
    Tensor,
    read_file,
    read_manifest,
)
from edgefl.trainer.vetting import require_harmless

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float32]

_ORT_TYPES = {
    "float32": "tensor(float)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
}


class TrainingCancelledError(LocalError):
    """`Session.cancel` was called, or `should_stop` said so. The weights are those of the last complete step."""

    name: ClassVar[str] = "cancelled"


class Session:
    """Train, evaluate and export the model of an artifact directory.

    threads: of ONNX Runtime; by default one core is left to the daemon. Raises ModelError for a directory that is
    incomplete, altered, or not of this version.
    """

    def __init__(self, directory: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.directory = Path(directory)
        self.manifest = m = read_manifest(self.directory)
        if m.buffers:
            raise ModelError("these artifacts need a newer edgefl (they have buffers)", hint="update edgefl")
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self._options = ort.RunOptions()
        self._parameters = [Tensor(p.name, "float32", p.shape) for p in m.parameters]
        carried = [*self._parameters, *m.optimizer.state]
        lr = Tensor("lr", "float32", ())

        inputs = [*m.inputs, m.target, *self._parameters]
        self._training = self._open(TRAINING, inputs, 1 + len(self._parameters))
        stepping = [lr, *self._parameters, *self._parameters, *m.optimizer.state]
        self._stepping = self._open(OPTIMIZER, stepping, len(carried), by_name=False)
        self._evaluation: ort.InferenceSession | None = None

        self._loss, self._lr = _allocate(lr), _allocate(lr)
        self._gradients = [_allocate(tensor) for tensor in self._parameters]
        self._sets = [[_allocate(tensor) for tensor in carried] for _ in range(2)]
        self._current = 0
        self._training_bindings = [self._bind_training(values) for values in self._sets]
        self._stepping_bindings = [self._bind_stepping(*self._sets), self._bind_stepping(*self._sets[::-1])]
        self.reset_optimizer()
        self.load(checkpoint.parse(read_file(self.directory, m, CHECKPOINT)))

    # Training

    def step(self, batch: Mapping[str, Any], lr: float) -> float:
        """One optimiser step on a batch: model inputs by their own names and the labels as `target`.

        Returns the loss before the step (mean over the batch); it may be infinite or NaN. Raises DataError for a batch
        that does not fit the model, TrainingCancelledError, ModelError if ONNX Runtime fails.
        """
        loss = self._differentiate(batch)
        self._lr.update_inplace(np.array(lr, np.float32))
        self._run(self._stepping, self._stepping_bindings[self._current])
        self._current ^= 1
        return loss

    def gradients(self, batch: Mapping[str, Any]) -> dict[str, Vector]:
        """Gradient of the mean loss for every parameter, without a step."""
        self._differentiate(batch)
        return {t.name: v.numpy().copy() for t, v in zip(self._parameters, self._gradients, strict=True)}

    def evaluate(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """{"loss": mean, "samples": n} and, for cross-entropy, {"accuracy": 0..1}. Raises as `step`."""
        m = self.manifest
        feeds = self._feeds(batch)
        if self._evaluation is None:
            self._evaluation = self._open(EVALUATION, [*m.inputs, m.target, *self._parameters], 1 + len(m.outputs))
        binding = self._evaluation.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for tensor, value in zip(self._parameters, self._sets[self._current], strict=False):
            binding.bind_ortvalue_input(tensor.name, value)
        loss_name, prediction_name = [output.name for output in self._evaluation.get_outputs()][:2]
        binding.bind_output(loss_name)
        binding.bind_output(prediction_name)
        self._run(self._evaluation, binding)
        loss, prediction = binding.copy_outputs_to_cpu()
        target = feeds[m.target.name]
        result = {"loss": float(loss), "samples": len(target)}
        if m.loss == "cross-entropy":
            result["accuracy"] = float(np.mean(prediction.argmax(axis=1) == target))
        return result

    def cancel(self) -> None:
        """From any thread: make the run under way, or else the next one, raise TrainingCancelledError."""
        self._options.terminate = True

    # Weights

    def parameters(self) -> dict[str, Vector]:
        """A copy of every parameter by name, float32."""
        values = zip(self._parameters, self._sets[self._current], strict=False)
        return {tensor.name: value.numpy().copy() for tensor, value in values}

    def load(self, parameters: Mapping[str, Array]) -> None:
        """Replace all parameters; the optimiser's state stays. Raises ModelError unless names, shapes, dtype float32
        fit and all values are finite; then nothing is changed."""
        expected = {tensor.name: tensor.shape for tensor in self._parameters}
        if set(parameters) != set(expected):
            odd = sorted(set(parameters) ^ set(expected))
            raise ModelError(f"weights do not fit the model: {odd[0]!r} is missing or unknown")
        for name, array in parameters.items():
            if array.shape != expected[name] or array.dtype != np.float32:
                raise ModelError(f"weight {name!r} is {array.dtype}{array.shape}, not float32{expected[name]}")
            if not np.isfinite(array).all():
                raise ModelError(f"weight {name!r} holds infinities or NaN")
        for tensor, value in zip(self._parameters, self._sets[self._current], strict=False):
            value.update_inplace(np.ascontiguousarray(parameters[tensor.name]))

    def vector(self) -> Vector:
        """All parameters as one flat float32 vector, in manifest order; a copy."""
        return np.concatenate([array.ravel() for array in self.parameters().values()])

    def load_vector(self, vector: Vector) -> None:
        """The inverse of `vector`; raises as `load`."""
        if vector.shape != (self.manifest.vector_size,):
            raise ModelError(
                f"a vector of shape {vector.shape} does not fit: it must be ({self.manifest.vector_size},)"
            )
        ends = np.cumsum([p.size for p in self.manifest.parameters])[:-1]
        parts = zip(self.manifest.parameters, np.split(vector, ends), strict=True)
        self.load({p.name: part.reshape(p.shape) for p, part in parts})

    def reset_optimizer(self) -> None:
        """Momentum, moments and step count back to zero."""
        for tensor, value in zip(self.manifest.optimizer.state, self._state(), strict=True):
            value.update_inplace(np.zeros([n or 0 for n in tensor.shape], tensor.dtype))

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the user's own model with the current weights: a plain ONNX file. Atomic; raises StorageError."""
        original = read_file(self.directory, self.manifest, INFERENCE)
        write_atomically(Path(path), with_weights(original, self.manifest.parameters, self.parameters()))

    # Inside

    def _state(self) -> list[Any]:
        return self._sets[self._current][len(self._parameters) :]

    def _differentiate(self, batch: Mapping[str, Any]) -> float:
        feeds = self._feeds(batch)  # a name of its own: the binding points into these arrays until the run is over
        binding = self._training_bindings[self._current]
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._run(self._training, binding)
        return float(self._loss.numpy())

    def _feeds(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """The batch as contiguous arrays of the declared types, labels within the classes. Raises DataError."""
        m = self.manifest
        wanted = {**{tensor.name: tensor for tensor in m.inputs}, "target": m.target}
        if set(batch) != set(wanted):
            raise DataError(f"a batch of this model has {', '.join(wanted)}; given: {', '.join(map(str, batch))}")
        feeds = {tensor.name: _fitting(key, batch[key], tensor) for key, tensor in wanted.items()}
        target = feeds[m.target.name]
        if any(len(array) != len(target) for array in feeds.values()) or not len(target):
            raise DataError("inputs and target of a batch must have the same number of samples, at least one")
        if m.classes and not (target.min() >= 0 and target.max() < m.classes):
            raise DataError(
                f"labels from {target.min()} to {target.max()} do not fit a model of {m.classes} classes",
                hint=f"labels count from 0 to {m.classes - 1}",
            )
        return feeds

    def _run(self, session: ort.InferenceSession, binding: Any) -> None:
        try:
            session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            if self._options.terminate:
                self._options.terminate = False
                raise TrainingCancelledError("training was cancelled") from None
            raise ModelError(f"ONNX Runtime failed: {str(error).strip()[:300]}") from error

    def _open(self, name: str, inputs: Sequence[Tensor], outputs: int, *, by_name: bool = True) -> ort.InferenceSession:
        """A session on the verified bytes of a file, its signature as expected."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # spinning threads would starve the daemon's own thread on a small device
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        content = read_file(self.directory, self.manifest, name)
        require_harmless(content, self.manifest.operators, name)
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as in _run
            raise ModelError(
                f"ONNX Runtime {ort.__version__} cannot load {name}: {str(error).strip()[:300]}",
                hint="build the artifacts again, or update onnxruntime",
            ) from error
        found = [(arg.name, arg.type, _shape(arg.shape)) for arg in session.get_inputs()]
        expected = [(t.name, _ORT_TYPES[t.dtype], t.shape) for t in inputs]
        same = found == expected if by_name else [f[1:] for f in found] == [e[1:] for e in expected]
        if not same or len(session.get_outputs()) != outputs:
            raise ModelError(f"{name} does not have the signature that the manifest lists", hint="build it again")
        return session

    def _bind_training(self, values: Sequence[Any]) -> Any:
        binding = self._training.io_binding()
        for tensor, value in zip(self._parameters, values, strict=False):
            binding.bind_ortvalue_input(tensor.name, value)
        for output, value in zip(self._training.get_outputs(), [self._loss, *self._gradients], strict=True):
            binding.bind_ortvalue_output(output.name, value)
        return binding

    def _bind_stepping(self, old: Sequence[Any], new: Sequence[Any]) -> Any:
        binding = self._stepping.io_binding()
        count = len(self._parameters)
        given = [self._lr, *old[:count], *self._gradients, *old[count:]]
        for argument, value in zip(self._stepping.get_inputs(), given, strict=True):
            binding.bind_ortvalue_input(argument.name, value)
        for output, value in zip(self._stepping.get_outputs(), new, strict=True):
            binding.bind_ortvalue_output(output.name, value)
        return binding


def _allocate(tensor: Tensor) -> Any:
    """Memory of ONNX Runtime's own: an OrtValue made from a numpy array would share the array's memory."""
    return ort.OrtValue.ortvalue_from_shape_and_type([n or 0 for n in tensor.shape], np.dtype(tensor.dtype).type)


def _fitting(key: str, value: Any, tensor: Tensor) -> Array:
    try:
        array = np.asarray(value)
        fits = len(array.shape) == len(tensor.shape) and all(
            b is None or a == b for a, b in zip(array.shape, tensor.shape, strict=True)
        )
        if fits and np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            return np.ascontiguousarray(array, dtype=tensor.dtype)
    except (TypeError, ValueError):
        raise DataError(f"{key!r} of the batch is not an array") from None
    shape = tuple("batch" if n is None else n for n in tensor.shape)
    raise DataError(f"{key!r} of the batch is {array.dtype}{array.shape}, the model takes {tensor.dtype}{shape}")


def _shape(shape: Sequence[Any]) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in shape)
