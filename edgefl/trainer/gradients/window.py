"""The sliding window that convolutions and pools share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgefl.trainer.gradients.rule import Node, fixed

Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """One entry per spatial axis. Output place o, kernel place k read input place o·stride + k·dilation − before."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    before: Ints
    after: Ints
    size: Ints
    out: Ints
    axes: Ints

    @property
    def pads(self) -> Ints:
        """As ONNX writes them."""
        return (*self.before, *self.after)

    @property
    def slack(self) -> Ints:
        """Input places behind the last window (negative: ceil_mode lets the last window stick out)."""
        sizes = zip(
            self.size, self.before, self.after, self.out, self.strides, self.kernel, self.dilations, strict=True
        )
        return tuple(n + b + a - (o - 1) * s - (k - 1) * d - 1 for n, b, a, o, s, k, d in sizes)

    @property
    def tiles(self) -> bool:
        """Whether the windows lie side by side: every input place is in at most one."""
        return (
            self.kernel == self.strides
            and not any(self.pads)
            and all(d == 1 for d in self.dilations)
            and min(self.slack) >= 0
        )

    @property
    def area(self) -> int:
        return math.prod(self.kernel)


def window_of(n: Node, kernel: tuple[int, ...]) -> Window:
    """Read the attributes of a Conv or pool node, padding modes resolved. Raises UnsupportedOperatorError."""
    axes = tuple(range(2, n.x.rank))
    size, out = fixed(n, n.x, axes), fixed(n, n.y, axes)
    ones = (1,) * len(axes)
    strides, dilations = tuple(n.attribute("strides", ones)), tuple(n.attribute("dilations", ones))
    pads = tuple(n.attribute("pads", (0,) * 2 * len(axes)))
    before, after = pads[: len(axes)], pads[len(axes) :]
    mode = n.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        before = after = (0,) * len(axes)
    elif mode != "NOTSET":
        spans = zip(size, out, strides, kernel, dilations, strict=True)
        total = [max(0, (o - 1) * s + (k - 1) * d + 1 - i) for i, o, s, k, d in spans]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    if {len(kernel), len(strides), len(dilations), len(before), len(after)} != {len(axes)} or min(before + after) < 0:
        raise n.unsupported("its kernel, strides, dilations and pads do not fit its input")
    return Window(kernel, strides, dilations, before, after, size, out, axes)
