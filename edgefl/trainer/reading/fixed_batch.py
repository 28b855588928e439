"""Models that were exported for one batch size: where the batch is in each tensor, and Reshape targets without it.

The first dimension of every input becomes the batch. A constant Reshape target holds the exported batch size B as a
number; which of its elements grows with the batch follows from the order of elements in memory, which Reshape keeps.
The batch index moves in steps of `stride` elements: all that varies faster. A dimension p of the target whose own
elements lie s apart holds the batch if stride and B · stride lie between s and target[p] · s.

For B = 1 two neighbours can both claim it ([T, 1, E] → [T, E] may mean [T · N, E] or [T, N · E]). A dimension that is
exactly B decides; otherwise the target stays as it is, and the node is refused where it does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from edgefl.trainer.reading.shapes import Dims, Trial, exported_shape, reshaped


class FixedBatch:
    """`inside`: of tensors whose batch is part of a larger dimension, how much of that dimension varies faster."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.inside: dict[str, int] = {}

    def visit(self, node: onnx.NodeProto, trials: Sequence[Trial]) -> None:
        """After the node's shapes are known: note where the batch is in its outputs."""
        if node.op_type == "Reshape":
            stride = self._stride(node.input[0], trials)
            shape, axis = self._exported(node.output[0], trials)
            if stride and shape and axis is not None:
                self.inside[node.output[0]] = stride // math.prod(shape[axis + 1 :])
            return
        sizes: dict[int, int] = {}
        for name in filter(None, node.input):
            shape, axis = self._exported(name, trials)
            if shape and axis is not None and name in self.inside:
                known = sizes.setdefault(shape[axis], self.inside[name])
                sizes[shape[axis]] = known if known == self.inside[name] else 0  # 0: they contradict each other
        for name in filter(None, node.output):
            shape, axis = self._exported(name, trials)
            if shape and axis is not None and shape[axis] in sizes:
                self.inside[name] = sizes[shape[axis]]

    def target(self, node: onnx.NodeProto, trials: Sequence[Trial], target: list[int]) -> list[int]:
        """The node's target with -1 where the batch is; unchanged if that is not certain."""
        stride = self._stride(node.input[0], trials)
        shape, axis = self._exported(node.input[0], trials)
        if not stride or not shape or axis is None:
            return target
        full = reshaped(node, shape, target)
        if full is None:
            return target
        places = [p for p in range(len(full)) if self._holds(full, p, stride)]
        exact = [p for p in places if full[p] == self.batch and math.prod(full[p + 1 :]) == stride]
        if len(exact) > 1 and axis in exact:
            exact = [axis]
        chosen = exact or places
        return [-1 if p == chosen[0] else n for p, n in enumerate(full)] if len(chosen) == 1 else target

    def _holds(self, target: list[int], place: int, stride: int) -> bool:
        step = math.prod(target[place + 1 :])
        return stride % step == 0 and step * target[place] % (stride * self.batch) == 0

    def _stride(self, name: str, trials: Sequence[Trial]) -> int | None:
        """How many elements apart two neighbouring samples are; None where the batch cannot be located."""
        shape, axis = self._exported(name, trials)
        if shape is None or axis is None or min(shape) < 1:
            return None
        pure = shape[axis] == self.batch
        inside = 1 if pure else self.inside.get(name)
        return inside * math.prod(shape[axis + 1 :]) if inside else None

    def _exported(self, name: str, trials: Sequence[Trial]) -> tuple[Dims | None, int | None]:
        """A tensor's shape at the exported batch size, and its one axis that grows with the batch."""
        small, large = (trial.shape(name) for trial in trials)
        if small is None or large is None or len(small) != len(large):
            return None, None
        axes = [i for i, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
        shape = exported_shape(small, large, self.batch)
        return (shape, axes[0]) if shape and len(axes) == 1 else (None, None)
