"""The derivatives: one rule per ONNX operator, one module per family, one table.

A rule receives the forward node and dy, the gradient of the loss with respect to the node's output (one for each output
that carries a gradient, if there are several), and returns the gradients with respect to the node's inputs, in order
(None: carries no gradient; absent ones may be left off).
Notation: x, a, b, … inputs, y the output, dx = ∂loss/∂x, always of the shape of x. Rules write mathematics and do not
care whether a gradient is wanted: what nobody uses is dropped from the finished graph.

    dense.py        MatMul, Gemm
    elementwise.py  Add, Sub, Mul, with broadcasting
    activation.py   Relu, Sigmoid, Tanh
    convolution.py  Conv
    pooling.py      MaxPool, AveragePool, GlobalAveragePool
    shape.py        Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Identity
    softmax.py      Softmax, LogSoftmax

To add an operator: write its rule, put it into the module's table with its opset in mind, and add a case to
tests/trainer/test_gradients.py, which checks every entry of the table against finite differences.
"""

from __future__ import annotations

from edgefl.trainer.gradients import activation, convolution, dense, elementwise, pooling, shape, softmax
from edgefl.trainer.gradients.rule import CONSTANT, Node, Rule, UnsupportedOperatorError

RULES: dict[str, Rule] = {
    **dense.RULES,
    **elementwise.RULES,
    **activation.RULES,
    **convolution.RULES,
    **pooling.RULES,
    **shape.RULES,
    **softmax.RULES,
}

__all__ = ["CONSTANT", "RULES", "Node", "Rule", "UnsupportedOperatorError"]
