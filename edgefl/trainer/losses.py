"""Losses: a scalar, and its gradient with respect to what the model predicts. Both are means over the batch.

A loss is written down as (loss, dprediction) at once, because the two share most of their terms and the closed form of
the gradient is both faster and more exact than differentiating step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgefl.errors import ModelError
from edgefl.trainer.graph import Value
from edgefl.trainer.manifest import Shape, Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """`terms(prediction, target)` gives (loss, dprediction); `target(shape)` is the target that fits a prediction."""

    name: str
    terms: Callable[[Value, Value], tuple[Value, Value]]
    target: Callable[[Shape], Tensor]
    classes: Callable[[Shape], int]


def _cross_entropy(logits: Value, labels: Value) -> tuple[Value, Value]:
    # −mean log softmax(z)[label]; its gradient is (softmax(z) − onehot(label)) / n
    graph = logits.graph
    classes = logits.shape[-1]
    logs = graph.op("LogSoftmax", logits, axis=-1)
    off_on = graph.constant(np.array([0, 1], np.float32))
    chosen = graph.op("OneHot", labels, graph.constant(np.array(classes)), off_on, axis=-1)
    count = graph.op("Cast", graph.op("Size", labels), to=1)
    return -((chosen * logs).sum(0, 1) / count), (graph.op("Exp", logs) - chosen) / count


def _squared_error(prediction: Value, target: Value) -> tuple[Value, Value]:
    # mean (p − t)²; its gradient is 2 (p − t) / n, with n the number of elements
    graph = prediction.graph
    error = prediction - target
    count = graph.op("Cast", graph.op("Size", target), to=1)
    return (error * error).sum(*range(prediction.rank)) / count, error * (graph.lift(2.0) / count)


def _labels(logits: Shape) -> Tensor:
    if len(logits) != 2 or logits[1] is None or logits[1] < 2:
        raise ModelError(
            f"cross-entropy needs logits of shape [batch, classes ≥ 2], the model gives {shown(logits)}",
            hint="flatten the model's output to [batch, classes], or use --loss mse",
        )
    return Tensor("target", "int64", (None,))


def _same(prediction: Shape) -> Tensor:
    if None in prediction[1:]:
        raise ModelError(
            f"mse needs an output with fixed sizes behind the batch, the model gives {shown(prediction)}",
            hint="export the model with fixed sizes",
        )
    return Tensor("target", "float32", prediction)


def shown(shape: Shape) -> str:
    """A shape for people: [batch, 64]."""
    return "[" + ", ".join("batch" if n is None else str(n) for n in shape) + "]"


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross-entropy", _cross_entropy, _labels, classes=lambda shape: shape[-1] or 0),
        Loss("mse", _squared_error, _same, classes=lambda shape: 0),
    )
}
