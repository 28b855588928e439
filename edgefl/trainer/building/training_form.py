"""What a model does differently while it learns: batch statistics, and dropout.

An exported model is in its inference form. Here its nodes are brought into a graph in their training form: a
BatchNormalization normalises with the statistics of the batch and moves its running ones, which the evaluation graph
and the exported model use; a Dropout that inference leaves away drops again, by a seed that is fed at every step.

Running statistics become buffers: they have no gradient, but they are part of the vector that devices exchange. The
statistics of a layer whose scale is not trained (or whose running mean is named by --frozen) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from edgefl.errors import ModelError
from edgefl.trainer.building.dropout import dropout
from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.gradients.normalization import training_batch_norm
from edgefl.trainer.graph import Graph, Value, attributes_of


@dataclass(slots=True)
class TrainingForm:
    """`moved`: running statistic -> the name of its new value after a step. `seed`: the input for dropout, if any."""

    shapes: dict[str, Shape]
    moved: dict[str, str] = field(default_factory=dict)
    seed: str = ""


def moving_statistics(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], learns: Callable[[str], bool]
) -> dict[int, tuple[str, str]]:
    """Index of each BatchNormalization node that learns -> its running mean and variance."""
    found: dict[int, tuple[str, str]] = {}
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if node.op_type != "BatchNormalization" or not learns(node.input[1]):
            continue
        mean, variance = node.input[3], node.input[4]
        if mean not in constants or variance not in constants or not (learns(mean) and learns(variance)):
            continue
        if taken & {mean, variance}:
            raise ModelError(
                f"BatchNormalization node {node.name!r} shares its running statistics with another node",
                hint=f"keep them as they are: --frozen {mean!r} --frozen {variance!r}",
            )
        taken |= {mean, variance}
        found[index] = (mean, variance)
    return found


def append_training_form(
    graph: Graph,
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    moving: Mapping[int, tuple[str, str]],
    dropouts: Mapping[str, float],
) -> TrainingForm:
    """Append the nodes to the graph. `dropouts`: output of an Identity that stands for a Dropout -> its ratio."""
    form = TrainingForm(dict(shapes))
    for index, node in enumerate(nodes):
        if index in moving:
            _append_batch_norm(graph, node, moving[index], form)
        elif dropouts.get(node.output[0], 0.0) > 0.0:
            _append_dropout(graph, node, dropouts[node.output[0]], index, form)
        else:
            graph.nodes.append(node)
    return form


def _append_batch_norm(graph: Graph, node: onnx.NodeProto, statistics: tuple[str, str], form: TrainingForm) -> None:
    attributes, known = attributes_of(node), len(graph.nodes)
    x, scale, bias, mean, variance = (Value(graph, name, form.shapes[name]) for name in node.input)
    names = [node.output[0], *(graph.fresh(f"{name}.next") for name in statistics)]
    training_batch_norm(
        graph,
        x,
        scale,
        bias,
        mean,
        variance,
        epsilon=attributes.get("epsilon", 1e-5),
        momentum=attributes.get("momentum", 0.9),
        names=names,
    )
    form.moved.update(zip(statistics, names[1:], strict=True))
    for appended in graph.nodes[known:]:
        for output in appended.output:
            form.shapes.setdefault(output, mean.shape)


def _append_dropout(graph: Graph, node: onnx.NodeProto, ratio: float, salt: int, form: TrainingForm) -> None:
    form.seed = form.seed or graph.fresh("seed")
    x = Value(graph, node.input[0], form.shapes[node.input[0]])
    known = len(graph.nodes)
    dropped = dropout(graph, x, ratio, Value(graph, form.seed, ()), salt)
    graph.op("Identity", dropped, names=[node.output[0]])
    for appended in graph.nodes[known:]:
        for output in appended.output:
            form.shapes.setdefault(output, x.shape)
