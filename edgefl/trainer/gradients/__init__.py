"""The derivatives: one rule per ONNX operator, one module per family, one table.

A rule receives the forward node and dy, the gradient of the loss with respect to the node's output (one for each output
that carries a gradient, if there are several), and returns the gradients with respect to the node's inputs, in order
(None: carries no gradient; absent ones may be left off).
Notation: x, a, b, … inputs, y the output, dx = ∂loss/∂x, always of the shape of x. Rules write mathematics and do not
care whether a gradient is wanted: what nobody uses is dropped from the finished graph.

    differentiate.py  reverse mode, by the table
    rule.py           what a rule is given; what it says of nodes that it cannot differentiate
    forward.py        rules that want more of the forward node than its result
    dense.py          MatMul, Gemm
    elementwise.py    arithmetic with broadcasting, powers, Min and Max, Where, Cast
    reduction.py      sums, means, norms and extremes along axes
    activation.py     Relu, Sigmoid, Tanh and their family
    softmax.py        Softmax, LogSoftmax, Hardmax
    window.py         the sliding window of the next two
    convolution.py    Conv, ConvTranspose
    pooling.py        MaxPool, AveragePool and their global forms
    resize.py         Resize
    normalization.py  over the batch, a layer, groups of channels
    shape.py          the same elements in another shape or order
    indexing.py       some of the elements, or more of them: Gather, Slice, Split, Concat, Pad, Expand, Tile
    recurrent.py      LSTM, GRU

To add an operator: write its rule, put it into the module's table with its opset in mind, and add a case to
tests/trainer/gradients/, where every entry of the table is checked against finite differences.
"""

from __future__ import annotations

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import (
    activation,
    convolution,
    dense,
    elementwise,
    indexing,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    shape,
    softmax,
)
from edgefl.trainer.gradients.rule import CONSTANT, Node, Rule

RULES: dict[str, Rule] = {
    **dense.RULES,
    **elementwise.RULES,
    **reduction.RULES,
    **activation.RULES,
    **softmax.RULES,
    **convolution.RULES,
    **pooling.RULES,
    **resize.RULES,
    **normalization.RULES,
    **shape.RULES,
    **indexing.RULES,
    **recurrent.RULES,
}

__all__ = ["CONSTANT", "RULES", "Node", "Rule", "UnsupportedOperatorError"]
