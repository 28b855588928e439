"""Losses: a scalar, and its gradient with respect to what the model predicts. Both are means over what counts.

A loss is written down as (loss, dprediction) at once, because the two share most of their terms and the closed form of
the gradient is both faster and more exact than differentiating step by step. Definitions are PyTorch's. Notation: z
logits or another prediction, y labels, t another target, n how many elements there are.

Forms were chosen by measurement (stock ONNX Runtime 1.32, one thread) against the obvious ones:

    cross-entropy    its gradient is softmax with the elements at the labels replaced (ScatterElements): 2.4 times as
                     fast as subtracting OneHot at 1000 classes, half a microsecond behind it at 10
    channels first   softmax along an axis that is not the last is written out, as the operator moves the axis to the
                     end and back: 1.2 (100 positions) to 4.6 times (images) as fast
    bce              log(1 + e⁻ᵃ) is −log σ(a) for a ≥ 0: 3 times as fast as Softplus
    mae              sign(e) is e times a huge number, clipped: 1.5 times as fast as Sign
    means            over each sample first, which costs nothing: a float32 sum of millions errs in the fifth digit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.errors import ModelError
from edgefl.trainer.files import loss_options
from edgefl.trainer.files.loss_options import NO_OPTIONS, Settings, class_axis
from edgefl.trainer.files.manifest import Shape, Tensor
from edgefl.trainer.graph import Value

Terms = tuple[Value, Value]
"""(loss, of shape []; its gradient, of the prediction's shape)."""

STEEP = 3e38
"""Almost the largest float32: times it, every ordinary number but 0 is far beyond ±1."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What training makes small. Every method takes the options that were chosen, and raises ModelError for those that
    do not exist or make no sense; `target` and `classes` also for an output that the loss cannot be taken of.

    name         as in manifests
    formula      (prediction, target, every option, what to multiply the gradient by if anything) -> terms
    fitting      (the prediction's shape, every option) -> the target that fits it
    class_count  (the prediction's shape, every option) -> how many classes the labels tell apart, 0 for no labels
    absorbs      final operators of a model that the loss contains: taken before them it is exact and stable
    metrics      what metrics.py finds out beside the loss
    """

    name: str
    formula: Callable[[Value, Value, Settings, Value | None], Terms]
    fitting: Callable[[Shape, Settings], Tensor]
    class_count: Callable[[Shape, Settings], int] = lambda shape, settings: 0
    absorbs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @property
    def options(self) -> Mapping[str, Any]:
        """Names and defaults (None: absent unless given)."""
        return {name: option.default for name, option in loss_options.OPTIONS[self.name].items()}

    def settings(self, options: Settings = NO_OPTIONS) -> dict[str, Any]:
        """What belongs into the manifest: every option that has a value."""
        return loss_options.settings(self.name, options)

    def terms(
        self, prediction: Value, target: Value, options: Settings = NO_OPTIONS, scale: Value | None = None
    ) -> Terms:
        """Append the loss and its gradient to the graph of `prediction` (float32, of known shape). The gradient is
        multiplied by `scale`, of shape []: for nothing, where a product with the whole gradient would take time."""
        return self.formula(prediction, target, self.settings(options), scale)

    def target(self, prediction: Shape, options: Settings = NO_OPTIONS) -> Tensor:
        return self.fitting(prediction, self.settings(options))

    def classes(self, prediction: Shape, options: Settings = NO_OPTIONS) -> int:
        return self.class_count(prediction, self.settings(options))

    def takes_in(
        self, operator: str, attributes: Mapping[str, Any], output: Shape, options: Settings = NO_OPTIONS
    ) -> bool:
        """Whether the node that makes the model's output belongs to the loss, whose prediction is then the input of
        that node. A softmax does if it runs over the classes."""
        if operator not in self.absorbs:
            return False
        rank = len(output)
        return operator == "Sigmoid" or attributes.get("axis", -1) % rank == class_axis(rank, self.settings(options))


# Cross-entropy


def _cross_entropy(z: Value, labels: Value, o: Settings, scale: Value | None) -> Terms:
    """−Σᵢ Σ_c tᵢ_c log pᵢ_c / D with p = softmax(z), i over all samples and positions, c over the C classes.

    Target t = (1 − ε) w_y [c = y] + ε w_c / C with class weights w and label smoothing ε, nothing where y is to be
    ignored; D = Σᵢ w_y over the others, and if there are none, loss and gradient are 0. With rᵢ = Σ_c tᵢ_c the gradient
    is rᵢ (pᵢ − tᵢ / rᵢ) / D: t / r is `share` at the label plus `rest` everywhere, and r is w_y if ε = 0.
    """
    graph, axis, smoothing = z.graph, class_axis(z.rank, o), o["label_smoothing"]
    y, ignored = _ignoring(graph.op("Unsqueeze", labels, graph.integers([axis])), o)
    logs = _log_softmax(z, axis)
    each, slope = graph.op("GatherElements", logs, y, axis=axis), graph.op("Exp", logs)

    row = weight = _class_weights(y, o)
    share: Value | float = 1.0
    if smoothing:
        rest, share, row = _smoothed(weight, z, axis, o)
        each, slope = each * share + (logs * rest).sum(axis, keep=True), slope - rest
    at_labels = graph.op("GatherElements", slope, y, axis=axis) - share
    slope = graph.op("ScatterElements", slope, y, at_labels, axis=axis)

    if weight is None and ignored is None:
        return -_mean(each, labels.rank), slope * _per_element(labels, scale)
    nothing, one = graph.lift(0.0), graph.lift(1.0)
    counts, row = weight or one, row or one
    if ignored is not None:
        counts, row, each = (graph.op("Where", ignored, nothing, value) for value in (counts, row, each))
    total = _sum(counts, labels.rank)
    per = graph.op("Where", graph.op("Greater", total, nothing), one / total, nothing)
    return -_sum(each * row, labels.rank) * per, slope * (row * (per * scale if scale else per))


def _ignoring(y: Value, o: Settings) -> tuple[Value, Value | None]:
    """Labels that all are classes, and which of them are to be ignored (None: there is no such label)."""
    if "ignore_index" not in o:
        return y, None
    graph = y.graph
    ignored = graph.op("Equal", y, graph.constant(np.array(o["ignore_index"], np.int64)))
    return graph.op("Where", ignored, graph.constant(np.array(0, np.int64)), y), ignored


def _class_weights(y: Value, o: Settings) -> Value | None:
    if "class_weights" not in o:
        return None
    return y.graph.op("Gather", y.graph.constant(np.array(o["class_weights"], np.float32)), y)


def _smoothed(
    weight: Value | None, z: Value, axis: int, o: Settings
) -> tuple[Value | float, Value | float, Value | None]:
    """(rest, share, r) as in `_cross_entropy`."""
    smoothing, classes = o["label_smoothing"], z.shape[axis] or 0
    if weight is None:
        return smoothing / classes, 1 - smoothing, None
    spread = smoothing / classes * np.array(o["class_weights"])
    row = weight * (1 - smoothing) + float(spread.sum())
    column = spread.reshape([-1, *(1 for _ in range(axis + 1, z.rank))])
    return z.graph.constant(column.astype(np.float32)) / row, weight * (1 - smoothing) / row, row


def _log_softmax(z: Value, axis: int) -> Value:
    graph = z.graph
    if axis == z.rank - 1:
        return graph.op("LogSoftmax", z, axis=-1)
    z = z - graph.op("ReduceMax", z, graph.integers([axis]), keepdims=1)
    return z - graph.op("Log", graph.op("Exp", z).sum(axis, keep=True))


def _labels(logits: Shape, o: Settings) -> Tensor:
    axis = class_axis(len(logits), o) if len(logits) > 1 else 0
    classes = logits[axis] if axis else None
    if classes is None or classes < 2 or None in logits[1:]:
        raise ModelError(
            f"cross-entropy needs logits of shape [batch, classes ≥ 2] or [batch, positions, classes], "
            f"the model gives {shown(logits)}",
            hint="flatten the model's output to [batch, classes], name the axis of the classes, or use --loss mse",
        )
    if len(o.get("class_weights", [])) not in (0, classes):
        raise ModelError(
            f"{len(o['class_weights'])} class weights do not fit {classes} classes",
            hint=f"the model gives {shown(logits)}, and axis {axis} holds the classes: one weight for each",
        )
    return Tensor("target", "int64", (*logits[:axis], *logits[axis + 1 :]))


def _classes(logits: Shape, o: Settings) -> int:
    return logits[class_axis(len(logits), o)] or 0


# Element by element


def _binary_cross_entropy(z: Value, t: Value, o: Settings, scale: Value | None) -> Terms:
    # −mean(q t log σ(z) + (1 − t) log(1 − σ(z))), q the weight of positives, = mean((1 − t) z + v log(1 + e⁻ᶻ)) with
    # v = 1 + (q − 1) t. In this form |z| may be large: log(1 + e⁻ᶻ) = max(−z, 0) − log σ(|z|)
    graph, weight = z.graph, o["pos_weight"]
    bend = graph.op("Relu", -z) - graph.op("Log", graph.op("Sigmoid", graph.op("Abs", z)))
    slope, positive = graph.op("Sigmoid", z), t
    if weight != 1.0:
        q = np.array(weight, np.float32)
        v = t * graph.constant(q - 1) + 1.0
        bend, slope, positive = bend * v, slope * v, t * graph.constant(q)
    return _mean((1.0 - t) * z + bend, z.rank), (slope - positive) * _per_element(t, scale)


def _squared_error(p: Value, t: Value, o: Settings, scale: Value | None) -> Terms:
    error = p - t
    return _mean(error * error, p.rank), error * _per_element(t, scale, 2.0)


def _absolute_error(p: Value, t: Value, o: Settings, scale: Value | None) -> Terms:
    # the gradient is 0 where there is no error
    graph, error = p.graph, p - t
    sign = graph.op("Clip", error * STEEP, graph.lift(-1.0), graph.lift(1.0))
    return _mean(graph.op("Abs", error), p.rank), sign * _per_element(t, scale)


def _huber(p: Value, t: Value, o: Settings, scale: Value | None) -> Terms:
    # e² / 2 for |e| ≤ δ, δ (|e| − δ / 2) beyond; with c = e clipped to ±δ both are c (e − c / 2), and the gradient is c
    graph, error = p.graph, p - t
    clipped = graph.op("Clip", error, graph.lift(-o["delta"]), graph.lift(o["delta"]))
    return _mean(clipped * (error - clipped * 0.5), p.rank), clipped * _per_element(t, scale)


def _same(prediction: Shape, o: Settings) -> Tensor:
    if None in prediction[1:]:
        raise ModelError(
            f"the loss needs an output with fixed sizes behind the batch, the model gives {shown(prediction)}",
            hint="export the model with fixed sizes",
        )
    weights = o.get("pos_weight")
    if isinstance(weights, list) and prediction[-1] != len(weights):
        raise ModelError(
            f"{len(weights)} weights of positives do not fit the output {shown(prediction)}",
            hint="give one number, or one for each element of the last axis",
        )
    return Tensor("target", "float32", prediction)


# Means


def _mean(value: Value, rank: int) -> Value:
    """Over everything, `rank` being the number of axes that are larger than 1."""
    graph = value.graph
    if rank > 1:
        value = graph.op("ReduceMean", value, graph.integers(range(1, rank)), keepdims=0)
    return graph.op("ReduceMean", value, keepdims=0)


def _sum(value: Value, rank: int) -> Value:
    graph = value.graph
    if rank > 1:
        value = graph.op("ReduceSum", value, graph.integers(range(1, rank)), keepdims=0)
    return graph.op("ReduceSum", value, keepdims=0)


def _per_element(target: Value, scale: Value | None, numerator: float = 1.0) -> Value:
    """scale · numerator / n."""
    graph = target.graph
    each = graph.lift(numerator) / graph.op("Cast", graph.op("Size", target), to=1)
    return each * scale if scale else each


def shown(shape: Shape) -> str:
    """A shape for people: [batch, 64]."""
    return "[" + ", ".join("batch" if n is None else str(n) for n in shape) + "]"


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross-entropy", _cross_entropy, _labels, _classes, ("Softmax", "LogSoftmax"), ("accuracy",)),
        Loss("bce", _binary_cross_entropy, _same, absorbs=("Sigmoid",), metrics=("accuracy",)),
        Loss("mse", _squared_error, _same),
        Loss("mae", _absolute_error, _same),
        Loss("huber", _huber, _same),
    )
}
