"""A user's own loss as an ONNX graph: as good as a built-in one, for models of every size, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgefl.errors import ModelError, UnsupportedOperatorError
from edgefl.trainer.building.losses import LOSSES
from edgefl.trainer.building.own_loss import MAX_LOSS_BYTES, read_loss
from edgefl.trainer.files.manifest import Tensor
from edgefl.trainer.graph import Graph, Value
from tests.support.loss_values import finite_differences, loss_and_slope

node = helper.make_node
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

SQUARES = [node("Sub", ["prediction", "target"], ["e"]), node("Mul", ["e", "e"], ["s"])]


def loss_model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    inputs: tuple[str, ...] = ("prediction", "target"),
    shapes: tuple[Any, ...] = (("n", "k"), ("n", "k")),
    types: tuple[int, ...] = (FLOAT, FLOAT),
    outputs: tuple[str, ...] = ("loss",),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "loss",
        [helper.make_tensor_value_info(*of) for of in zip(inputs, types, shapes, strict=True)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def mean(name: str) -> onnx.NodeProto:
    return node("ReduceMean", [name], ["loss"], keepdims=0)


def mean_squares(**options: Any) -> onnx.ModelProto:
    return loss_model([*SQUARES, mean("s")], **options)


@pytest.mark.parametrize("shape", [(1, 3), (5, 2)])
def test_the_mean_squared_error_is_the_built_in_one(shape: Any) -> None:
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=shape), rng.normal(size=shape)
    value, slope = loss_and_slope(read_loss(mean_squares()), p, t)
    expected = loss_and_slope("mse", p, t)
    assert value == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-6)


def test_cross_entropy_written_out_is_the_built_in_one() -> None:
    """Its target is a vector of labels."""
    nodes = [
        node("LogSoftmax", ["prediction"], ["logs"], axis=1),
        node("OneHot", ["target", "classes", "off_on"], ["chosen"]),
        node("Mul", ["logs", "chosen"], ["each"]),
        node("ReduceSum", ["each", "axis"], ["logp"], keepdims=0),
        node("ReduceMean", ["logp"], ["mean"], keepdims=0),
        node("Neg", ["mean"], ["loss"]),
    ]
    constants = {"classes": np.array(3), "off_on": np.array([0, 1], np.float32), "axis": np.array([1])}
    own = read_loss(loss_model(nodes, constants, shapes=(("n", 3), ("n",)), types=(FLOAT, INT64)))
    z, y = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 1])
    assert own.target((None, 3)) == Tensor("target", "int64", (None,))
    assert own.classes((None, 3)) == 0
    value, slope = loss_and_slope(own, z, y)
    expected = loss_and_slope("cross-entropy", z, y)
    assert value == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(slope, expected[1], atol=1e-7)


def test_a_focal_loss_agrees_with_finite_differences() -> None:
    """−mean (1 − p)² log p with p = σ(s z) and s = ±1 the target. T.-Y. Lin et al., Focal Loss, 2017, equation 4."""
    nodes = [
        node("Mul", ["prediction", "target"], ["m"]),
        node("Sigmoid", ["m"], ["p"]),
        node("Sub", ["one", "p"], ["q"]),
        node("Mul", ["q", "q"], ["qq"]),
        node("Log", ["p"], ["log"]),
        node("Mul", ["qq", "log"], ["each"]),
        node("ReduceMean", ["each"], ["mean"], keepdims=0),
        node("Neg", ["mean"], ["loss"]),
    ]
    own = read_loss(loss_model(nodes, {"one": np.array(1, np.float32)}))
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4, 3)).astype(np.float32).astype(float)
    s = np.sign(rng.normal(size=(4, 3)))

    def focal(z: Any) -> float:
        p = 1 / (1 + np.exp(-z * s))
        return float(-np.mean((1 - p) ** 2 * np.log(p)))

    value, slope = loss_and_slope(own, z, s)
    assert value == pytest.approx(focal(z), rel=1e-6)
    np.testing.assert_allclose(slope, finite_differences(focal, z), atol=1e-6)


def test_a_loss_of_one_element_counts_as_a_number() -> None:
    own = read_loss(loss_model([*SQUARES, node("ReduceMean", ["s"], ["loss"], keepdims=1)]))
    value, slope = loss_and_slope(own, [[1.0, 2.0]], [[0.0, 0.0]])
    assert value == 2.5
    np.testing.assert_array_equal(slope, [[1, 2]])


@pytest.mark.parametrize("keep", [0, 1])
def test_a_scale_multiplies_the_gradient_alone(keep: int) -> None:
    own = read_loss(loss_model([*SQUARES, node("ReduceMean", ["s"], ["loss"], keepdims=keep)]))
    value, slope = loss_and_slope(own, [[1.0, 2.0]], [[0.0, 0.0]], scale=-3.0)
    assert value == 2.5
    np.testing.assert_array_equal(slope, [[-3, -6]])


@pytest.mark.parametrize(
    ("inputs", "shapes"),
    [
        (("prediction", "target"), (("n", "k"), ("n", "k"))),
        (("target", "prediction"), (("n", "k"), ("n", "k"))),
        (("prediction", "target"), ((4, 2), (4, 2))),  # exported for one batch size
        (("prediction", "target"), ((None, None), (None, 2))),
        (("prediction", "target"), (None, ("n", 2))),
    ],
)
def test_open_sizes_are_those_of_the_model(inputs: Any, shapes: Any) -> None:
    """And the inputs are told by their names."""
    own = read_loss(mean_squares(inputs=inputs, shapes=shapes))
    assert own.target((None, 2)) == Tensor("target", "float32", (None, 2))
    _, slope = loss_and_slope(own, [[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(slope, [[0.5, 1], [1.5, 2]])


@pytest.mark.parametrize(("names", "sign"), [(("p", "t"), 1), (("target", "p"), -1), (("t", "prediction"), -1)])
def test_inputs_of_other_names_are_told_by_their_order(names: Any, sign: int) -> None:
    nodes = [node("Sub", list(names), ["e"]), mean("e")]
    _, slope = loss_and_slope(read_loss(loss_model(nodes, inputs=names)), [[1.0, 2.0]], [[0.0, 0.0]])
    np.testing.assert_allclose(slope, [[0.5 * sign, 0.5 * sign]])


def test_one_loss_serves_models_of_several_sizes() -> None:
    own = read_loss(mean_squares(shapes=(("n", "k", "m"), ("n", 1, "m"))))
    assert own.target((None, 2, 3)) == Tensor("target", "float32", (None, 1, 3))
    assert own.target((None, 5, 7)) == Tensor("target", "float32", (None, 1, 7))


def test_it_looks_like_any_other_loss(tmp_path: Path) -> None:
    path = tmp_path / "loss.onnx"
    onnx.save(mean_squares(), path)
    for own in (read_loss(path), read_loss(str(path)), read_loss(path.read_bytes())):
        assert (own.name, own.absorbs, own.metrics, own.options) == ("own", (), (), {})
        assert own.settings() == {}
        assert not own.takes_in("Softmax", {}, (None, 3))
        with pytest.raises(ModelError, match="own has no option delta"):
            own.settings({"delta": 1.0})
    assert own.name not in LOSSES


def test_names_of_the_model_and_of_the_loss_do_not_meet() -> None:
    graph = Graph(taken={"prediction", "e", "loss.e", "loss", "two", "y", "t"})
    graph.op("Identity", Value(graph, "prediction", (None, 2)), names=["e"])
    nodes = [*SQUARES, node("Mul", ["s", "two"], ["loss.target"]), mean("loss.target")]
    own = read_loss(loss_model(nodes, {"two": np.array(2, np.float32)}))
    value, _ = own.terms(Value(graph, "e", (None, 2)), Value(graph, "t", (None, 2)))
    made = [name for n in graph.nodes for name in n.output]
    assert len(set(made)) == len(made)
    assert value.name not in ("loss", "e")
    assert "two" not in graph.constants
    graph.op("Identity", value, names=["y"])
    graph.model("m", [Tensor("prediction", "float32", (None, 2)), Tensor("t", "float32", (None, 2))], [
        Tensor("y", "float32", ()),
    ])  # fmt: skip


def test_the_file_is_not_changed_by_its_use() -> None:
    proto = mean_squares()
    before = proto.SerializeToString()
    own = read_loss(proto)
    loss_and_slope(own, [[1.0, 2.0]], [[0.0, 0.0]])
    assert proto.SerializeToString() == before


def elsewhere() -> onnx.ModelProto:
    proto = loss_model([node("Mul", ["prediction", "w"], ["m"]), mean("m")], {"w": np.ones(3, np.float32)})
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "/etc/passwd")
    proto.graph.initializer[0].ClearField("raw_data")
    return proto


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (mean_squares(inputs=("p",), shapes=(("n", "k"),), types=(FLOAT,)), "has the inputs p and 1 outputs"),
        (
            loss_model(SQUARES, inputs=("p", "t", "w"), shapes=((1,),) * 3, types=(FLOAT,) * 3),
            "has the inputs p, t, w and 1 outputs",
        ),
        (mean_squares(inputs=("p", "p")), "has the inputs p, p"),
        (mean_squares(outputs=("loss", "s")), "and 2 outputs"),
        (onnx.ModelProto(), "has the inputs none and 0 outputs"),
        (elsewhere(), "another file"),
    ],
)
def test_what_is_no_loss_is_refused_when_it_is_read(proto: onnx.ModelProto, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        read_loss(proto)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (loss_model(SQUARES, outputs=("s",)), r"gives float32\[batch, 2\], not one float32 number"),
        (
            loss_model([*SQUARES, node("ReduceMean", ["s", "a"], ["loss"], keepdims=0)], {"a": np.array([1])}),
            r"gives float32\[batch\]",
        ),
        (mean_squares(shapes=(("n", 3), ("n", 3))), r"takes a prediction \[n, 3\], the model gives \[batch, 2\]"),
        (mean_squares(shapes=(("n", "k", "k"), ("n", "k"))), r"takes a prediction \[n, k, k\]"),
        (mean_squares(shapes=(("n", "k"), ("n", "j"))), "target' is open"),
        (mean_squares(shapes=(("n", "k"), ("n", "n"))), "target' is open"),
        (mean_squares(shapes=(("n", "k"), None)), "'target' of the loss has no known shape"),
        (mean_squares(shapes=(("n", "k"), ())), "'target' of the loss has no known shape"),
        (mean_squares(shapes=(("n", "k"), ("n", 3))), "the loss: .*do not fit together"),
        (mean_squares(types=(FLOAT, INT64)), "the loss: "),
        (loss_model([mean("target")]), "does not change with the prediction"),
        (
            loss_model([
                node("ArgMax", ["prediction"], ["a"]),
                node("Cast", ["a"], ["f"], to=1),
                mean("f"),
            ]),
            "does not change with the prediction",
        ),
        (loss_model([node("Sub", ["prediction", "nothing"], ["e"]), mean("e")]), "the loss: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(proto: onnx.ModelProto, what: str) -> None:
    own = read_loss(proto)
    with pytest.raises(ModelError, match=what) as caught:
        own.target((None, 2))
    assert caught.value.hint


def test_an_operator_without_a_rule_is_named() -> None:
    own = read_loss(loss_model([node("Det", ["prediction"], ["d"], "determinant"), mean("d")], shapes=(None, ("n",))))
    with pytest.raises(UnsupportedOperatorError, match="'determinant' uses Det"):
        own.target((None, 2, 2))


def test_dimensions_of_one_name_have_one_size() -> None:
    own = read_loss(mean_squares(shapes=(("n", "k", "k"), ("n", "k", "k"))))
    assert own.target((None, 2, 2)).shape == (None, 2, 2)
    with pytest.raises(ModelError, match=r"takes a prediction \[n, k, k\]"):
        own.target((None, 2, 3))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*nothing\.onnx"):
        read_loss(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="is not a valid ONNX model"):
        read_loss(b"\xff" * 40)
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(MAX_LOSS_BYTES + 1)
    with pytest.raises(ModelError, match="over 16777216 bytes"):
        read_loss(large)


CONTENT = mean_squares().SerializeToString()


@given(st.integers(0, len(CONTENT) - 1), st.integers(0, 255), st.booleans())
def test_damaged_files_are_losses_or_named_errors(place: int, byte: int, cut: bool) -> None:
    content = CONTENT[:place] if cut else CONTENT[:place] + bytes([byte]) + CONTENT[place + 1 :]
    try:
        own = read_loss(content)
        own.target((None, 2))
        graph = Graph(taken={"p", "t"})
        own.terms(Value(graph, "p", (None, 2)), Value(graph, "t", (None, 2)))
    except ModelError:
        pass
