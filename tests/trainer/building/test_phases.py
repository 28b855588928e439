"""A first convolution and the pool behind it: the gradients stay the same, and so does what wins where maxima tie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.building import build

from edgefl import trainer
from edgefl.trainer.building import phases
from edgefl.trainer.files.manifest import TRAINING

FORMS: dict[str, dict[str, Any]] = {
    "3 × 3 with a bias": {"pads": [1, 1, 1, 1]},
    "without a bias": {"pads": [1, 1, 1, 1], "bias": False},
    "places left over": {"x": (2, 9, 7), "kernel": (3, 3)},
    "uneven kernel, pads and window": {"x": (1, 8, 9), "kernel": (5, 2), "pads": [2, 0, 1, 1], "window": (1, 3)},
    "rows in pairs": {"x": (3, 6, 6), "window": (2, 1), "pads": [0, 1, 0, 1]},
}


def model(
    onnx_model: Any,
    *,
    x: tuple[int, ...] = (3, 8, 8),
    kernel: tuple[int, int] = (3, 3),
    pads: Any = (0, 0, 0, 0),
    window: tuple[int, int] = (2, 2),
    bias: bool = True,
    weights: Any = None,
    conv: Any = None,
    pool: Any = None,
) -> onnx.ModelProto:
    """Convolution with 4 kernels, Relu, pool, and a sum over what comes out with weights of its own."""
    rng = np.random.default_rng(3)
    draw = weights or (lambda shape: rng.normal(size=shape).astype(np.float32))
    values = {"w": draw((4, x[0], *kernel)), **({"b": draw((4,))} if bias else {})}
    attributes = {"kernel_shape": window, "strides": window, **(pool or {})}
    nodes = [
        helper.make_node("Conv", ["x", *values], ["c"], pads=list(pads), **(conv or {})),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], **attributes),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Mul", ["f", "v"], ["y"]),
    ]
    strides, dilations = (conv or {}).get("strides", [1, 1]), (conv or {}).get("dilations", [1, 1])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = [(n + pads[i] + pads[i + 2] - reach[i]) // strides[i] + 1 for i, n in enumerate(x[1:])]
    edge = attributes.get("pads", [0] * 4)
    out = [(n + edge[i] + edge[i + 2] - window[i]) // attributes["strides"][i] + 1 for i, n in enumerate(size)]
    values["v"] = draw((1, 4 * out[0] * out[1]))
    made: onnx.ModelProto = onnx_model(nodes, values, x=("batch", *x))
    return made


def sessions(made: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[trainer.Session]:
    """As it is built, and as it would be without the rewrite."""
    build(made, loss="mse", out=tmp_path / "phases")
    monkeypatch.setattr(phases, "MAX_CHANNELS", 0)
    build(made, loss="mse", out=tmp_path / "plain")
    return [trainer.Session(tmp_path / name, threads=1) for name in ("phases", "plain")]


def strides(directory: Path) -> list[list[int]]:
    """Of the convolutions in the training graph that read the input with trained kernels: their first axis."""
    nodes = onnx.load(directory / TRAINING).graph.node
    found = [node for node in nodes if node.op_type == "Conv" and node.input[0] == "x"]
    return [list(a.ints) for node in found[:1] for a in node.attribute if a.name == "strides"]


@pytest.mark.parametrize("name", FORMS)
def test_the_gradients_are_those_of_the_layer_as_it_stands(
    name: str, onnx_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(onnx_model, **FORMS[name])
    found, expected = sessions(made, tmp_path, monkeypatch)
    assert strides(tmp_path / "phases") == [list(FORMS[name].get("window", (2, 2)))]
    rng = np.random.default_rng(0)
    for samples in (1, 5):
        x = rng.normal(size=(samples, *FORMS[name].get("x", (3, 8, 8)))).astype(np.float32)
        data = {"x": x, "target": rng.normal(size=(samples, expected.manifest.target.shape[1])).astype(np.float32)}
        assert found.training_loss(data) == pytest.approx(expected.training_loss(data), rel=1e-6)
        for key, gradient in expected.gradients(data).items():
            np.testing.assert_allclose(found.gradients(data)[key], gradient, atol=1e-5 * float(abs(gradient).max()))


def test_of_equal_maxima_the_first_place_is_taken_as_before(
    onnx_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers: sums are exact, ties are everywhere, and which place wins shows in the gradient of the kernels."""
    rng = np.random.default_rng(5)
    made = model(onnx_model, pads=[1, 1, 1, 1], weights=lambda shape: rng.integers(-1, 2, shape).astype(np.float32))
    found, expected = sessions(made, tmp_path, monkeypatch)
    x = rng.integers(0, 2, (8, 3, 8, 8)).astype(np.float32)
    x[:3] = 0.0
    data = {"x": x, "target": rng.integers(-2, 3, (8, 64)).astype(np.float32)}
    gradients = expected.gradients(data)
    assert np.abs(gradients["w"]).max() > 0
    for key, gradient in gradients.items():
        np.testing.assert_array_equal(found.gradients(data)[key], gradient)


@pytest.mark.parametrize(
    "form",
    [
        {"conv": {"strides": [2, 2]}},
        {"conv": {"dilations": [2, 2]}},
        {"x": (5, 8, 8)},
        {"x": (4, 9, 9), "kernel": (6, 6)},
        {"window": (3, 3)},
        {"pool": {"strides": [1, 1]}},
        {"pool": {"pads": [0, 0, 1, 1]}},
    ],
    ids=str,
)
def test_what_would_gain_nothing_stays_as_it_is(form: dict[str, Any], onnx_model: Any, tmp_path: Path) -> None:
    made = model(onnx_model, **form)
    build(made, loss="mse", out=tmp_path)
    assert strides(tmp_path) == [form.get("conv", {}).get("strides", [1, 1])] or strides(tmp_path) == []


def test_a_convolution_whose_output_is_read_elsewhere_stays(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Mul", ["p", "g"], ["y"]),
    ]
    build(onnx_model(nodes, {"w": np.ones((2, 1, 3, 3), np.float32)}, x=("batch", 1, 8, 8)), loss="mse", out=tmp_path)
    assert strides(tmp_path) in ([], [[1, 1]])


def test_the_evaluation_graph_stays_as_it_is(onnx_model: Any, tmp_path: Path) -> None:
    build(model(onnx_model), loss="mse", out=tmp_path)
    nodes = onnx.load(tmp_path / "eval_model.onnx").graph.node
    assert [node.op_type for node in nodes[:2]] == ["Conv", "MaxPool"]
