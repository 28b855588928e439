"""Models exported for one batch size are trained with any, as far as it is certain where the batch is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.normal_form import in_normal_form

from edgefl.errors import ModelError
from edgefl.trainer.reading.source_model import read_model


def reshapes(onnx_model: Any, x: tuple[int, ...], *targets: list[int], **perms: list[int]) -> onnx.ModelProto:
    """x -> one Reshape after the other; t1=[…] transposes the result of the first, and so on."""
    nodes, name, weights = [], "x", {}
    for place, target in enumerate(targets, 1):
        last = place == len(targets) and f"t{place}" not in perms
        weights[f"s{place}"] = np.array(target)
        nodes.append(helper.make_node("Reshape", [name, f"s{place}"], ["y" if last else f"h{place}"], f"view{place}"))
        name = f"h{place}"
        if f"t{place}" in perms:
            output = "y" if place == len(targets) else f"p{place}"
            nodes.append(helper.make_node("Transpose", [name], [output], perm=perms[f"t{place}"]))
            name = output
    return onnx_model(nodes, weights, x=x)


@pytest.mark.parametrize(
    ("x", "targets", "shape"),
    [
        ((1, 4), [[1, 2, 2]], (None, 2, 2)),
        ((1, 3, 4), [[1, 12]], (None, 12)),
        ((1, 3, 4), [[1, -1]], (None, 12)),
        ((1, 3, 4), [[-1, 12]], (None, 12)),
        ((1, 3, 4), [[0, -1]], (None, 12)),
        ((1, 4), [[1, 1, 2, 2]], (None, 1, 2, 2)),
        ((8, 3, 4), [[8, 12]], (None, 12)),
        ((8, 3, 4), [[24, 4], [8, 3, 4]], (None, 3, 4)),
        ((1, 3, 4), [[3, 4], [1, 3, 4]], (None, 3, 4)),
        ((2, 3, 4), [[2, 3, 2, 2], [2, 12]], (None, 12)),
    ],
)
def test_a_target_follows_the_batch(
    x: tuple[int, ...], targets: list[list[int]], shape: tuple[int, ...], onnx_model: Any
) -> None:
    model = reshapes(onnx_model, x, *targets)
    source = read_model(model)
    assert source.shapes["y"] == shape
    assert "y" in source.per_sample
    values = np.arange(5 * np.prod(x[1:]), dtype=np.float32).reshape(5, *x[1:])
    np.testing.assert_array_equal(in_normal_form(source, {"x": values}), values.reshape(5, *shape[1:]))


def test_attention_with_places_first_is_followed(onnx_model: Any) -> None:
    """[n, places, width] -> [places, n, width] -> [places, n · heads, width / heads] and back."""
    model = reshapes(onnx_model, (4, 3, 8), [4, 3, 8], [3, 8, 4], [3, 4, 8], t1=[1, 0, 2], t3=[1, 0, 2])
    source = read_model(model)
    assert source.shapes["h2"] == (3, None, 4)
    assert source.shapes["y"] == (None, 3, 8)
    values = np.arange(7 * 24, dtype=np.float32).reshape(7, 3, 8)
    np.testing.assert_array_equal(in_normal_form(source, {"x": values}), values)


def test_a_batch_merged_behind_another_dimension_is_found_again(onnx_model: Any) -> None:
    """[places, n, width] -> [places · n, width] -> [places, n, width]: n varies faster."""
    model = reshapes(onnx_model, (5, 3, 4), [5, 3, 4], [15, 4], [3, 5, 4], t1=[1, 0, 2], t3=[1, 0, 2])
    source = read_model(model)
    assert source.shapes["y"] == (None, 3, 4)
    values = np.arange(2 * 12, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(in_normal_form(source, {"x": values}), values)


def test_what_is_not_certain_is_refused_by_name(onnx_model: Any) -> None:
    """[places, 1, width] -> [places, width]: nobody knows where the one went."""
    model = reshapes(onnx_model, (1, 3, 4), [1, 3, 4], [3, 4], t1=[1, 0, 2], t2=[1, 0])
    with pytest.raises(ModelError, match="Reshape node 'view2' fixes the batch size") as caught:
        read_model(model)
    assert "dynamic first (batch) dimension" in caught.value.hint


def test_a_fixed_batch_inside_a_model_with_an_open_one_is_refused(onnx_model: Any) -> None:
    with pytest.raises(ModelError, match="Reshape node 'view1' fixes the batch size"):
        read_model(reshapes(onnx_model, ("batch", 4), [2, 2, 2]))  # type: ignore[arg-type]


def test_a_merged_batch_keeps_its_place_through_other_operators(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Reshape", ["d", "back"], ["y"]),
    ]
    weights = {
        "rows": np.array([3, 4]),
        "back": np.array([1, 3, 2]),
        "w": np.ones((4, 2), np.float32),
        "c": np.ones(2, np.float32),
    }
    source = read_model(onnx_model(nodes, weights, x=(1, 3, 4)))
    assert source.shapes["y"] == (None, 3, 2)
