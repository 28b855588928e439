"""From an ONNX file to artifacts: what is trained, what is carried over, what is refused and how."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.building import build

from edgefl import trainer
from edgefl.datasets import models
from edgefl.errors import ModelError, StorageError, UnsupportedOperatorError
from edgefl.trainer.files import checkpoint
from edgefl.trainer.files.manifest import CHECKPOINT, EVALUATION, FILES, MANIFEST, OPTIMIZER, TRAINING


def test_a_directory_holds_four_graphs_a_checkpoint_and_a_manifest(tmp_path: Path) -> None:
    model = models.mlp(hidden=8)
    manifest = build(model, loss="cross-entropy", optimizer="momentum", out=tmp_path / "a" / "b")
    out = tmp_path / "a" / "b"
    assert {path.name for path in out.iterdir()} == {*FILES, MANIFEST}
    assert trainer.read_manifest(out) == manifest
    assert [p.name for p in manifest.parameters] == ["hidden.weight", "hidden.bias", "logits.weight", "logits.bias"]
    assert manifest.vector_size == 64 * 8 + 8 + 8 * 10 + 10
    assert (manifest.loss.name, manifest.loss.classes) == ("cross-entropy", 10)
    assert manifest.target.dtype == "int64"

    training, evaluation, stepping = (onnx.load(out / name) for name in (TRAINING, EVALUATION, OPTIMIZER))
    parameters = [p.name for p in manifest.parameters]
    assert [v.name for v in training.graph.input] == ["x", "target", *parameters, "scale"]
    assert [v.name for v in training.graph.output] == ["loss", *(f"{name}.gradient" for name in parameters)]
    assert [v.name for v in evaluation.graph.output] == ["loss", "logits"]
    assert [v.name for v in stepping.graph.input] == ["lr", "parameters", "gradient", "velocity"]
    assert [v.name for v in stepping.graph.output] == ["parameters.next", "velocity.next"]
    for graph in (training, evaluation, stepping):
        assert {(o.domain, o.version) for o in graph.opset_import} == {("", 21)}
        assert graph.ir_version == 10
    initial = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    stored = checkpoint.parse((out / CHECKPOINT).read_bytes())
    assert all(np.array_equal(stored[name], initial[name]) for name in parameters)


def test_building_again_replaces_the_artifacts(tmp_path: Path, linear: Any) -> None:
    build(linear(), loss="mse", out=tmp_path)
    build(linear(), loss="cross-entropy", out=tmp_path)
    assert trainer.Session(tmp_path).manifest.loss.name == "cross-entropy"


def test_the_gradient_of_the_input_is_not_computed(tmp_path: Path) -> None:
    """The first layer's dx is a third of a small network's work, and nobody reads it."""
    build(models.cnn(), loss="cross-entropy", out=tmp_path)
    operators = [node.op_type for node in onnx.load(tmp_path / TRAINING).graph.node]
    assert operators.count("ConvTranspose") == 1


@pytest.mark.parametrize(
    ("trainable", "frozen", "expected"),
    [
        (None, (), ["hidden.weight", "hidden.bias", "logits.weight", "logits.bias"]),
        (["logits.*"], (), ["logits.weight", "logits.bias"]),
        (None, ["hidden.*"], ["logits.weight", "logits.bias"]),
        (["*.weight"], ["hidden.*"], ["logits.weight"]),
    ],
)
def test_globs_choose_what_is_trained(tmp_path: Path, trainable: Any, frozen: Any, expected: list[str]) -> None:
    m = build(models.mlp(hidden=4), loss="cross-entropy", out=tmp_path, trainable=trainable, frozen=frozen)
    assert [p.name for p in m.parameters] == expected
    s = trainer.Session(tmp_path)
    x, y = np.ones((3, 64), np.float32), np.array([0, 1, 2])
    losses = [s.step({"x": x, "target": y}, lr=0.1) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_scalars_are_constants_unless_asked_for(onnx_model: Any, session: Any) -> None:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["h"]), helper.make_node("Mul", ["h", "w"], ["y"])]
    model = onnx_model(nodes, {"scale": np.float32(2.0), "w": np.ones(4, np.float32)})
    assert list(session(model).parameters()) == ["w"]
    assert list(session(model, trainable=["scale"]).parameters()) == ["scale"]


def test_constants_of_a_rewritten_operator_are_no_weights(session: Any, onnx_model: Any) -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("LpNormalization", ["h"], ["y"], p=2)]
    model = onnx_model(nodes, {"w": np.ones(4, np.float32)})
    assert list(session(model, trainable=["*"]).parameters()) == ["w"]


def test_a_split_with_a_nameless_output_is_refused(session: Any, onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("Split", ["h"], ["", "y"], "halves", axis=1, num_outputs=2),
    ]
    with pytest.raises(ModelError, match=r"'halves'.* one of its outputs has no name"):
        session(onnx_model(nodes, {"w": np.ones(4, np.float32)}, opset=18))


def test_what_lies_before_the_first_trained_weight_may_be_any_operator(onnx_model: Any, session: Any) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "early"], ["a"]),
        helper.make_node("Asinh", ["a"], ["h"], "odd"),
        helper.make_node("Gemm", ["h", "w"], ["y"]),
    ]
    model = onnx_model(nodes, {"early": np.ones(4, np.float32), "w": np.ones((4, 2), np.float32)})
    assert list(session(model, frozen=["early"]).parameters()) == ["w"]
    with pytest.raises(UnsupportedOperatorError, match="'odd' uses Asinh"):
        session(model)


@pytest.mark.parametrize("final", ["Softmax", "LogSoftmax"])
def test_cross_entropy_is_taken_before_a_final_softmax_which_the_export_keeps(
    final: str, linear: Any, session: Any, tmp_path: Path
) -> None:
    plain, soft = linear(), linear(final, axis=-1)
    s = session(soft, loss="cross-entropy")
    assert s.manifest.stripped == final
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    batch = {"x": x, "target": np.array([0, 1, 2, 0, 1])}
    losses = [s.step(batch, 0.1), s.evaluate(batch)["loss"]]
    s.export(tmp_path / "soft.onnx")
    s2 = session(plain, loss="cross-entropy")
    assert losses == [s2.step(batch, 0.1), s2.evaluate(batch)["loss"]]
    y = ort.InferenceSession(tmp_path / "soft.onnx").run(None, {"x": x})[0]
    sums = np.exp(y).sum(axis=1) if final == "LogSoftmax" else y.sum(axis=1)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)


def test_mse_keeps_a_final_softmax_in_the_loss(linear: Any, session: Any) -> None:
    s = session(linear("Softmax"), loss="mse")
    assert s.manifest.stripped == ""


@pytest.mark.parametrize("opset", [13, 14, 15, 16, 18, 20, 21, 22, 23])
def test_opsets_that_exporters_emit(opset: int, linear: Any, session: Any) -> None:
    s = session(linear("Softmax", opset=opset), loss="cross-entropy")
    assert s.step({"x": np.ones((2, 4), np.float32), "target": np.array([0, 1])}, 0.1) > 0
    assert s.manifest.opset == 21


def test_shape_arithmetic_that_exporters_leave(onnx_model: Any, session: Any) -> None:
    """x.view(x.size(0), -1), as traced: the batch is read off the tensor, nothing is a constant."""
    nodes = [
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0))),
        helper.make_node("Gather", ["all", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Mul", ["x", "early"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "axis": np.array([0]),
        "rest": np.array([-1]),
        "early": rng.normal(size=(2, 3)).astype(np.float32),
        "w": rng.normal(size=(6, 2)).astype(np.float32),
    }
    s = session(onnx_model(nodes, weights, x=("batch", 2, 3)), loss="cross-entropy")
    for batch in (1, 7):
        found = s.gradients({"x": np.ones((batch, 2, 3), np.float32), "target": np.zeros(batch, int)})
        assert found["early"].shape == (2, 3)
        assert found["early"].any()


def test_a_model_exported_for_one_sample_is_trained_with_any_batch(onnx_model: Any, session: Any) -> None:
    model = onnx_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": np.ones((4, 2), np.float32)}, x=(1, 4))
    s = session(model)
    assert s.step({"x": np.ones((7, 4), np.float32), "target": np.ones((7, 2), np.float32)}, 0.1) == 9.0


def test_dropout_is_the_identity_in_evaluation_however_it_was_exported(onnx_model: Any, session: Any) -> None:
    nodes = [
        helper.make_node("Dropout", ["x", "ratio"], ["h", "mask"], "drop"),
        helper.make_node("Gemm", ["h", "w"], ["y"]),
    ]
    weights = {"ratio": np.float32(0.5), "w": np.ones((4, 2), np.float32)}
    batch = {"x": np.ones((2, 4), np.float32), "target": np.zeros((2, 2), np.float32)}
    s = session(onnx_model(nodes, weights))
    assert s.evaluate(batch)["loss"] == 16.0
    nodes[0].input.append("training")
    for mode in (True, False):
        s = session(onnx_model(nodes, {**weights, "training": np.array(mode)}))
        assert s.evaluate(batch)["loss"] == 16.0
        assert s.manifest.seeded


def test_a_weight_used_twice_collects_both_gradients(onnx_model: Any, session: Any) -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "w"], ["y"])]
    s = session(onnx_model(nodes, {"w": np.full(4, 3, np.float32)}))
    found = s.gradients({"x": np.ones((1, 4), np.float32), "target": np.zeros((1, 4), np.float32)})
    assert found["w"].tolist() == [27.0] * 4  # d/dw of w⁴ / 4


def test_names_that_edgefl_would_use_itself_may_be_taken(onnx_model: Any, session: Any) -> None:
    nodes = [helper.make_node("Mul", ["x", "lr"], ["loss"]), helper.make_node("Mul", ["loss", "step"], ["y"])]
    nodes += [helper.make_node("Add", ["y", "target"], ["lr.gradient"])]
    weights = {name: np.ones(4, np.float32) for name in ("lr", "step", "target")}
    s = session(onnx_model(nodes, weights, outputs=["lr.gradient", "loss"]), optimizer="adam")
    batch = {"x": np.ones((2, 4), np.float32), "target": np.zeros((2, 4), np.float32)}
    first = s.step(batch, 0.1)
    assert s.evaluate(batch)["loss"] < first


def test_weights_in_a_file_beside_the_model_are_taken_in(tmp_path: Path) -> None:
    big = models.mlp(hidden=64)
    path = tmp_path / "model.onnx"
    onnx.save(big, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    build(path, loss="cross-entropy", out=tmp_path / "out")
    assert trainer.Session(tmp_path / "out").parameters()["hidden.weight"].any()
    moved = onnx.load(path, load_external_data=False)
    moved.graph.initializer[0].external_data[0].value = "../weights.bin"
    path.write_bytes(moved.SerializeToString())
    with pytest.raises(ModelError, match=r"outside the model's folder|not a valid ONNX model"):
        build(path, loss="cross-entropy", out=tmp_path / "out")


def test_weights_beside_the_model_count_towards_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(models.mlp(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.setattr("edgefl.trainer.reading.source_model.MAX_MODEL_BYTES", 10_000)
    with pytest.raises(ModelError, match="weights are over the limit of 10000"):
        build(path, loss="cross-entropy", out=tmp_path / "out")


def test_functions_of_the_model_are_inlined(onnx_model: Any, session: Any) -> None:
    model = onnx_model([helper.make_node("Gemm", ["x", "w"], ["h"])], {"w": np.ones((4, 2), np.float32)}, outputs=["h"])
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Twice", ["h"], ["y"], domain="mine"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]))
    s = session(model)
    assert "Relu" in s.manifest.operators


def bad(model: onnx.ModelProto, change: Any) -> onnx.ModelProto:
    change(model)
    return model


REFUSED = {
    "opset 6": (lambda m: setattr(m.opset_import[0], "version", 6), "opset 6"),
    "foreign domain": (
        lambda m: (
            setattr(m.graph.node[0], "domain", "com.microsoft"),
            m.opset_import.add(domain="com.microsoft", version=1),
        ),
        "domain 'com.microsoft'",
    ),
    "open dimension": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_param", "width"),
        "dimension 1 of input 'x' is open",
    ),
    "input of unknown shape": (lambda m: m.graph.input[0].type.tensor_type.shape.Clear(), "no known shape"),
    "input called target": (
        lambda m: (setattr(m.graph.input[0], "name", "target"), m.graph.node[0].input.__setitem__(0, "target")),
        "named 'target'",
    ),
    "half precision": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        "float16",
    ),
    "no nodes": (lambda m: m.graph.ClearField("node"), "holds no graph"),
    "unknown operator": (lambda m: setattr(m.graph.node[0], "op_type", "Gemmm"), "Gemmm"),
    "weights that are not finite": (
        lambda m: m.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), "b")),
        "infinities or NaN",
    ),
    "double precision weights": (
        lambda m: (
            [
                t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name))
                for t in m.graph.initializer
            ],
            setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
            m.graph.node.insert(0, helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE)),
            m.graph.node[1].input.__setitem__(0, "d"),
        ),
        "float64",
    ),
    "broken initializer": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2), "initializer 'w' is broken"),
    "no input": (
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4), np.float32), "x")),
        "no input",
    ),
    "sparse weights": (lambda m: m.graph.sparse_initializer.add(), "sparse|not a valid"),
    "unprintable name": (
        lambda m: (setattr(m.graph.input[0], "name", "x\n"), m.graph.node[0].input.__setitem__(0, "x\n")),
        "unprintable",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_with_the_reason(name: str, linear: Any, session: Any) -> None:
    change, what = REFUSED[name]
    with pytest.raises(ModelError, match=what) as caught:
        session(bad(linear(), change))
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"trainable": ["nothing*"]}, "no weight matches 'nothing*'"),
        ({"frozen": ["nothing*"]}, "no weight matches 'nothing*'"),
        ({"frozen": ["*"]}, "no trainable weight"),
    ],
)
def test_globs_that_leave_nothing_list_the_weights(options: Any, what: str, linear: Any, session: Any) -> None:
    with pytest.raises(ModelError) as caught:
        session(linear(), **options)
    assert what in caught.value.cause
    assert "w, b" in caught.value.hint


def test_a_fixed_batch_inside_the_graph_is_opened(onnx_model: Any, session: Any) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "shape"], ["y"], "view")]
    weights = {"w": np.ones((4, 2), np.float32), "shape": np.array([1, 2])}
    s = session(onnx_model(nodes, weights, x=(1, 4)))
    assert s.step({"x": np.ones((3, 4), np.float32), "target": np.zeros((3, 2), np.float32)}, 0.1) == 16.0


def test_rows_that_are_not_samples_are_refused(onnx_model: Any, session: Any) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "shape"], ["y"])]
    weights = {"w": np.ones((4, 2), np.float32), "shape": np.array([-1, 2])}
    with pytest.raises(ModelError, match="one row per sample"):
        session(onnx_model(nodes, weights, x=("batch", 3, 4)))


def test_cross_entropy_needs_classes(onnx_model: Any, session: Any) -> None:
    model = onnx_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": np.ones((4, 1), np.float32)})
    with pytest.raises(ModelError, match=r"gives \[batch, 1\]"):
        session(model, loss="cross-entropy")


def test_control_flow_is_refused(onnx_model: Any, session: Any) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"])], "b", [], [helper.make_tensor_value_info("i", 1, ["batch", 4])]
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["highest"], keepdims=0),
        helper.make_node("Cast", ["highest"], ["yes"], to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["h"], "choice", then_branch=branch, else_branch=branch),
        helper.make_node("Gemm", ["h", "w"], ["y"]),
    ]
    with pytest.raises(UnsupportedOperatorError, match="'choice' uses If"):
        session(onnx_model(nodes, {"w": np.ones((4, 2), np.float32)}))


def test_an_unsupported_operator_names_the_node_and_what_is_supported(linear: Any, session: Any) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        session(linear("Asinh"))
    assert "node 'final' uses Asinh" in caught.value.cause
    assert "opset 21" in caught.value.cause
    assert "Sin" in caught.value.hint
    assert "--frozen" in caught.value.hint
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 64, b"\x08\x07" * 40, b"PK\x03\x04" + b"x" * 99])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx is not"):
        build(path, loss="mse", out=tmp_path / "out")


def test_a_missing_file_and_an_unusable_folder_are_named(tmp_path: Path, linear: Any) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx: No such file"):
        build(tmp_path / "nothing.onnx", loss="mse", out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        build(linear(), loss="mse", out=tmp_path / "file" / "out")


def test_a_model_over_the_limit_is_not_even_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefl.trainer.reading.source_model.MAX_MODEL_BYTES", 1000)
    with pytest.raises(ModelError, match="over the limit of 1000"):
        build(models.mlp().SerializeToString(), loss="mse", out=tmp_path)


WHOLE = models.cnn(channels=2, hidden=2).SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_model_is_built_or_refused_by_name(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(WHOLE)
    # the weights at the end take any value: damage the structure before them as often
    places = st.integers(0, len(content) - 1) | st.integers(0, 900)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), len(content)]) | st.integers(0, len(content)))
    with suppress(ModelError):
        build(bytes(content[:cut]), loss="cross-entropy", out=tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_model_with_odd_attributes_and_sizes_is_built_or_refused_by_name(data: st.DataObject, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(WHOLE)
    node = data.draw(st.sampled_from(list(model.graph.node)))
    names = ["strides", "pads", "dilations", "kernel_shape", "group", "auto_pad", "ceil_mode", "axis", "transA"]
    numbers = st.integers(-2, 5) | st.sampled_from([10**3, 10**11])
    values = numbers | st.lists(numbers, min_size=1, max_size=5) | st.sampled_from(["SAME_UPPER", "VALID", "ODD"])
    name = data.draw(st.sampled_from(names))
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, data.draw(values))])
    if data.draw(st.booleans()):
        tensor = data.draw(st.sampled_from([t for t in model.graph.initializer if t.dims]))
        tensor.dims[data.draw(st.integers(0, len(tensor.dims) - 1))] = data.draw(numbers)
    with suppress(ModelError):
        build(model, loss="cross-entropy", out=tmp_path)
