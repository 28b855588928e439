"""Low-rank adapters: a large weight stays as it is, and a product of two small matrices beside it is trained.

    y = x · W + s · (x · L) · R        W [rows, columns], L [rows, rank], R [rank, columns], s = alpha / rank

L starts random, R at zero, so the model starts as it was. Only L and R travel; s · L · R is added to W when the model
is exported (inference_model.py). MatMul and Gemm with a constant matrix, and Conv with a 1×1 kernel, can have one.
Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgefl.errors import ModelError
from edgefl.trainer.building.low_rank import LowRank
from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.graph import attributes_of


@dataclass(slots=True)
class Adapted:
    """The model with adapters in it. `sides` maps an adapted weight to the names of its L and R, and whether the node
    keeps its matrix transposed."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    sides: dict[str, tuple[str, str, bool]] = field(default_factory=dict)


def adapt(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
    useful: Iterable[str],
    low_rank: LowRank,
    fresh: Callable[[str], str],
) -> Adapted:
    """Put an adapter beside every wanted weight among `useful` that can have one. Raises ModelError if none can."""
    found = Adapted(shapes=dict(shapes))
    able, rng = set(useful), np.random.default_rng(0)
    for node in nodes:
        weight = _adaptable(node, weights)
        if weight is None or weight not in able or not low_rank.wants(weight):
            found.nodes.append(node)
            continue
        transposed = node.op_type == "Conv" or bool(attributes_of(node).get("transB", 0))
        if weight not in found.sides:
            rows, columns = weights[weight].dims[:2][::-1] if transposed else weights[weight].dims[:2]
            left, right = fresh(f"{weight}.lora_left"), fresh(f"{weight}.lora_right")
            spread = 1.0 / np.sqrt(rows)
            found.values[left] = rng.uniform(-spread, spread, (rows, low_rank.rank)).astype(np.float32)
            found.values[right] = np.zeros((low_rank.rank, columns), np.float32)
            found.sides[weight] = (left, right, transposed)
        if found.sides[weight][2] != transposed:
            raise ModelError(
                f"weight {weight!r} is used both as it is and transposed: it cannot have an adapter",
                hint="name the weights that shall have one: --lora-target GLOB",
            )
        _put_beside(found, node, *found.sides[weight][:2], low_rank.scale, fresh)
    if not found.sides:
        raise ModelError(
            "no weight of the model can have an adapter",
            hint="adapters go beside the constant matrices of MatMul, Gemm and Conv with a 1×1 kernel",
        )
    return found


def _adaptable(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> str | None:
    """The name of the constant matrix of a node that can have an adapter."""
    if node.op_type not in ("MatMul", "Gemm", "Conv") or len(node.input) < 2 or node.input[1] not in weights:
        return None
    weight, attributes = weights[node.input[1]], attributes_of(node)
    if weight.data_type != onnx.TensorProto.FLOAT:
        return None
    if node.op_type == "Conv":
        fits = len(weight.dims) > 2 and set(weight.dims[2:]) == {1} and attributes.get("group", 1) == 1
        return weight.name if fits and not any(attributes.get("pads", ())) else None
    if node.op_type == "Gemm" and (attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0):
        return None
    return weight.name if len(weight.dims) == 2 else None


def _put_beside(
    found: Adapted, node: onnx.NodeProto, left: str, right: str, scale: float, fresh: Callable[[str], str]
) -> None:
    """node, then y + scale · (x · left) · right under the name of y."""
    y = node.output[0]
    plain, low, high, scaled = (fresh(f"{y}.{part}") for part in ("plain", "low", "high", "adapter"))
    factor = fresh("lora_scale")
    found.constants[factor] = numpy_helper.from_array(np.array(scale, np.float32), factor)
    kept = onnx.NodeProto()
    kept.CopyFrom(node)
    kept.output[0] = plain
    rank = found.values[left].shape[1]
    full = found.shapes[y]
    if node.op_type == "Conv":
        branch, low_shape = _conv_branch(found, node, left, right, low, high, fresh), (full[0], rank, *full[2:])
    else:
        branch = [
            helper.make_node("MatMul", [node.input[0], left], [low], low),
            helper.make_node("MatMul", [low, right], [high], high),
        ]
        low_shape = (*full[:-1], rank)
    found.nodes += [
        kept,
        *branch,
        helper.make_node("Mul", [high, factor], [scaled], scaled),
        helper.make_node("Add", [plain, scaled], [y], fresh(f"{node.name}.adapted")),
    ]
    found.shapes.update({plain: full, high: full, scaled: full, low: low_shape, factor: ()})
    found.shapes.update({name: found.values[name].shape for name in (left, right)})


def _conv_branch(
    found: Adapted, node: onnx.NodeProto, left: str, right: str, low: str, high: str, fresh: Callable[[str], str]
) -> list[onnx.NodeProto]:
    """Two 1×1 convolutions; the first keeps the stride."""
    spatial = len(found.shapes[node.output[0]]) - 2
    (rows, rank), columns = found.values[left].shape, found.values[right].shape[1]
    nodes, kernels = [], []
    for matrix, dims in ((left, (rank, rows)), (right, (columns, rank))):
        turned, shape, kernel = fresh(f"{matrix}.turned"), fresh(f"{matrix}.shape"), fresh(f"{matrix}.kernel")
        full = (*dims, *(1,) * spatial)
        found.constants[shape] = numpy_helper.from_array(np.array(full, np.int64), shape)
        nodes.append(helper.make_node("Transpose", [matrix], [turned], turned, perm=[1, 0]))
        nodes.append(helper.make_node("Reshape", [turned, shape], [kernel], kernel))
        found.shapes.update({turned: dims, kernel: full, shape: (len(full),)})
        kernels.append(kernel)
    strides = attributes_of(node).get("strides", [1] * spatial)
    nodes.append(helper.make_node("Conv", [node.input[0], kernels[0]], [low], low, strides=strides))
    nodes.append(helper.make_node("Conv", [low, kernels[1]], [high], high))
    return nodes
