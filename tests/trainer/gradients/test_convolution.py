"""Convolutions, their transposes, and the law that derivatives of linear operators obey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.adjoint import assert_adjoint
from support.gradient_cases import C, Case, check

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.gradients.window import transposed_window_of, window_of
from edgefl.trainer.graph import Graph, Value

CASES = [
    C("Conv", (2, 6), (3, 2, 3)),
    C("Conv", (2, 7), (3, 2, 3), (3,), strides=[2], pads=[1, 0]),
    C("Conv", (17, 6), (2, 17, 3), pads=[1, 1]),
    C("Conv", (1, 4, 4), (2, 1, 3, 3), (2,), pads=[1, 1, 1, 1]),
    C("Conv", (2, 5, 6), (3, 2, 3, 2), (3,)),
    C("Conv", (2, 5, 5), (3, 2, 1, 1), (3,)),
    C("Conv", (2, 5, 5), (3, 2, 1, 1), strides=[2, 2]),
    C("Conv", (2, 6, 6), (2, 2, 3, 3), strides=[2, 3], pads=[0, 1, 1, 0]),
    C("Conv", (2, 7, 7), (2, 2, 2, 2), dilations=[2, 3]),
    C("Conv", (2, 5, 5), (2, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    C("Conv", (2, 6, 6), (2, 2, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    C("Conv", (2, 5, 5), (2, 2, 3, 3), auto_pad="VALID"),
    C("Conv", (4, 4, 4), (4, 2, 3, 3), (4,), group=2, pads=[1, 1, 1, 1]),
    C("Conv", (8, 3, 4), (4, 4, 3, 2), group=2, pads=[1, 1, 1, 0]),
    C("Conv", (3, 4, 4), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1], strides=[2, 2]),
    C("Conv", (3, 3, 4), (3, 1, 3, 2), (3,), group=3, pads=[1, 0, 0, 1], strides=[1, 2]),
    C("Conv", (2, 9, 9), (2, 1, 3, 3), (2,), group=2, pads=[1, 1, 1, 1]),
    C("Conv", (3, 6, 5), (6, 1, 2, 3), (6,), group=3, dilations=[2, 1], pads=[1, 1, 0, 2]),
    C("Conv", (3, 7), (6, 1, 3), (6,), group=3, pads=[2, 0], strides=[2]),
    C("Conv", (16, 3, 3), (2, 16, 2, 2), (2,)),
    C("Conv", (16, 4, 5), (2, 16, 2, 2), dilations=[2, 1], pads=[1, 0, 0, 1]),
    C("Conv", (5, 4, 4), (2, 5, 3, 3), pads=[1, 1, 0, 0]),
    C("Conv", (1, 6, 6), (2, 1, 5, 5), (2,), pads=[2, 2, 1, 2]),
    C("Conv", (2, 3, 3, 3), (2, 2, 2, 2, 2), pads=[1, 0, 0, 0, 0, 1]),
    C("ConvTranspose", (2, 4), (2, 3, 3), (3,), strides=[2], pads=[1, 1], output_padding=[1]),
    C("ConvTranspose", (2, 2, 3), (2, 2, 3, 2), (2,)),
    C("ConvTranspose", (2, 3, 2), (2, 1, 4, 3), strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[0, 2]),
    C("ConvTranspose", (2, 2, 3), (2, 2, 2, 2), dilations=[2, 3], strides=[1, 2]),
    C("ConvTranspose", (1, 3, 3), (1, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    C("ConvTranspose", (1, 3, 3), (1, 2, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    C("ConvTranspose", (1, 3, 3), (1, 2, 3, 3), auto_pad="VALID", strides=[2, 2]),
    C("ConvTranspose", (1, 3, 3), (1, 2, 3, 3), auto_pad="SAME_UPPER", output_shape=[6, 5], strides=[2, 2]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


@pytest.mark.parametrize("case", [case for case in CASES if "group" in case.attributes], ids=lambda case: case.id)
def test_groups_need_no_operator_of_onnx_runtime_in_a_portable_graph(case: Case, session: Any) -> None:
    check(case, session, portable=True)


def normal(**shapes: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


pairs = {
    "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
    "pads": st.tuples(*[st.integers(0, 2)] * 4),
    "groups": st.integers(1, 3),
}


@settings(max_examples=60, deadline=None)
@given(
    **pairs,
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    kernels=st.integers(1, 2),
    channels=st.sampled_from([1, 2, 4, 16]),
)
def test_the_gradients_of_any_convolution_are_its_adjoints(
    kernel: Any, strides: Any, dilations: Any, pads: Any, size: Any, groups: int, kernels: int, channels: int
) -> None:
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(n + a + b >= s for n, a, b, s in zip(size, pads[:2], pads[2:], spans, strict=True)))
    inputs = normal(x=(3, groups * channels, *size), w=(kernels * groups, channels, *kernel))
    assert_adjoint("Conv", inputs, {"strides": strides, "dilations": dilations, "pads": pads, "group": groups})


# by this law alone where there are groups: the reference implementation of ONNX mistakes or refuses them here
@settings(max_examples=40, deadline=None)
@given(**pairs, size=st.tuples(st.integers(1, 4), st.integers(1, 4)), extra=st.tuples(*[st.integers(0, 2)] * 2))
def test_the_gradients_of_any_transposed_convolution_are_its_adjoints(
    kernel: Any, strides: Any, dilations: Any, pads: Any, size: Any, groups: int, extra: Any
) -> None:
    extra = tuple(min(e, s - 1) for e, s in zip(extra, strides, strict=True))
    geometry = zip(size, strides, kernel, dilations, extra, pads[:2], pads[2:], strict=True)
    assume(all((n - 1) * s + (k - 1) * d + 1 + e - a - b > 0 for n, s, k, d, e, a, b in geometry))
    inputs = normal(x=(3, 2 * groups, *size), w=(2 * groups, groups, *kernel))
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": extra, "group": groups}
    assert_adjoint("ConvTranspose", inputs, attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"output_shape": [6, 8]},
        {"output_shape": [5, 5]},
        {"output_shape": [6, 8], "output_padding": [1, 1]},
        {"output_shape": [6, 8], "output_padding": [1, 0], "auto_pad": "SAME_LOWER"},
        {"output_shape": [7, 9], "pads": [1, 1, 1, 1]},
        {"output_padding": [1, 0], "auto_pad": "VALID"},
    ],
    ids=str,
)
def test_an_output_shape_of_a_transposed_convolution_means_what_onnx_runtime_makes_of_it(attributes: Any) -> None:
    # the reference implementation of ONNX refuses most of these, though the specification defines them
    inputs = normal(x=(2, 2, 3, 4), w=(2, 3, 3, 3))
    assert_adjoint("ConvTranspose", inputs, {"strides": [2, 2], **attributes})


def test_depthwise_convolution_over_wide_images() -> None:
    inputs = normal(x=(2, 3, 3, 70), w=(6, 1, 2, 3))
    assert_adjoint("Conv", inputs, {"group": 3, "strides": [1, 2], "pads": [0, 1, 1, 1]})


def test_a_window_that_contradicts_its_input_is_refused() -> None:
    x = Value(Graph(), "x", (None, 1, 4, 4))
    with pytest.raises(UnsupportedOperatorError, match="dilations with auto_pad"):
        window_of(Node(x.graph, "Conv", "conv", (x,), (x,), {"auto_pad": "SAME_LOWER", "dilations": [2, 2]}), (3, 3))
    for attributes in ({"strides": [1]}, {"pads": [1, 1]}, {"pads": [-1, 0, 0, 0]}, {"dilations": [1, 1, 1]}):
        with pytest.raises(UnsupportedOperatorError, match="do not fit"):
            window_of(Node(x.graph, "Conv", "conv", (x,), (x,), attributes), (3, 3))
    wide = Value(Graph(), "x", (None, 1, None, 4))
    with pytest.raises(UnsupportedOperatorError, match="not fixed"):
        window_of(Node(wide.graph, "Conv", "conv", (wide,), (wide,), {}), (3, 3))


@pytest.mark.parametrize(
    ("attributes", "size", "what"),
    [
        ({"auto_pad": "SAME_UPPER", "output_padding": [1, 1]}, 9, "output_padding with auto_pad"),
        ({"output_shape": [10, 10]}, 10, "reaches beyond"),
        ({"output_padding": [2, 2]}, 11, "reaches beyond"),
        ({}, 8, "reaches beyond"),
    ],
)
def test_a_transposed_convolution_whose_output_is_not_clear_is_refused(attributes: Any, size: int, what: str) -> None:
    x = Value(Graph(), "x", (None, 1, 4, 4))
    y = Value(x.graph, "y", (None, 1, size, size))
    node = Node(x.graph, "ConvTranspose", "up", (x,), (y,), {"strides": [2, 2], **attributes})
    with pytest.raises(UnsupportedOperatorError, match=what):
        transposed_window_of(node, (3, 3))


@pytest.mark.parametrize(("operator", "w"), [("Conv", (2, 3, 1, 1)), ("ConvTranspose", (3, 2, 1, 1))])
def test_channels_that_do_not_fit_are_refused(operator: str, w: tuple[int, ...]) -> None:
    graph = Graph()
    x, y = Value(graph, "x", (None, 4, 2, 2)), Value(graph, "y", (None, 2, 2, 2))
    node = Node(graph, operator, "", (x, Value(graph, "w", w)), (y,), {})
    with pytest.raises(UnsupportedOperatorError, match="do not fit each other"):
        RULES[operator].gradient(node, Value(graph, "dy"))
