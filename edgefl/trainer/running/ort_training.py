"""Artifacts of ONNX Runtime's own training package behind the methods of a Session, where that package is installed.

Its last release is onnxruntime-training-cpu 1.19.2, for x86-64 and Python up to 3.11; the maintainers have ended it.
This is a bridge for people who have such artifacts, and the yardstick of the bench. Those files have no manifest: what
is known comes from the package's own API. Training a fleet needs edgefl's artifacts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.errors import ConfigError, DataError, ModelError
from edgefl.trainer.files.manifest import CHECKPOINT, EVALUATION, OPTIMIZER, TRAINING

Vector = npt.NDArray[np.float32]


class OrtTrainingSession:
    """Train, evaluate and export the model of a directory that onnxruntime.training.artifacts wrote.

    A batch has the model's inputs by their names and the labels as `target`. Raises ConfigError without the package,
    ModelError for files that it cannot use.
    """

    def __init__(self, directory: str | os.PathLike[str], *, threads: int | None = None) -> None:
        try:
            import onnxruntime
            from onnxruntime.training import api
        except ImportError:
            raise ConfigError(
                "these artifacts need ONNX Runtime's own training package",
                hint="pip install onnxruntime-training-cpu==1.19.2 (x86-64), or build them with edgefl",
            ) from None
        place = Path(directory)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        options.inter_op_num_threads = 1
        try:
            state = api.CheckpointState.load_checkpoint(str(place / CHECKPOINT))
            self._module = api.Module(
                str(place / TRAINING), state, str(place / EVALUATION), device="cpu", session_options=options
            )
            self._new_optimizer: Callable[[], Any] = lambda: api.Optimizer(str(place / OPTIMIZER), self._module)
            self._optimizer = self._new_optimizer()
        except Exception as error:  # the package raises RuntimeError and its own types
            raise ModelError(f"{place} cannot be used: {str(error).strip()[:300]}") from error
        self._state = state
        self._inputs = [name for name in self._module.input_names() if name != "labels"]

    def step(self, batch: Mapping[str, Any], lr: float) -> float:
        """One optimiser step; the mean loss before it."""
        self._module.train()
        loss = self._forward(batch)
        self._optimizer.set_learning_rate(lr)
        self._optimizer.step()
        self._module.lazy_reset_grad()
        return loss

    def evaluate(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """{"loss": mean, "samples": n}."""
        self._module.eval()
        return {"loss": self._forward(batch), "samples": len(batch["target"])}

    def parameters(self) -> dict[str, Vector]:
        """A copy of every trained tensor by name."""
        return {name: np.array(parameter.data, np.float32) for name, parameter in self._state.parameters}

    def vector(self) -> Vector:
        """All trained tensors as one flat float32 vector, in the package's own order; a copy."""
        flat: Vector = np.array(self._module.get_contiguous_parameters(trainable_only=True).numpy(), np.float32)
        return flat

    def load_vector(self, vector: Vector) -> None:
        """The inverse of `vector`. Raises ModelError for another size."""
        from onnxruntime import OrtValue

        size = self._module.get_parameters_size(trainable_only=True)
        if vector.shape != (size,) or vector.dtype != np.float32:
            raise ModelError(f"a vector of {vector.dtype}{vector.shape} does not fit: it must be float32({size},)")
        given = OrtValue.ortvalue_from_numpy(vector)
        self._module.copy_buffer_to_parameters(given._ortvalue, trainable_only=True)  # its own wrapper does not fit

    def reset_optimizer(self) -> None:
        """Moments back to zero."""
        self._optimizer = self._new_optimizer()

    def export(self, path: str | os.PathLike[str], outputs: list[str]) -> None:
        """Write the model with the current weights; `outputs` names what it shall give."""
        self._module.export_model_for_inferencing(str(path), outputs)

    def _forward(self, batch: Mapping[str, Any]) -> float:
        if set(batch) != {*self._inputs, "target"}:
            raise DataError(f"a batch of this model has {', '.join(self._inputs)}, target; given: {', '.join(batch)}")
        try:
            arrays = [np.ascontiguousarray(batch[name]) for name in (*self._inputs, "target")]
            return float(np.asarray(self._module(*arrays)).ravel()[0])
        except Exception as error:
            raise ModelError(f"ONNX Runtime failed: {str(error).strip()[:300]}") from error
