"""The forward node as it stands in the graph under construction, for the rules that want more from it than its result:
more of its outputs, or the same result computed in a way that leaves behind what the backward pass needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from edgefl.trainer.gradients.rule import Node
from edgefl.trainer.graph import Value


@contextmanager
def replacing(n: Node) -> Iterator[onnx.NodeProto]:
    """What is appended to the graph within the block takes the place of the forward node, which is yielded.

    It must bring forth the node's outputs under their names.
    """
    nodes = n.graph.nodes
    place = next(i for i, proto in enumerate(nodes) if n.y.name in proto.output)
    forward, *behind = nodes[place:]
    del nodes[place:]
    yield forward
    nodes.extend(behind)


def outputs_of(n: Node, count: int) -> list[Value]:
    """The first outputs of the forward node, which is made to give those that were absent. Their shapes are unknown."""
    with replacing(n) as forward:
        whole = onnx.NodeProto()
        whole.CopyFrom(forward)  # the original belongs to the model that was read
        names = [*forward.output, *[""] * count]
        whole.output[:] = [name or n.graph.fresh(f"~{n.operator}") for name in names[:count]]
        whole.output.extend(forward.output[count:])
        n.graph.nodes.append(whole)
    return [Value(n.graph, name) for name in whole.output[:count]]
