"""The sliding window that convolutions and pools share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edgefl.trainer.gradients.rule import Node, fixed
from edgefl.trainer.graph import Value

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
        sizes = zip(self.size, self.before, self.after, self.spans, strict=True)
        return tuple(n + b + a - span for n, b, a, span in sizes)

    @property
    def spans(self) -> Ints:
        """From the first place of the first window to the last place of the last."""
        sizes = zip(self.out, self.strides, self.kernel, self.dilations, strict=True)
        return tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in sizes)

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
    def trivial(self) -> bool:
        """Whether every window is one input place, and every input place has one."""
        return self.area == 1 and set(self.strides) == {1} and not any(self.pads)

    @property
    def area(self) -> int:
        return math.prod(self.kernel)

    @property
    def places(self) -> int:
        """How many windows there are."""
        return math.prod(self.out)


def window_of(n: Node, kernel: Ints) -> Window:
    """Read the attributes of a Conv or pool node, padding modes resolved. Raises UnsupportedOperatorError."""
    window = _window(n, kernel, n.x, n.y)
    mode = n.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return window
    if mode == "VALID":
        return _padded(window, (0,) * len(kernel), mode)
    if any(d != 1 for d in window.dilations):  # ONNX Runtime refuses it for Conv and gives pools another shape
        raise n.unsupported(f"dilations with auto_pad {mode}", "export it with explicit pads")
    return _padded(window, tuple(span - size for span, size in zip(window.spans, window.size, strict=True)), mode)


def transposed_window_of(n: Node, kernel: Ints) -> Window:
    """The window of the convolution that a ConvTranspose node is the adjoint of: it reads y and writes x. Its slack is
    the node's output_padding. Raises UnsupportedOperatorError."""
    window = _window(n, kernel, n.y, n.x)
    mode, given = n.attribute("auto_pad", "NOTSET"), "output_shape" in n.attributes
    extra = tuple(n.attribute("output_padding", (0,) * len(kernel)))
    if given or mode.startswith("SAME"):
        if any(extra) and not given:
            raise n.unsupported("output_padding with auto_pad", "export it with explicit pads")
        reached = zip(window.spans, extra, window.size, strict=True)
        window = _padded(window, tuple(span + more - size for span, more, size in reached), mode)
    elif mode == "VALID":
        window = _padded(window, (0,) * len(kernel), mode)
    if window.slack != extra or any(e >= s for e, s in zip(extra, window.strides, strict=True)):
        raise n.unsupported("its output reaches beyond what stride, kernel and an output_padding below the stride give")
    return window


def _window(n: Node, kernel: Ints, x: Value, y: Value) -> Window:
    """With explicit pads."""
    axes = tuple(range(2, n.x.rank))
    size, out = fixed(n, x, axes), fixed(n, y, axes)
    ones = (1,) * len(axes)
    strides, dilations = tuple(n.attribute("strides", ones)), tuple(n.attribute("dilations", ones))
    pads = tuple(n.attribute("pads", (0,) * 2 * len(axes)))
    before, after = pads[: len(axes)], pads[len(axes) :]
    if {len(kernel), len(strides), len(dilations), len(before), len(after)} != {len(axes)} or min(before + after) < 0:
        raise n.unsupported("its kernel, strides, dilations and pads do not fit its input")
    return Window(kernel, strides, dilations, before, after, size, out, axes)


def _padded(window: Window, total: Ints, mode: str) -> Window:
    """So much padding in all (none where negative), shared by both ends; SAME_UPPER puts an odd place behind."""
    less = tuple(max(0, t) // 2 for t in total)
    more = tuple(max(0, t) - few for t, few in zip(total, less, strict=True))
    before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    return replace(window, before=before, after=after)
