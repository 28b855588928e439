"""Resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.adjoint import assert_adjoint
from support.gradient_cases import Case, check

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import Graph, Value

TORCH_NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
KERAS_NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}


def scaled(x: tuple[int, ...], scales: list[float], **attributes: Any) -> Case:
    constants = {"scales": np.array(scales, np.float32)}
    return Case("Resize", x, constants=constants, attributes=attributes, inputs=("s", "", "scales"), opset=21)


def sized(x: tuple[int, ...], sizes: list[int], **attributes: Any) -> Case:
    axes = [*range(2, 2 + len(sizes))]
    attributes = {"axes": axes, **attributes}
    return Case("Resize", x, constants={"sizes": sizes}, attributes=attributes, inputs=("s", "", "", "sizes"), opset=21)


# few and small: the reference implementation takes seconds for each, and ONNX Runtime differs from it in align_corners
CASES = [
    scaled((1, 3), [1, 1, 2], **TORCH_NEAREST),
    scaled((1, 1, 2), [1, 1, 3, 2], **KERAS_NEAREST),
    sized((1, 2, 2), [2, 4], **TORCH_NEAREST),
    sized((1, 3, 2), [4, 3], mode="nearest"),
    scaled((1, 2, 2), [1, 1, 1.5, 2], mode="linear"),
    scaled((2, 3), [1, 1, 1], mode="linear"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id}-{next(iter(case.constants.values()))}")
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    out=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    by_scales=st.booleans(),
    attributes=st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["nearest", "linear", "cubic"]),
            "coordinate_transformation_mode": st.sampled_from(
                ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
            ),
            "nearest_mode": st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
            "exclude_outside": st.integers(0, 1),
        }
    ),
)
def test_the_gradient_of_any_resizing_is_its_adjoint(
    size: tuple[int, int], out: tuple[int, int], by_scales: bool, attributes: dict[str, Any]
) -> None:
    if attributes["mode"] != "cubic":
        del attributes["exclude_outside"]
    assume(not by_scales or all(n != o for n, o in zip(size, out, strict=True)))
    scales = [1, 1, *((o + 0.4) / n for o, n in zip(out, size, strict=True))]
    x = np.random.default_rng(0).normal(size=(3, 2, *size)).astype(np.float32)
    constants = {2: np.array(scales, np.float32)} if by_scales else {3: np.array([3, 2, *out])}
    assert_adjoint("Resize", {"x": x}, attributes, constants)


@pytest.mark.parametrize("antialias", [0, 1])
def test_the_gradient_of_shrinking_is_its_adjoint(antialias: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 9)).astype(np.float32)
    assert_adjoint("Resize", {"x": x}, {"mode": "linear", "antialias": antialias}, {3: np.array([2, 3, 3, 4])})


def test_channels_and_volumes_are_resized_too() -> None:
    rng = np.random.default_rng(0)
    flat, volume = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(2, 2, 2, 3, 2)).astype(np.float32)
    assert_adjoint("Resize", {"x": flat}, {"mode": "nearest"}, {2: np.array([1, 2, 1], np.float32)})
    assert_adjoint("Resize", {"x": volume}, {"mode": "linear"}, {2: np.array([1, 1, 2, 2, 1.5], np.float32)})
    assert_adjoint("Resize", {"x": flat}, {"mode": "linear"}, {2: np.array([1, 1, 2.5], np.float32)})
    assert_adjoint("Resize", {"x": volume}, TORCH_NEAREST, {2: np.array([1, 1, 2, 1, 3], np.float32)})


@pytest.mark.parametrize(
    ("constants", "attributes", "what"),
    [
        ({3: [1, 1, 4, 4]}, {"coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
        ({3: [1, 1, 4, 4]}, {"keep_aspect_ratio_policy": "not_larger"}, "keep_aspect_ratio_policy"),
        ({}, {"mode": "linear"}, "computed by the model"),
        ({2: [1, 1, 2, 2]}, {"mode": "linear"}, "longer than 1024"),
        ({2: [1, 1, 1.2, 2]}, {"mode": "linear"}, "a scale of 1.2 that leaves axis 2"),
    ],
    ids=["crop", "aspect", "computed", "long", "idle"],
)
def test_an_unsupported_form_is_refused_by_name(constants: Any, attributes: Any, what: str) -> None:
    graph = Graph()
    x, y = Value(graph, "x", (None, 1, 2, 2)), Value(graph, "y", (None, 1, 4, 4))
    if what.startswith("longer"):
        x, y = Value(graph, "x", (None, 1, 2, 600)), Value(graph, "y", (None, 1, 4, 1200))
    if what.startswith("a scale"):
        y = Value(graph, "y", (None, 1, 2, 4))
    inputs = [x, None, Value(graph, "scales"), None]
    for place, numbers in constants.items():
        inputs[place] = graph.constant(np.array(numbers, np.float32 if place == 2 else np.int64))
    node = Node(graph, "Resize", "", tuple(inputs), (y,), attributes)
    with pytest.raises(UnsupportedOperatorError, match=what):
        RULES["Resize"].gradient(node, Value(graph, "dy"))
