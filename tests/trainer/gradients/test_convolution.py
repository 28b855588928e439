"""Convolutions, and the laws that derivatives of linear operators obey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.gradient_cases import C, Case, check, run

from edgefl.trainer.gradients import RULES, Node, UnsupportedOperatorError
from edgefl.trainer.gradients.window import window_of
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
    C("Conv", (3, 4, 4), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1], strides=[2, 2]),
    C("Conv", (16, 3, 3), (2, 16, 2, 2), (2,)),
    C("Conv", (16, 4, 5), (2, 16, 2, 2), dilations=[2, 1], pads=[1, 0, 0, 1]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    groups=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 16]),
)
def test_the_gradients_of_any_convolution_are_its_adjoints(
    kernel: Any, strides: Any, dilations: Any, pads: Any, size: Any, groups: int, channels: int
) -> None:
    """Convolution is linear in x and in w: ⟨dy, conv(u, w)⟩ = ⟨dx, u⟩ and ⟨dy, conv(x, v)⟩ = ⟨dw, v⟩."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(n + a + b >= s for n, a, b, s in zip(size, pads[:2], pads[2:], spans, strict=True)))
    rng = np.random.default_rng(0)
    shapes = {"x": (3, groups * channels, *size), "w": (2 * groups, channels, *kernel)}
    x, w, u, v = (rng.normal(size=shapes[name]).astype(np.float32) for name in "xwxw")
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}

    def conv(left: Any, right: Any) -> Any:
        graph = Graph(taken={"x", "w"})
        y = graph.op("Conv", Value(graph, "x"), Value(graph, "w"), **attributes)
        return run(graph, {"x": left, "w": right}, y, 4)

    dy = rng.normal(size=conv(x, w).shape).astype(np.float32)
    found = {}
    for i, name in enumerate("xw"):
        graph = Graph(taken={"x", "w", "dy"})
        given_ = tuple(Value(graph, n, (None, *shapes[n][1:]) if n == "x" else shapes[n]) for n in "xw")
        y = Value(graph, "y", (None, *dy.shape[1:]))
        node = Node(graph, "Conv", "conv", given_, (y,), attributes)
        gradient = RULES["Conv"].gradient(node, Value(graph, "dy"))[i]
        assert gradient is not None
        found[name] = run(graph, {"x": x, "w": w, "dy": dy}, gradient, 4)
        assert found[name].shape == shapes[name]
    near = {"rel": 1e-3, "abs": 1e-3 * float(np.linalg.norm(dy))}
    assert np.vdot(dy, conv(u, w)) == pytest.approx(np.vdot(found["x"], u), **near)
    assert np.vdot(dy, conv(x, v)) == pytest.approx(np.vdot(found["w"], v), **near)


def test_a_window_that_contradicts_its_input_is_refused() -> None:
    x = Value(Graph(), "x", (None, 1, 4, 4))
    for attributes in ({"strides": [1]}, {"pads": [1, 1]}, {"pads": [-1, 0, 0, 0]}, {"dilations": [1, 1, 1]}):
        with pytest.raises(UnsupportedOperatorError, match="do not fit"):
            window_of(Node(x.graph, "Conv", "conv", (x,), (x,), attributes), (3, 3))
    wide = Value(Graph(), "x", (None, 1, None, 4))
    with pytest.raises(UnsupportedOperatorError, match="not fixed"):
        window_of(Node(wide.graph, "Conv", "conv", (wide,), (wide,), {}), (3, 3))
