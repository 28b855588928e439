"""What a gradient rule is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from edgefl.errors import ModelError
from edgefl.trainer.graph import Graph, Value
from edgefl.trainer.manifest import Shape


class UnsupportedOperatorError(ModelError):
    """A node, or one of its attributes, that edgefl cannot differentiate or carry over."""

    name: ClassVar[str] = "unsupported-operator"


@dataclass(frozen=True, slots=True)
class Node:
    """A forward node with its values; every shape is known."""

    graph: Graph
    operator: str
    name: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any]

    @property
    def x(self) -> Value:
        """The first input, which every operator has."""
        if (value := self.inputs[0]) is None:
            raise self.unsupported("its first input is absent")
        return value

    @property
    def y(self) -> Value:
        return self.outputs[0]

    @property
    def operands(self) -> tuple[Value, ...]:
        """The inputs that are present."""
        return tuple(value for value in self.inputs if value is not None)

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def unsupported(self, what: str, hint: str = "") -> UnsupportedOperatorError:
        """The error for a form of this operator that its rule does not cover."""
        return UnsupportedOperatorError(f"{self.operator} node {self.name!r}: {what}", hint=hint)


Gradient = Callable[..., Sequence[Value | None]]
"""(node, dy of each output that carries a gradient) -> the gradient of each input, in order; None: there is none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`slots`: which inputs carry a gradient (None: all). `results`: how many of the first outputs do (None: all); with
    one, its dy is always there; with several, dy is None for an output that nobody uses."""

    gradient: Gradient
    slots: tuple[int, ...] | None = None
    results: int | None = 1


CONSTANT = Rule(lambda n, dy: [], slots=())
"""No gradient passes: the output is a shape, an index, a truth value, or piecewise constant in the input."""


def sum_to(dy: Value, shape: Shape, x: Value) -> Value:
    """Undo broadcasting: dy has the given shape, to which x was broadcast; the result has the shape of x.

    Each element of x was used once per place that it was copied to, so its gradient is the sum over those places.
    """
    extra = len(shape) - x.rank
    if stretched := [i for i, n in enumerate(x.shape) if n == 1 and shape[extra + i] != 1]:
        dy = dy.sum(*(extra + i for i in stretched), keep=True)
    return dy.sum(*range(extra)) if extra else dy


def shaped_like(dy: Value, x: Value) -> Value:
    """dy's elements in the shape of x."""
    if x.shape.count(None) <= 1 and 0 not in x.shape:
        return dy.reshape(*(-1 if n is None else n for n in x.shape))
    graph = dy.graph
    return graph.op("Reshape", dy, graph.op("Shape", x))


def one_minus(x: Value) -> Value:
    return x.graph.lift(1.0) - x


def fixed(node: Node, value: Value, axes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the given axes, which must not depend on the batch."""
    sizes = tuple(size for axis in axes if (size := value.shape[axis]) is not None)
    if len(sizes) != len(axes):
        raise node.unsupported("a dimension other than the batch is not fixed", "export the model with fixed sizes")
    return sizes
