"""What a loss says about predictions beside its own value, for people; and what its mean runs over, so that the results
of batches and of devices can be put together. numpy alone: this runs on the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.trainer.files.loss_options import Settings, class_axis

Array = npt.NDArray[Any]


def metrics(loss: str, options: Settings, prediction: Array, target: Array, *, stripped: str = "") -> dict[str, float]:
    """{"count": how many elements count} and, for cross-entropy and bce, {"accuracy": 0..1}, their mean.

    loss, options, stripped: the manifest's. prediction: the model's own output, behind what was stripped; target: as
    declared. For cross-entropy an element is a label that is not to be ignored; right is the highest class. For bce it
    is each element; right is the same side of 1/2 as the target. For a user's own loss it is a sample.
    """
    if loss == "cross-entropy":
        mask = counted(loss, options, target)
        right = prediction.argmax(axis=class_axis(prediction.ndim, options)) == target
        return {"count": int(mask.sum()), "accuracy": _mean(right[mask])}
    if loss == "bce":
        middle = 0.5 if stripped else 0.0
        return {"count": target.size, "accuracy": _mean((prediction > middle) == (target > 0.5))}
    return {"count": len(target) if loss == "own" else target.size}


def weight(loss: str, options: Settings, target: Array) -> float:
    """What the mean loss of this target was divided by: the mean over several batches is Σ weight · loss / Σ weight,
    and so for gradients. Unlike `count` it knows class weights."""
    if loss != "cross-entropy":
        return float(len(target) if loss == "own" else target.size)
    labels = target[counted(loss, options, target)]
    if "class_weights" not in options:
        return float(labels.size)
    return float(np.take(np.asarray(options["class_weights"], np.float64), labels).sum())


def counted(loss: str, options: Settings, target: Array) -> npt.NDArray[np.bool_]:
    """Which elements of the target count; labels among the others need not be classes."""
    if loss == "cross-entropy" and "ignore_index" in options:
        return np.asarray(target != options["ignore_index"])
    return np.ones(target.shape, np.bool_)


def _mean(right: Array) -> float:
    return float(right.mean()) if right.size else 0.0
