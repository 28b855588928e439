"""Convolution and its transpose over one or two spatial axes (three work by the same formulas), with stride, padding,
dilation and groups.

With columns Xᶜ (each output place's receptive field as a column) the forward pass is the matrix product Y = W · Xᶜ,
hence dW = dY · Xᶜᵀ, and dX = Wᵀ · dY folded back, which is ConvTranspose. ConvTranspose itself is that adjoint:
its dX is a convolution of dY, and its dW that of a convolution that reads dY and writes X.

dX has one good recipe, dW has several. Which is fastest was measured for batches of 8 to 32 images of 7 to 96 pixels
and 1 to 128 channels, one thread; at batch 128 the large intermediate arrays cost what the fewer products save.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product

import numpy as np

from edgefl.trainer.gradients.forward import replacing
from edgefl.trainer.gradients.rule import MAX_TABLE, Node, Rule, fixed, padded
from edgefl.trainer.gradients.window import Window, transposed_window_of, window_of
from edgefl.trainer.graph import Array, Value

MANY_CHANNELS = 16
"""From here on one matrix product per kernel place beats writing all columns out (1.4 to 1.8 times at 16 to 128
channels; with 1 to 6 channels it is 1.2 to 3 times slower)."""

FEW_CHANNELS = 4
"""Below this, with small kernels, writing all columns out is fastest; from here to MANY_CHANNELS one product per kernel
row is (1.2 to 2 times faster than all columns, 1.1 to 1.8 times faster than one product per place)."""

LARGE_KERNEL = 25
"""Kernel places from which a product per kernel row is fastest however few channels there are (1.1 to 2 times)."""

NARROW = 64
"""Up to this width the products of whole image rows are the fastest way to the weights of depthwise convolution (1.4
to 6 times faster than columns); their work grows with the width, and at 96 shifted images win (1.3 times)."""

SMALL = 64 * 64
"""Places of x times places of y up to which a depthwise convolution is a matrix for each channel: images of 8 × 8. The
work grows with this product, and from 16 × 16 on it outweighs what the matrix saves."""

Channels = tuple[int, int]
"""In one group: of y, of x."""


def _conv(n: Node, dy: Value) -> list[Value]:
    x, w, *bias = n.operands
    channels_out, channels_in, *kernel = shape = fixed(n, w, range(w.rank))
    window, groups = window_of(n, tuple(kernel)), n.attribute("group", 1)
    if fixed(n, x, [1]) != (groups * channels_in,) or channels_out % groups:
        raise n.unsupported("its channels, weights and groups do not fit each other")
    dbias = [dy.sum(0, *window.axes) for _ in bias]
    if groups == channels_out > channels_in == 1 and math.prod(window.size) * window.places <= SMALL:
        return [*_small_depthwise(n, dy, window), *dbias]
    dy, factor = n.graph.factors.get(dy.name, (dy, None))
    if factor is not None:  # what normalises y multiplies by it: here it meets the few numbers of w and dw instead
        factor = factor.reshape(-1, *(1 for _ in shape[1:]))
        w = w * factor
    if groups == 1 and window.trivial:
        # a plain product of matrices, at which Conv is 1.2 to 1.6 times faster than ConvTranspose
        dx = n.graph.op("Conv", dy, w.transpose(1, 0, *window.axes))
    else:
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
    dw = _weights(x, dy, shape, window, groups)
    return [dx, dw if factor is None else dw * factor, *dbias]


def _small_depthwise(n: Node, dy: Value, window: Window) -> tuple[Value, Value]:
    """dX and dW of a depthwise convolution of small images: for each channel Y = X · M, where the rows of X and Y are
    images of the batch and M holds the kernel at every output place. ONNX Runtime's own kernel convolves image by
    image and channel by channel: forwards this takes 0.15 to 0.4 of its time, dX 0.15 to 0.4 of that of ConvTranspose
    (32 images of 4 to 8 pixels). M costs the same whatever the batch; two images pay for it."""
    graph, (x, w, *bias) = n.graph, n.operands
    channels, swapped = w.shape[0] or 0, (1, 0, *window.axes)
    places = math.prod(window.size), window.places
    n.require_room(channels, *places)
    reads = reduce(np.kron, (_reads(window, i) for i in range(len(window.axes)))).reshape(window.area, -1)
    with replacing(n):
        matrices = (w.reshape(channels, -1) @ graph.constant(reads)).reshape(channels, *places)
        images = x.transpose(*swapped).reshape(channels, -1, places[0])
        y = (images @ matrices).reshape(channels, -1, *window.out)
        if bias:
            y = y + bias[0].reshape(-1, *(1 for _ in (0, *window.axes)))
        graph.op("Transpose", y, perm=swapped, names=[n.y.name])
    slopes = dy.transpose(*swapped).reshape(channels, -1, places[1])
    dx = graph.matmul(slopes, matrices, (3, 3), transpose_b=True).reshape(channels, -1, *window.size)
    pairs = graph.matmul(images, slopes, (3, 3), transpose_a=True).reshape(channels, -1)
    dw = graph.matmul(pairs, graph.constant(reads), (2, 2), transpose_b=True)
    return dx.transpose(*swapped), dw.reshape(*(n or 0 for n in w.shape))


def _conv_transpose(n: Node, dy: Value) -> list[Value]:
    x, w, *bias = n.operands
    channels_in, _, *kernel = shape = fixed(n, w, range(w.rank))
    window, groups = transposed_window_of(n, tuple(kernel)), n.attribute("group", 1)
    if fixed(n, x, [1]) != (channels_in,) or channels_in % groups:
        raise n.unsupported("its channels, weights and groups do not fit each other")
    dx = n.graph.op("Conv", dy, w, strides=window.strides, dilations=window.dilations, pads=window.pads, group=groups)
    return [dx, _weights(dy, x, shape, window, groups), *(dy.sum(0, *window.axes) for _ in bias)]


def _weights(x: Value, dy: Value, shape: Sequence[int], window: Window, groups: int) -> Value:
    """dW, of the given shape, of a convolution that reads x and writes y."""
    channels = shape[0] // groups, shape[1]
    columns_fit = groups * channels[1] * window.area**2 <= MAX_TABLE
    if channels[1] == 1 and groups > 1:
        narrow = len(window.axes) == 2 and window.size[1] <= NARROW
        rows_fit = narrow and window.size[1] * window.out[1] * window.kernel[1] <= MAX_TABLE
        recipe = _depthwise_by_rows if rows_fit else _depthwise_by_shifts
    elif not columns_fit:
        recipe = _by_shifts
    elif window.area == 1 or set(window.strides) != {1}:
        recipe = _by_columns
    elif channels[1] >= MANY_CHANNELS:
        recipe = _by_shifts
    elif channels[1] >= FEW_CHANNELS or window.area >= LARGE_KERNEL:
        recipe = _by_kernel_rows
    else:
        recipe = _by_columns
    return recipe(x, dy, window, groups, channels).reshape(*shape)


def _by_columns(x: Value, dy: Value, window: Window, groups: int, channels: Channels) -> Value:
    """dW[g] = Σₙ dY[n, g] · Xᶜ[n, g]ᵀ. The columns are themselves a convolution: with the unit kernels."""
    inputs = groups * channels[1]
    columns = x
    if not window.trivial:
        units = np.eye(window.area, dtype=np.float32).reshape(1, window.area, 1, *window.kernel)
        kernels = np.broadcast_to(units, (inputs, *units.shape[1:])).reshape(-1, 1, *window.kernel)
        columns = x.graph.op(
            "Conv",
            x,
            x.graph.constant(kernels),
            strides=window.strides,
            dilations=window.dilations,
            pads=window.pads,
            group=inputs,
        )
    stack = () if groups == 1 else (groups,)
    left, right = (value.reshape(0, *stack, -1, window.places) for value in (dy, columns))
    rank = 3 + len(stack)
    return x.graph.matmul(left, right, (rank, rank), transpose_b=True).sum(0)


def _by_shifts(x: Value, dy: Value, window: Window, groups: int, channels: Channels) -> Value:
    """dW[:, :, k] = dY · (X shifted by k)ᵀ, one product per kernel place k, batch and places as one long axis."""
    return _products(dy, _field(x, window), window, range(len(window.axes)), groups, channels)


def _by_kernel_rows(x: Value, dy: Value, window: Window, groups: int, channels: Channels) -> Value:
    """The same with the shifts along the last axis stacked as channels: one product per kernel row."""
    *others, last = range(len(window.axes))
    field, width = _field(x, window), window.kernel[last]
    shifted = [_shifted(field, window, [last], [k]).reshape(groups, channels[1], -1) for k in range(width)]
    heights = [window.size[i] + window.before[i] + window.after[i] for i in others]
    stacked = x.graph.op("Concat", *shifted, axis=1)
    stacked = stacked.reshape(groups * width * channels[1], -1, *heights, window.out[last])
    dw = _products(dy, stacked, window, others, groups, (channels[0], width * channels[1]))
    return dw.reshape(0, width, channels[1], -1).transpose(0, 2, 3, 1)


def _depthwise_by_rows(x: Value, dy: Value, window: Window, groups: int, channels: Channels) -> Value:
    """All products of an input row with the output row that it acts on, summed over rows and batch: per kernel row a
    matrix [width of x, width of y]. dW is the sums along the diagonals of that matrix."""
    kernels, width, width_out = channels[0], window.size[1], window.out[1]
    field = padded(x, 4, [2], window.before[:1], window.after[:1]).transpose(1, 0, 2, 3)
    rows_out = dy.transpose(1, 0, 2, 3).reshape(groups, kernels, -1, width_out)
    terms = []
    for place in range(window.kernel[0]):
        rows = _shifted(field, window, [0], [place]).reshape(groups, 1, -1, width)
        pairs = x.graph.matmul(rows, rows_out, (4, 4), transpose_a=True)
        terms.append(pairs.reshape(groups * kernels, 1, width * width_out))
    return x.graph.op("Concat", *terms, axis=1) @ x.graph.constant(_diagonals(window))


def _diagonals(window: Window) -> Array:
    """[width of x · width of y, kernel places]: 1 where the output place reads the input place by the kernel place."""
    diagonals: Array = _reads(window, 1).reshape(window.kernel[1], -1).T
    return diagonals


def _reads(window: Window, axis: int) -> Array:
    """[kernel places, places of x, places of y] along one axis: 1 where y reads x by the kernel place."""
    kernel, out = np.arange(window.kernel[axis])[:, None], np.arange(window.out[axis])
    reads = out * window.strides[axis] + kernel * window.dilations[axis] - window.before[axis]
    read: Array = (np.arange(window.size[axis])[:, None] == reads[:, None]).astype(np.float32)
    return read


def _depthwise_by_shifts(x: Value, dy: Value, window: Window, groups: int, channels: Channels) -> Value:
    """dW[:, k] = Σ dY · (X shifted by k), one product and one sum per kernel place k."""
    field = padded(x, 2 + len(window.axes), window.axes, window.before, window.after)
    factor = dy.reshape(0, groups, channels[0], *window.out)
    summed = (0, *range(3, 3 + len(window.axes)))
    terms = []
    for place in product(*map(range, window.kernel)):
        shifted = _shifted(field, window, range(len(place)), place).reshape(0, groups, 1, *window.out)
        terms.append((shifted * factor).sum(*summed).reshape(-1, 1))
    return x.graph.op("Concat", *terms, axis=1)


def _field(x: Value, window: Window) -> Value:
    """X with its padding, channels before batch."""
    rank = 2 + len(window.axes)
    return padded(x, rank, window.axes, window.before, window.after).transpose(1, 0, *window.axes)


def _products(
    dy: Value, field: Value, window: Window, shifted: Sequence[int], groups: int, channels: Channels
) -> Value:
    """dY · (field shifted by k)ᵀ for each place k of the kernel along the shifted axes, behind each other."""
    stack = () if groups == 1 else (groups,)
    rank = 2 + len(stack)
    left = dy.transpose(1, 0, *window.axes).reshape(*stack, channels[0], -1)
    terms = []
    for place in product(*(range(window.kernel[i]) for i in shifted)):
        right = _shifted(field, window, shifted, place).reshape(*stack, channels[1], -1)
        term = dy.graph.matmul(left, right, (rank, rank), transpose_b=True)
        terms.append(term.reshape(-1, channels[1], 1))
    return dy.graph.op("Concat", *terms, axis=2)


def _shifted(field: Value, window: Window, shifted: Sequence[int], place: Sequence[int]) -> Value:
    """What a kernel place reads, for every output place o along the shifted axes: field[o·stride + place·dilation]."""
    if not shifted:
        return field
    starts = [k * window.dilations[i] for i, k in zip(shifted, place, strict=True)]
    stops = [start + (window.out[i] - 1) * window.strides[i] + 1 for i, start in zip(shifted, starts, strict=True)]
    axes, steps = [window.axes[i] for i in shifted], [window.strides[i] for i in shifted]
    integers = field.graph.integers
    return field.graph.op("Slice", field, *(integers(numbers) for numbers in (starts, stops, axes, steps)))


RULES = {"Conv": Rule(_conv), "ConvTranspose": Rule(_conv_transpose)}
