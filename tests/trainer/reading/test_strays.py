"""Numbers among the initializers that are no weights stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

W = np.arange(1, 5, dtype=np.float32)


def trained(session: Any, onnx_model: Any, name: str, value: Any, note: str = "") -> list[str]:
    """What is trained of y = x · w · value."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", name], ["y"])]
    model = onnx_model(nodes, {"w": W, name: np.asarray(value, np.float32)})
    if note:
        info = helper.make_tensor_value_info(name, 1, np.shape(value))
        info.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value=note)
        model.graph.value_info.append(info)
    return list(session(model).parameters())


@pytest.mark.parametrize(
    ("name", "value", "note", "is_weight"),
    [
        ("val_7", [0.5], "", False),
        ("val_7", [0.5, 0.5, 1, 1], "", True),
        ("val_7", [1, 1, 1, 1], "", True),
        ("val_7", [[0.25]], "", True),
        ("scale", [0.5], "", True),
        ("table", [1, 2, 3, 4], "BUFFER", False),
        ("table", [1, 2, 3, 4], "CONSTANT_TENSOR", False),
        ("table", [1, 2, 3, 4], "PARAMETER", True),
    ],
)
def test_constants_of_an_exporter_are_not_trained(
    name: str, value: Any, note: str, is_weight: bool, session: Any, onnx_model: Any
) -> None:
    assert (name in trained(session, onnx_model, name, value, note)) is is_weight


@pytest.mark.parametrize(("name", "is_weight"), [("val_1", False), ("norm.weight", True)])
def test_ones_that_make_group_normalisation_of_instance_normalisation(
    name: str, is_weight: bool, session: Any, onnx_model: Any
) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("InstanceNormalization", ["h", name, "zeros"], ["y"]),
    ]
    weights = {"w": W, name: np.ones(2, np.float32), "zeros": np.zeros(2, np.float32)}
    model = onnx_model(nodes, weights, x=("batch", 2, 4))
    assert (name in session(model).parameters()) is is_weight


@pytest.mark.parametrize(
    ("value", "is_weight"),
    [
        (np.full((1, 1), 0.001), False),
        (np.full(1, 0.001), True),
        (np.full((1, 1), 0.5), True),
        (np.zeros((1, 1)), True),
    ],
)
def test_an_epsilon_of_keras_is_not_trained(value: Any, is_weight: bool, session: Any, onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "h"], ["square"]),
        helper.make_node("Add", ["square", "epsilon"], ["y"]),
    ]
    model = onnx_model(nodes, {"w": W, "epsilon": value.astype(np.float32)})
    assert ("epsilon" in session(model).parameters()) is is_weight
