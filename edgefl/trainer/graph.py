"""An ONNX graph under construction, and values that read like mathematics.

A gradient rule writes `dy * y * (1.0 - y)`; each operation appends one standard ai.onnx node. Rules may compute more
than is wanted: `Graph.model` keeps only what its outputs need.

One operator may come from elsewhere: com.microsoft.FusedMatMul, part of every build of ONNX Runtime, which multiplies
stacks of matrices that are stored transposed. A portable graph does without it, at the price of copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Shape, Tensor

Array = npt.NDArray[Any]

OPSET = 21
"""The newest that both the oldest onnx that builds (1.16) and the oldest ONNX Runtime that runs (1.22) know. Every
forward operator of the rules means the same from 13 to 21 and beyond: later versions add types alone."""

IR_VERSION = 10
"""The one that belongs to opset 21 (onnx 1.16). Stated, since onnx.helper writes its own newest, which an older
ONNX Runtime refuses to load."""

MAX_NODES = 100_000
"""Of a graph with its gradient. Each takes a kilobyte while the graph is made."""

MAX_CONSTANT_BYTES = 64 << 20
"""All that is added to the constants of the model."""

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of a graph. `shape` is known for forward values and None for what a rule computes in between."""

    graph: Graph
    name: str
    known_shape: Shape | None = None

    @property
    def shape(self) -> Shape:
        if self.known_shape is None:
            raise TypeError(f"{self.name} is an intermediate value: rules know the shapes of forward values alone")
        return self.known_shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __add__(self, other: Value | float) -> Value:
        return self.graph.op("Add", self, self.graph.lift(other))

    def __sub__(self, other: Value | float) -> Value:
        return self.graph.op("Sub", self, self.graph.lift(other))

    def __rsub__(self, other: float) -> Value:
        return self.graph.op("Sub", self.graph.lift(other), self)

    def __mul__(self, other: Value | float) -> Value:
        return self.graph.op("Mul", self, self.graph.lift(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Value | float) -> Value:
        return self.graph.op("Div", self, self.graph.lift(other))

    def __neg__(self) -> Value:
        return self.graph.op("Neg", self)

    def __matmul__(self, other: Value) -> Value:
        return self.graph.op("MatMul", self, other)

    def reshape(self, *shape: int) -> Value:
        """At most one dimension may be -1; 0 copies the input's dimension at that place."""
        return self.graph.op("Reshape", self, self.graph.integers(shape))

    def transpose(self, *permutation: int) -> Value:
        return self.graph.op("Transpose", self, perm=permutation)

    def sum(self, *axes: int, keep: bool = False) -> Value:
        return self.graph.op("ReduceSum", self, self.graph.integers(axes), keepdims=int(keep))

    def slice(self, axes: Sequence[int], starts: Sequence[int], stops: Sequence[int]) -> Value:
        return self.graph.op("Slice", self, *(self.graph.integers(numbers) for numbers in (starts, stops, axes)))


@dataclass(slots=True)
class Graph:
    """Nodes in order, constants, and the names taken so far. `portable`: ai.onnx operators alone. `factors`: of some
    tensors [batch, channels, …], another tensor and the number per channel [channels] that it was multiplied with: who
    can multiply something smaller takes these."""

    portable: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    factors: dict[str, tuple[Value, Value]] = field(default_factory=dict)
    _own: set[str] = field(default_factory=set)
    _shared: dict[tuple[str, tuple[int, ...], bytes], Value] = field(default_factory=dict)
    _count: int = 0
    _room: int = MAX_CONSTANT_BYTES

    def fresh(self, hint: str) -> str:
        """A name that nobody has yet: `hint` itself where it is free."""
        name = hint
        while name in self.taken:
            self._count += 1
            name = f"{hint}~{self._count}"
        self.taken.add(name)
        return name

    def op(self, operator: str, *inputs: Value | None, names: Sequence[str] = (), **attributes: Any) -> Value:
        """Append one node and give its first output. None stands for an absent optional input."""
        if not names:
            names = [self.fresh(f"~{operator}")]
            self._own.update(names)
        if len(self.nodes) >= MAX_NODES:
            raise ModelError(f"the training graph has more than {MAX_NODES} nodes", hint="use a smaller model")
        arguments = [value.name if value else "" for value in inputs]
        self.nodes.append(helper.make_node(operator, arguments, names, **attributes))
        return Value(self, names[0])

    def matmul(
        self,
        a: Value,
        b: Value,
        ranks: tuple[int, int],
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        alpha: float = 1.0,
    ) -> Value:
        """alpha · op(a) · op(b) for matrices (rank 2) or stacks of them, which broadcast; op may transpose."""
        if ranks == (2, 2):  # the transposes cost nothing inside Gemm, where a Transpose node copies
            return self.op("Gemm", a, b, alpha=alpha, transA=int(transpose_a), transB=int(transpose_b))
        if not self.portable:
            return self.op(
                "FusedMatMul",
                a,
                b,
                domain=MICROSOFT,
                alpha=alpha,
                transA=int(transpose_a),
                transB=int(transpose_b),
            )
        left, right = (
            x.transpose(*range(rank - 2), rank - 1, rank - 2) if turn else x
            for x, rank, turn in ((a, ranks[0], transpose_a), (b, ranks[1], transpose_b))
        )
        return left @ right if alpha == 1.0 else (left @ right) * alpha

    def lift(self, value: Value | float) -> Value:
        return value if isinstance(value, Value) else self.constant(np.array(value, np.float32))

    def integers(self, numbers: Sequence[int]) -> Value:
        """An int64 vector: shapes, axes, pads."""
        return self.constant(np.array(numbers, np.int64))

    def constant(self, array: Array) -> Value:
        """An initializer; equal arrays share one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._room -= array.nbytes
            if self._room < 0:
                raise ModelError(
                    f"the training graph needs over {MAX_CONSTANT_BYTES} bytes of constants", hint="use a smaller model"
                )
            name = self.fresh("~constant")
            self.constants[name] = numpy_helper.from_array(array, name)
            self._shared[key] = Value(self, name, array.shape)
        return self._shared[key]

    def name_results(self, values: Sequence[Value], hints: Sequence[str]) -> list[str]:
        """Give values names of one's own choice, as far as they are free (the outputs of a model). They are renamed
        where they are made; only what must keep its name is copied: an input, a constant, one named before."""
        renamed: dict[str, str] = {}
        names = []
        for value, hint in zip(values, hints, strict=True):
            name = self.fresh(hint)
            names.append(name)
            if value.name in self._own and value.name not in renamed:
                renamed[value.name] = name
            else:
                self.op("Identity", value, names=[name])
        for node in self.nodes:
            for names_of in (node.input, node.output):
                for place, old in enumerate(names_of):
                    if old in renamed:
                        names_of[place] = renamed[old]
        return names

    def model(self, name: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> onnx.ModelProto:
        """The finished model: the nodes and constants that `outputs` need, checked against the ONNX specification."""
        results = list(outputs)
        wanted = {tensor.name for tensor in results}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        graph = helper.make_graph(
            kept[::-1],
            name,
            [_value_info(tensor) for tensor in inputs],
            [_value_info(tensor) for tensor in results],
            initializer=[tensor for key, tensor in self.constants.items() if key in wanted],
        )
        imports = [helper.make_opsetid("", OPSET)]
        if any(node.domain == MICROSOFT for node in kept):
            imports.append(helper.make_opsetid(MICROSOFT, 1))
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="edgefl")
        onnx.checker.check_model(model)
        return model


def attributes_of(node: onnx.NodeProto) -> Mapping[str, Any]:
    """Attribute values by name, strings decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    shape = ["batch" if n is None and i == 0 else n for i, n in enumerate(tensor.shape)]
    return helper.make_tensor_value_info(tensor.name, dtype, shape)
