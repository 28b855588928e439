"""What a gradient rule is given and gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto, numpy_helper

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.graph import Array, Graph, Value

MAX_TABLE = 1 << 22
"""Elements of a constant that a rule makes: one for each place of an image of 2048 × 2048."""


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

    def require_room(self, *shape: int) -> None:
        """Before a constant of this shape is made: a file of a few bytes can state any size. Raises
        UnsupportedOperatorError."""
        if math.prod(shape) > MAX_TABLE:
            sizes = " × ".join(map(str, shape))
            raise self.unsupported(f"its gradient needs a constant of {sizes} elements", "use smaller inputs")


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


LARGE = 3e38
"""Just below float32's largest number: LARGE · x is beyond ±1 for every normal x but 0."""


def operand(node: Node, slot: int) -> Value | None:
    """The input at a place, where there is one."""
    return node.inputs[slot] if slot < len(node.inputs) else None


def constant_value(node: Node, slot: int) -> Array | None:
    """The value of an input that is an initializer and not trained; None for an absent or computed one."""
    value = operand(node, slot)
    tensor = value and node.graph.constants.get(value.name)
    return numpy_helper.to_array(tensor) if tensor else None


def constant_integers(node: Node, slot: int, name: str) -> tuple[int, ...] | None:
    """Axes, sizes and the like: an input that must be constant, or an attribute (up to opset 12 or 17); None: absent.

    Raises UnsupportedOperatorError where the model computes them.
    """
    if operand(node, slot) is None:
        found = node.attribute(name, None)
        return None if found is None else tuple(found)
    array = constant_value(node, slot)
    if array is None:
        raise node.unsupported(f"its {name} are computed by the model", f"export the model with constant {name}")
    return tuple(int(i) for i in array.ravel())


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


def indicator(condition: Value) -> Value:
    """1 where a condition holds, 0 elsewhere. To multiply by it takes a tenth of the time of Where."""
    return condition.graph.op("Cast", condition, to=TensorProto.FLOAT)


def equals(x: Value, y: Value | float) -> Value:
    """The indicator of x = y."""
    return indicator(x.graph.op("Equal", x, x.graph.lift(y)))


def sign(x: Value) -> Value:
    """−1, 0 or 1, in a third of the time of Sign."""
    lift = x.graph.lift
    return x.graph.op("Clip", x * LARGE, lift(-1.0), lift(1.0))


def zeros_like(x: Value) -> Value:
    return x.graph.op("ConstantOfShape", x.graph.op("Shape", x))


def padded(x: Value, rank: int, axes: Sequence[int], before: Sequence[int], after: Sequence[int]) -> Value:
    """Zeros around the given axes; x itself where none are wanted.

    All axes are spelled out: where ONNX Runtime (1.22 to 1.32) moves a Transpose past a Pad that names its axes, it
    permutes the pads as if they were those of all axes.
    """
    if not any((*before, *after)):
        return x
    pads = [0] * 2 * rank
    for axis, first, last in zip(axes, before, after, strict=True):
        pads[axis], pads[rank + axis] = first, last
    return x.graph.op("Pad", x, x.graph.integers(pads), x.graph.lift(0.0))


def fixed(node: Node, value: Value, axes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the given axes, which must not depend on the batch."""
    sizes = tuple(size for axis in axes if (size := value.shape[axis]) is not None)
    if len(sizes) != len(axes):
        raise node.unsupported("a dimension other than the batch is not fixed", "export the model with fixed sizes")
    return sizes
