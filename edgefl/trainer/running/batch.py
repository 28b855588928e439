"""A batch in memory of its own, checked against the model: the place where what a caller gives meets ONNX Runtime.

The memory stays bound to the graph from step to step; the next batch of the same size is copied into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.errors import DataError
from edgefl.trainer.files.manifest import Manifest, Tensor

Array = npt.NDArray[Any]

TARGET = "target"
"""The key of the labels in a batch."""


class Batch:
    """Inputs and target of one batch size by the names that the graph has for them: arrays of the declared types."""

    def __init__(self, arrays: dict[str, Array], samples: int) -> None:
        self._arrays = arrays
        self.samples = samples

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __len__(self) -> int:
        return len(self._arrays)

    def items(self) -> Iterable[tuple[str, Array]]:
        return self._arrays.items()

    def fill(self, batch: Mapping[str, Any], m: Manifest) -> None:
        """Copy another batch of the same size into this memory. Raises DataError, and is half filled then."""
        wanted = _wanted(m)
        _check_keys(batch, wanted)
        for key, tensor in wanted.items():
            array, place = batch[key], self._arrays[tensor.name]
            if type(array) is not np.ndarray or array.shape != place.shape or array.dtype != place.dtype:
                array = _fitting(key, array, tensor)
                if array.shape != place.shape:
                    raise _uneven()
            np.copyto(place, array)
        _check_labels(self._arrays[m.target.name], m)


def fit_batch(batch: Mapping[str, Any], m: Manifest) -> Batch:
    """The batch in new memory. Raises DataError where keys, shapes, types or labels do not fit the model."""
    wanted = _wanted(m)
    _check_keys(batch, wanted)
    arrays = {tensor.name: _fitting(key, batch[key], tensor).copy() for key, tensor in wanted.items()}
    samples = len(arrays[m.target.name])
    if any(len(array) != samples for array in arrays.values()) or not samples:
        raise _uneven()
    _check_labels(arrays[m.target.name], m)
    return Batch(arrays, samples)


def _wanted(m: Manifest) -> dict[str, Tensor]:
    return {**{tensor.name: tensor for tensor in m.inputs}, TARGET: m.target}


def _check_keys(batch: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    if batch.keys() != wanted.keys():
        raise DataError(f"a batch of this model has {', '.join(wanted)}; given: {', '.join(map(str, batch))}")


def _check_labels(target: Array, m: Manifest) -> None:
    if m.loss.name == "bce" and not (target.min() >= 0 and target.max() <= 1):
        raise DataError(
            f"targets from {target.min():g} to {target.max():g} are no truths",
            hint="bce needs targets from 0 (false) to 1 (true)",
        )
    if not m.loss.classes:
        return
    if target.view(np.uint64).max() < m.loss.classes:  # what is negative is huge then: one search instead of two
        return
    counted = target[target != m.loss.options["ignore_index"]] if "ignore_index" in m.loss.options else target
    if counted.size and not (counted.min() >= 0 and counted.max() < m.loss.classes):
        raise DataError(
            f"labels from {counted.min()} to {counted.max()} do not fit a model of {m.loss.classes} classes",
            hint=f"labels count from 0 to {m.loss.classes - 1}",
        )


def _uneven() -> DataError:
    return DataError("inputs and target of a batch must have the same number of samples, at least one")


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
