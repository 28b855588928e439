"""The user's graph on its way to the normal form, and what is known about its tensors.

Passes take a `FlatGraph` and change it: fold.py replaces what is constant, opset.py brings nodes to our opset, and so
on, each with the `Facts` that the last round of shape inference found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.files.manifest import Shape, Tensor
from edgefl.trainer.gradients import RULES

Array = npt.NDArray[Any]

STANDARD = ("", "ai.onnx")
"""The two spellings of the domain of standard operators."""

DATA_ALONE = {"Resize": (0,), "Upsample": (0,), "BatchNormalization": (0, 1, 2), "Dropout": (0,)}
"""Operators with float vectors that nobody trains: the inputs that a gradient may reach, rule or no rule."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Every tensor's shape (None where it grows with the batch) and numpy dtype name; tensors of unknown shape are left
    out. `per_sample`: those with exactly one row per sample. `values`: those that are the same in every run, known only
    up to a size, the trained ones not among them."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    per_sample: set[str] = field(default_factory=set)
    values: dict[str, Array] = field(default_factory=dict)


@dataclass(slots=True)
class FlatGraph:
    """Nodes of one opset, without functions and control flow.

    file        initializers of the user's file by name
    constants   those that were found since
    batch       the first dimension that every input was exported with, if it was fixed
    """

    opset: int
    nodes: list[onnx.NodeProto]
    file: dict[str, onnx.TensorProto]
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    batch: int | None = None
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    _count: int = 0

    def __post_init__(self) -> None:
        self.taken.update(self.file, self.outputs, (tensor.name for tensor in self.inputs))
        self.taken.update(name for node in self.nodes for name in (*node.input, *node.output))

    def fresh(self, hint: str) -> str:
        """A name that nobody has yet."""
        name = hint
        while name in self.taken:
            self._count += 1
            name = f"{hint}~{self._count}"
        self.taken.add(name)
        return name

    def constant(self, array: Array, hint: str = "~constant") -> str:
        """The name of a new constant."""
        name = self.fresh(hint)
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        return self.constant(np.array(numbers, np.int64))

    @property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {**self.file, **self.constants}

    def needed(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Those that the outputs depend on."""
        wanted = set(self.outputs)
        kept = []
        for node in reversed(nodes):
            if wanted.intersection(node.output):
                wanted.update(filter(None, node.input))
                kept.append(node)
        return kept[::-1]

    def weights(self) -> set[str]:
        """Initializers of the file that somebody may want to train: float32, at least one dimension, and an output
        depends on them through inputs that carry a gradient."""
        needed = set(self.outputs)
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(data_inputs(node))
        return {
            name
            for name, tensor in self.file.items()
            if name in needed and tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
        }


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs that a gradient may reach; all of them where nothing says otherwise."""
    slots = DATA_ALONE.get(node.op_type)
    if slots is None and node.op_type in RULES:
        slots = RULES[node.op_type].slots
    return [name for slot, name in enumerate(node.input) if name and (slots is None or slot in slots)]


def dtype_name(code: int) -> str:
    """The numpy name of an ONNX element type; "" for what is none."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(code)).name if code else ""
    except KeyError:
        return ""


def node_like(
    node: onnx.NodeProto, operator: str, inputs: Sequence[str], *, outputs: int | None = None, **attributes: Any
) -> onnx.NodeProto:
    """A node in the place of another: its name and (first) outputs, other contents."""
    return helper.make_node(operator, inputs, node.output[:outputs], node.name, **attributes)


def name_apart(nodes: Iterable[onnx.NodeProto]) -> None:
    """Give nodes of one name different ones: ONNX Runtime refuses a graph in which two are called the same."""
    taken: set[str] = set()
    count = 1
    for node in nodes:
        stem = node.name
        while node.name and node.name in taken:
            count += 1
            node.name = f"{stem}~{count}"
        taken.add(node.name)


def described(node: onnx.NodeProto, opset: int) -> str:
    """For error messages."""
    domain = f" of domain {node.domain!r}" if node.domain not in STANDARD else ""
    return f"node {node.name!r} uses {node.op_type}{domain} (opset {opset})"


def unsupported(node: onnx.NodeProto, opset: int, why: str, hint: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(f"{described(node, opset)}{why}", hint=hint)
