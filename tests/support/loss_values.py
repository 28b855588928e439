"""A loss and its gradient on ONNX Runtime, for given predictions and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from edgefl.trainer.building.losses import LOSSES, Loss
from edgefl.trainer.files.manifest import Tensor
from edgefl.trainer.graph import Graph, Value


def loss_and_slope(
    loss: Loss | str, prediction: Any, target: Any, *, scale: float | None = None, **options: Any
) -> tuple[float, Any]:
    """(loss, its gradient with respect to the prediction). The target must be as the loss declares it."""
    loss = LOSSES[loss] if isinstance(loss, str) else loss
    p, t = np.asarray(prediction, np.float32), np.asarray(target)
    shape = (None, *p.shape[1:])
    wanted = loss.target(shape, options)
    assert (wanted.name, wanted.shape) == ("target", (None, *t.shape[1:]))
    graph = Graph(taken={"p", "t", "value", "slope"})
    factor = None if scale is None else graph.lift(scale)
    results = loss.terms(Value(graph, "p", shape), Value(graph, "t", wanted.shape), options, factor)
    for result, name in zip(results, ("value", "slope"), strict=True):
        graph.op("Identity", result, names=[name])
    outputs = [Tensor("value", "float32", ()), Tensor("slope", "float32", shape)]
    model = graph.model("loss", [Tensor("p", "float32", shape), Tensor("t", wanted.dtype, wanted.shape)], outputs)
    value, slope = ort.InferenceSession(model.SerializeToString()).run(None, {"p": p, "t": t.astype(wanted.dtype)})
    return float(value), slope


def finite_differences(function: Any, at: Any) -> Any:
    """Central differences of a function of one float64 array."""
    slope = np.zeros(at.shape)
    for place in np.ndindex(at.shape):
        step = np.zeros(at.shape)
        step[place] = 1e-5
        slope[place] = (function(at + step) - function(at - step)) / 2e-5
    return slope
