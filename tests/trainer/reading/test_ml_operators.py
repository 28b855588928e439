"""The operators of scikit-learn's converter in standard ones: the same numbers, with weights that can be trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefl.errors import ModelError, UnsupportedOperatorError
from edgefl.trainer.reading.source_model import read_model

ML = "ai.onnx.ml"
RNG = np.random.default_rng(0)
ROWS = [float(number) for number in RNG.normal(size=12)]
THREE = {"coefficients": ROWS, "intercepts": [0.5, -0.25, 0.0], "classlabels_ints": [7, 8, 9]}
TWO = {"coefficients": [*ROWS[:4], *(-n for n in ROWS[:4])], "intercepts": [0.5, -0.5], "classlabels_ints": [0, 1]}


def ml(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, operator.lower(), domain=ML, **attributes)


def model_of(
    nodes: list[onnx.NodeProto], *, outputs: dict[str, int], opset: int = 17, dtype: int = 1, **weights: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("X", dtype, [None, 4])],
        [helper.make_tensor_value_info(name, kind, [None] * (1 + (kind == 1))) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid(ML, 1), helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def compare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rewritten model gives what the original gives."""
    dtype = np.int64 if model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64 else np.float32
    x = (RNG.normal(size=(6, 4)) * 3).astype(dtype)
    before = ort.InferenceSession(model.SerializeToString()).run(None, {"X": x})
    rewritten = read_model(model).proto
    assert not any(node.domain == ML for node in rewritten.graph.node)
    after = ort.InferenceSession(rewritten.SerializeToString()).run(None, {"X": x})
    for a, b in zip(before, after, strict=True):
        if isinstance(a, list):
            a = np.array([list(row.values()) for row in a])
        if np.asarray(a).dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(b, a)
    return rewritten


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("attributes", [THREE, TWO], ids=["three", "two"])
def test_a_linear_classifier(attributes: dict[str, Any], transform: str) -> None:
    node = ml("LinearClassifier", ["X"], ["label", "p"], post_transform=transform, **attributes)
    rewritten = compare(model_of([node], outputs={"label": TensorProto.INT64, "p": 1}))
    assert [t.name for t in rewritten.graph.initializer] == ["linearclassifier.weight", "linearclassifier.bias"]


def test_two_classes_have_logits_to_train_on() -> None:
    node = ml("LinearClassifier", ["X"], ["label", "p"], post_transform="LOGISTIC", **TWO)
    source = read_model(model_of([node], outputs={"label": TensorProto.INT64, "p": 1}))
    assert [o.name for o in source.outputs] == ["p", "label"]
    (maker,) = [node for node in source.nodes if "p" in node.output]
    assert maker.op_type == "Softmax"


def test_labels_that_are_texts_are_in_the_exported_model_alone() -> None:
    attributes = {**THREE, "classlabels_strings": ["ant", "bee", "cat"]}
    del attributes["classlabels_ints"]
    node = ml("LinearClassifier", ["X"], ["label", "p"], post_transform="SOFTMAX", **attributes)
    model = model_of([node], outputs={"label": TensorProto.STRING, "p": 1})
    compare(model)
    assert [o.name for o in read_model(model).outputs] == ["p"]


@pytest.mark.parametrize("targets", [1, 3])
def test_a_linear_regressor(targets: int) -> None:
    rows = ROWS[: 4 * targets]
    node = ml("LinearRegressor", ["X"], ["y"], coefficients=rows, intercepts=[0.5] * targets, targets=targets)
    compare(model_of([node], outputs={"y": 1}))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.INT64])
def test_a_scaler_is_computed_and_not_trained(dtype: int, session: Any) -> None:
    nodes = [
        ml("Scaler", ["X"], ["s"], offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5, 1.0, 2.0, 0.25]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    model = model_of(nodes, outputs={"y": 1}, dtype=dtype, w=RNG.normal(size=(4, 2)).astype(np.float32))
    compare(model)
    assert list(session(model).parameters()) == ["w"]


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_rows_are_normalised(norm: str) -> None:
    compare(model_of([ml("Normalizer", ["X"], ["y"], norm=norm)], outputs={"y": 1}))


def test_probabilities_are_not_normalised_twice() -> None:
    nodes = [
        ml("LinearClassifier", ["X"], ["label", "p"], post_transform="SOFTMAX", **THREE),
        ml("Normalizer", ["p"], ["y"], norm="L1"),
    ]
    model = model_of(nodes, outputs={"label": TensorProto.INT64, "y": 1})
    compare(model)
    source = read_model(model)
    assert next(node for node in source.nodes if "y" in node.output).op_type == "Softmax"


def neural(two: bool, zipped: bool) -> onnx.ModelProto:
    """As a multi-layer perceptron is written: for two classes by one sigmoid."""
    classes = [3, 5] if two else [3, 5, 6]
    nodes = [helper.make_node("MatMul", ["X", "w"], ["z"])]
    if two:
        nodes += [
            helper.make_node("Sigmoid", ["z"], ["s"]),
            helper.make_node("Sub", ["one", "s"], ["n"]),
            helper.make_node("Concat", ["n", "s"], ["p"], "Concat", axis=1),
        ]
    else:
        nodes += [helper.make_node("Softmax", ["z"], ["p"])]
    nodes += [
        helper.make_node("ArgMax", ["p"], ["i"], axis=1),
        ml("ArrayFeatureExtractor", ["classes", "i"], ["l"]),
        helper.make_node("Reshape", ["l", "flat"], ["label"]),
    ]
    outputs = {"label": TensorProto.INT64, "p": 1}
    if zipped:
        nodes.append(ml("ZipMap", ["p"], ["maps"], classlabels_int64s=classes))
        outputs = {"label": TensorProto.INT64, "maps": 1}
    w = RNG.normal(size=(4, 1 if two else 3)).astype(np.float32)
    constants = {"classes": np.array(classes), "flat": np.array([-1]), "one": np.float32(1)}
    model = model_of(nodes, outputs=outputs, w=w, **constants)
    if zipped:
        kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, []))
        model.graph.output[1].type.CopyFrom(helper.make_sequence_type_proto(kind))
    return model


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_perceptron_ends_in_a_softmax_over_logits(two: bool, zipped: bool, session: Any) -> None:
    model = neural(two, zipped)
    compare(model)
    s = session(model, loss="cross-entropy")
    assert s.manifest.stripped == "Softmax"
    assert s.manifest.outputs[0].name == ("maps" if zipped else "p")
    batch = {"X": RNG.normal(size=(8, 4)).astype(np.float32), "target": np.array([0, 1] * 4)}
    losses = [s.step(batch, 0.1) for _ in range(5)]
    assert losses[-1] < losses[0]


BROKEN = {
    "odd transform": ml("LinearClassifier", ["X"], ["label", "p"], post_transform="PROBIT", **THREE),
    "one class": ml("LinearClassifier", ["X"], ["label", "p"], coefficients=ROWS[:4], classlabels_ints=[1]),
    "no coefficients": ml("LinearClassifier", ["X"], ["label", "p"], classlabels_ints=[1, 2]),
    "coefficients that do not fit": ml("LinearRegressor", ["X"], ["p"], coefficients=ROWS[:5], targets=3),
    "no rows": ml("LinearRegressor", ["X"], ["p"], coefficients=ROWS[:4], targets=-1),
    "a trillion rows": ml("LinearRegressor", ["X"], ["p"], coefficients=ROWS[:4], targets=10**12),
    "a transformed regressor": ml("LinearRegressor", ["X"], ["p"], coefficients=ROWS[:4], post_transform="SOFTMAX"),
    "greatest norm": ml("Normalizer", ["X"], ["p"], norm="MAX"),
    "trees": ml("TreeEnsembleRegressor", ["X"], ["p"]),
    "a list that is computed": ml("ArrayFeatureExtractor", ["X", "X"], ["p"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_known_is_refused_by_name(name: str) -> None:
    node = BROKEN[name]
    with pytest.raises(ModelError) as caught:
        read_model(model_of([node], outputs={"p": 1}))
    assert node.op_type in caught.value.cause
    assert caught.value.hint


def test_trees_have_no_gradient() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"uses TreeEnsembleRegressor of domain 'ai\.onnx\.ml'"):
        read_model(model_of([BROKEN["trees"]], outputs={"p": 1}))
