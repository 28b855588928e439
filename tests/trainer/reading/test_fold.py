"""What is constant is computed when the model is read; what may be trained, or depends on the batch, is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.normal_form import as_written, in_normal_form, operators

from edgefl.trainer.reading import fold
from edgefl.trainer.reading.source_model import SourceModel, read_model


def constant(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(np.asarray(value)))


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], output, **attributes)


def value_of(source: SourceModel, name: str) -> Any:
    return numpy_helper.to_array(source.initializers[name])


def read_by(source: SourceModel, operator: str, slot: int) -> Any:
    """The constant that an operator reads."""
    (reader,) = [n for n in source.nodes if n.op_type == operator]
    return value_of(source, reader.input[slot]).tolist()


def test_arithmetic_on_constants_is_done(onnx_model: Any) -> None:
    nodes = [
        constant("two", np.float32(2)),
        node("Sqrt", "four", "root"),
        node("Mul", "root two", "scale"),
        node("Mul", "x scale", "y"),
    ]
    source = read_model(onnx_model(nodes, {"four": np.float32(4)}))
    assert operators(source) == ["Mul"]
    assert value_of(source, "scale") == 4


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"value_int": 3}, 3),
        ({"value_ints": [1, 2]}, [1, 2]),
        ({"value_float": 0.5}, 0.5),
        ({"value_floats": [0.5, 1.5]}, [0.5, 1.5]),
    ],
)
def test_constants_of_every_form_are_known(form: dict[str, Any], expected: Any, onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], **form),
        node("Cast", "c", "f", to=TensorProto.FLOAT),
        node("ReduceSum", "f", "s", keepdims=0),
        node("Mul", "x s", "y"),
    ]
    source = read_model(onnx_model(nodes, {}))
    assert value_of(source, "s") == np.sum(expected)


@pytest.mark.parametrize("way", ["Transpose", "Identity", "Reshape", "Cast", "Neg"])
def test_a_weight_stays_a_weight_whatever_is_done_to_it(way: str, onnx_model: Any) -> None:
    """Unoptimised exports transpose a weight, or give it a second name, before they multiply."""
    more = {"Reshape": " shape", "Cast": ""}.get(way, "")
    attributes = {"Cast": {"to": TensorProto.FLOAT}}.get(way, {})
    nodes = [node(way, "w" + more, "v", **attributes), node("MatMul", "x v", "y")]
    w = np.arange(16, dtype=np.float32).reshape(4, 4)
    model = onnx_model(nodes, {"w": w, "shape": np.array([4, -1])})
    source = read_model(model)
    assert "w" in source.initializers
    assert operators(source) == (["MatMul"] if way == "Identity" else [way, "MatMul"])
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(in_normal_form(source, {"x": x}), as_written(model, {"x": x}))


def test_a_computed_vector_is_no_weight(onnx_model: Any, session: Any) -> None:
    """A table of positions, say, that the exporter left as arithmetic."""
    nodes = [
        node("Range", "zero four one", "places"),
        node("Cast", "places", "floats", to=TensorProto.FLOAT),
        node("Cos", "floats", "table"),
        node("Add", "x table", "h"),
        node("Mul", "h w", "y"),
    ]
    weights = {"zero": np.array(0), "four": np.array(4), "one": np.array(1), "w": np.ones(4, np.float32)}
    model = onnx_model(nodes, weights)
    source = read_model(model)
    assert operators(source) == ["Constant", "Add", "Mul"]
    assert list(session(model).parameters()) == ["w"]


def test_shape_arithmetic_of_fixed_dimensions_becomes_one_target(onnx_model: Any) -> None:
    """x.view(n, channels * height): the batch is read off the tensor, and so is everything else."""
    nodes = [
        node("Shape", "x", "all"),
        node("Gather", "all zero", "n", axis=0),
        node("Slice", "all one three", "rest"),
        node("ReduceProd", "rest", "size", keepdims=1),
        node("Unsqueeze", "n first", "n1"),
        node("Concat", "n1 size", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    numbers = {"zero": np.array(0), "one": np.array([1]), "three": np.array([3]), "first": np.array([0])}
    source = read_model(onnx_model(nodes, numbers, x=("batch", 2, 3)))
    assert operators(source) == ["Reshape"]
    assert read_by(source, "Reshape", 1) == [-1, 6]
    assert source.shapes["y"] == (None, 6)


def test_a_batch_between_other_dimensions_is_left_open(onnx_model: Any) -> None:
    """[places, batch · heads, width], as attention has it, with the batch inside a product."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Shape", "x", "n", start=0, end=1),
        node("Mul", "n two", "rows"),
        node("Concat", "six rows three", "target", axis=0),
        node("Reshape", "t target", "y"),
    ]
    numbers = {"two": np.array([2]), "six": np.array([6]), "three": np.array([3])}
    source = read_model(onnx_model(nodes, numbers, x=("batch", 6, 6)))
    assert operators(source) == ["Transpose", "Reshape"]
    assert read_by(source, "Reshape", 1) == [6, -1, 3]


def test_a_second_open_dimension_is_filled_in(onnx_model: Any) -> None:
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Concat", "n open", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    source = read_model(onnx_model(nodes, {"open": np.array([-1])}, x=("batch", 2, 3)))
    assert read_by(source, "Reshape", 1) == [-1, 6]


def test_what_depends_on_the_batch_in_another_way_stays(onnx_model: Any) -> None:
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Concat", "n four", "target", axis=0),
        node("Expand", "row target", "rows"),
        node("Add", "x rows", "y"),
    ]
    model = onnx_model(nodes, {"four": np.array([4]), "row": np.ones((1, 4), np.float32)})
    source = read_model(model)
    assert operators(source) == ["Shape", "Concat", "Expand", "Add"]
    assert source.shapes["rows"] == (None, 4)
    for batch in (1, 3):
        x = np.zeros((batch, 4), np.float32)
        np.testing.assert_array_equal(in_normal_form(source, {"x": x}), as_written(model, {"x": x}))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_decision_on_the_batch_size_is_not_taken_when_building(shape: tuple[int, ...], onnx_model: Any) -> None:
    """Both trial batches are large; a batch of one is not."""
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Greater", "n one", "many"),
        node("Where", "many two three", "factor"),
        node("Mul", "x factor", "y"),
    ]
    numbers = {"one": np.array([1]), "two": np.full(shape, 2, np.float32), "three": np.full(shape, 3, np.float32)}
    model = onnx_model(nodes, numbers)
    source = read_model(model)
    assert "Greater" in operators(source)
    for batch in (1, 2):
        x = np.ones((batch, 4), np.float32)
        np.testing.assert_array_equal(in_normal_form(source, {"x": x}), as_written(model, {"x": x}))


def test_a_quotient_of_two_batch_sizes_is_constant(onnx_model: Any) -> None:
    nodes = [
        node("Size", "x", "all"),
        node("Shape", "x", "n", start=0, end=1),
        node("Div", "all n", "each"),
        node("Concat", "open each", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    source = read_model(onnx_model(nodes, {"open": np.array([-1])}, x=("batch", 2, 3)))
    assert operators(source) == ["Reshape"]
    assert read_by(source, "Reshape", 1) == [-1, 6]


def test_axes_scales_and_bounds_are_initializers_for_the_rules(onnx_model: Any) -> None:
    nodes = [
        constant("axes", np.array([1])),
        constant("low", np.float32(0)),
        node("Unsqueeze", "x axes", "a"),
        node("Clip", "a low", "b"),
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 2.0]),
        helper.make_node("Resize", ["b", "", "scales"], ["y"], mode="nearest"),
    ]
    source = read_model(onnx_model(nodes, {}))
    assert {"axes", "low", "scales"} <= set(source.initializers)


def test_large_constants_are_left_to_the_runtime(onnx_model: Any) -> None:
    side = 1 << 12
    nodes = [
        node("Expand", "one shape", "huge"),
        node("ReduceSum", "huge", "sum", keepdims=0),
        node("Mul", "x sum", "y"),
    ]
    source = read_model(onnx_model(nodes, {"one": np.float32(1), "shape": np.array([side, side])}))
    assert operators(source) == ["Expand", "ReduceSum", "Mul"]


def test_all_constants_together_are_bounded(onnx_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_FOLDED_BYTES", 5000)
    nodes = [node("Expand", "one shape", f"c{i}") for i in range(10)]
    nodes.append(helper.make_node("Sum", ["x", *(f"c{i}" for i in range(10))], ["y"]))
    source = read_model(onnx_model(nodes, {"one": np.float32(1), "shape": np.array([200, 1, 4])}))
    assert operators(source).count("Expand") == 9


@pytest.mark.parametrize("shape", [[10**9], [10**11], [10**5, 10**5]])
@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Range", "Pad"])
def test_a_constant_that_would_not_fit_into_memory_is_not_computed(
    operator: str, shape: list[int], onnx_model: Any
) -> None:
    inputs = {
        "ConstantOfShape": "shape",
        "Expand": "one shape",
        "Tile": "ones shape",
        "Range": "from size step",
        "Pad": "ones pads",
    }[operator]
    numbers = {
        "shape": np.array(shape),
        "one": np.float32(1),
        "ones": np.ones([1] * len(shape), np.float32),
        "from": np.array(0),
        "size": np.array(shape[0]),
        "step": np.array(1),
        "pads": np.array([*shape, *shape]),
    }
    nodes = [node(operator, inputs, "c"), node("Shape", "c", "s"), node("Size", "c", "n")]
    nodes += [node("Cast", "n", "f", to=TensorProto.FLOAT), node("Mul", "x f", "y")]
    source = read_model(onnx_model(nodes, numbers))
    assert operators(source)[-1] == "Mul"
