"""Convolution over one or two spatial axes (three work by the same formulas), with stride, padding, dilation, groups.

With columns Xᶜ (each output place's receptive field as a column) the forward pass is the matrix product Y = W · Xᶜ,
hence dW = dY · Xᶜᵀ and dX = Wᵀ · dY folded back, which is ConvTranspose.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from edgefl.trainer.gradients.dense import gemm
from edgefl.trainer.gradients.rule import Node, Rule, fixed
from edgefl.trainer.gradients.window import Window, window_of
from edgefl.trainer.graph import Value

MANY_CHANNELS = 16
"""From here on one matrix product per kernel place beats writing all columns out (measured: 1.5-1.8 times at 16 to 32
channels, about equal at 64; with 1 to 6 channels it is 1.2-3 times slower)."""


def _conv(n: Node, dy: Value) -> list[Value]:
    x, w, *bias = n.operands
    channels_out, channels_in, *kernel = fixed(n, w, range(w.rank))
    window, groups = window_of(n, tuple(kernel)), n.attribute("group", 1)
    if fixed(n, x, [1]) != (groups * channels_in,) or channels_out % groups:
        raise n.unsupported("its channels, weights and groups do not fit each other")
    dx = n.graph.op(
        "ConvTranspose",
        dy,
        w,
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        output_padding=window.slack,
        group=groups,
    )
    shifted = groups == 1 and channels_in >= MANY_CHANNELS and set(window.strides) == {1} and window.area > 1
    dw = _by_shifts(x, dy, window) if shifted else _by_columns(x, dy, window, groups, channels_in)
    dw = dw.reshape(channels_out, channels_in, *kernel)
    return [dx, dw, *(dy.sum(0, *window.axes) for _ in bias)]


def _by_columns(x: Value, dy: Value, window: Window, groups: int, channels_in: int) -> Value:
    """dW[g] = Σₙ dY[n, g] · Xᶜ[n, g]ᵀ. The columns are themselves a convolution: with the unit kernels."""
    channels = groups * channels_in
    columns = x
    if window.area > 1 or set(window.strides) != {1} or any(window.pads):
        units = np.eye(window.area, dtype=np.float32).reshape(1, window.area, 1, *window.kernel)
        kernels = np.broadcast_to(units, (channels, *units.shape[1:])).reshape(-1, 1, *window.kernel)
        columns = x.graph.op(
            "Conv",
            x,
            x.graph.constant(kernels),
            strides=window.strides,
            dilations=window.dilations,
            pads=window.pads,
            group=channels,
        )
    places = int(np.prod(window.out))
    if groups == 1:
        product_ = dy.reshape(0, -1, places) @ columns.reshape(0, -1, places).transpose(0, 2, 1)
    else:
        left = dy.reshape(0, groups, -1, places)
        product_ = left @ columns.reshape(0, groups, -1, places).transpose(0, 1, 3, 2)
    return product_.sum(0)


def _by_shifts(x: Value, dy: Value, window: Window) -> Value:
    """dW[:, :, k] = dY · (X shifted by k)ᵀ, one product per kernel place k, batch and places as one long axis."""
    order = (1, 0, *window.axes)
    field = x.pad(window.axes, window.before, window.after).transpose(*order)
    flat = dy.transpose(*order)
    flat = x.graph.op("Flatten", flat, axis=1)
    terms = []
    for place in product(*(range(k) for k in window.kernel)):
        starts = [k * d for k, d in zip(place, window.dilations, strict=True)]
        stops = [start + out for start, out in zip(starts, window.out, strict=True)]
        shifted = x.graph.op("Flatten", field.slice(window.axes, starts, stops), axis=1)
        terms.append(x.graph.op("Unsqueeze", gemm(flat, shifted, False, True), x.graph.integers([2])))
    return x.graph.op("Concat", *terms, axis=2)


RULES = {"Conv": Rule(_conv)}
