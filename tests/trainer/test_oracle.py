"""Another differentiator of ONNX graphs, which shares no code with edgefl, finds the same gradients.

onnx-ad (PyPI) makes of a model f another one that computes dx = Jᵀ · dy. For dy it is given the slope of the mean
squared error, so that dx is what a step of ours begins with. Every case of every family of rules is put to it, and then
whole models as exporters write them. What it cannot judge is in one table, with the reason.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.gradient_cases import Case, build_case

from edgefl.trainer.gradients import CONSTANT, RULES

onnx_ad = pytest.importorskip("onnx_ad")

HERE = Path(__file__).parent
BATCH = 3
TOLERANCE = 1e-4
"""Of the largest element of a gradient: float32 on both sides."""

NOTHING = 1e-3
"""Of the largest element of all gradients: below it is rounding, as of a bias in front of a normalisation."""


def uneven(case: Case) -> bool:
    pads = list(case.attributes.get("pads", ()))
    return pads[: len(pads) // 2] != pads[len(pads) // 2 :]


NOT_JUDGED: dict[str, Callable[[Case], bool]] = {
    "it wants explicit pads": lambda c: str(c.attributes.get("auto_pad")).startswith("SAME"),
    "pads that differ at both ends: it asks ConvTranspose for an output_shape, for which ONNX ignores pads": (
        lambda c: c.operator == "Conv" and uneven(c)
    ),
    "windows that stick out": lambda c: c.operator == "AveragePool" and bool(c.attributes.get("ceil_mode")),
    "steps other than 1": lambda c: c.operator == "Slice" and len(c.inputs) > 4,
    "padding with anything but a constant": lambda c: c.operator == "Pad" and "mode" in c.attributes,
    "exponents that are no floats": lambda c: (
        c.operator == "Pow" and any(np.asarray(value).dtype.kind == "i" for value in c.constants.values())
    ),
    "outputs beside the first: whole models have these operators": lambda c: c.operator in ("LSTM", "GRU"),
}
"""Reason -> the cases that onnx-ad 0.3 refuses, or (the second) gets wrong."""

WEIGHTS_NOT_JUDGED: dict[str, Callable[[Case], bool]] = {
    "the weights of groups": lambda c: c.operator == "Conv" and "group" in c.attributes,
    "the weights of ConvTranspose": lambda c: c.operator == "ConvTranspose",
}
"""Of these cases dx alone is compared."""

MODELS = (
    *("bilstm.dynamo", "cnn32.dynamo", "encoder.dynamo", "gru.dynamo", "lenet.dynamo-raw", "lstm.dynamo", "mlp.dynamo"),
    *("resnet8.torchscript-train", "tokens.torchscript"),
    *("keras-attention.tf2onnx-18", "keras-dense.tf2onnx-18", "keras-lstm.tf2onnx-18", "keras-norm.tf2onnx-18"),
)
"""Of those under exported/. The running statistics of resnet8 are used: in training mode onnx-ad refuses it."""


def family_cases() -> Iterator[Case]:
    """The cases of every module in gradients/, where each rule has at least one."""
    for path in sorted((HERE / "gradients").glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"oracle_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from getattr(module, "CASES", ())


CASES = list(family_cases())


def reason(table: Mapping[str, Callable[[Case], bool]], case: Case) -> str:
    return next((why for why, applies in table.items() if applies(case)), "")


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are flushed to the disk, which takes three quarters of the time here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_operator(case: Case, session: Any) -> None:
    if why := reason(NOT_JUDGED, case):
        pytest.skip(f"onnx-ad: {why}")
    rng = np.random.default_rng(11)
    model = build_case(case, rng)
    feeds = {"x": case.draw(rng, (BATCH, *case.x))}
    shape = run(model, feeds)["y"].shape
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", *shape[1:])))
    weights = () if reason(WEIGHTS_NOT_JUDGED, case) else tuple(case.weights)
    frozen = ("mean", "var") if case.operator == "BatchNormalization" else ()
    compare(model, feeds, session(model, trainable=["shift", *weights], frozen=frozen))


@pytest.mark.parametrize("name", MODELS)
def test_a_model(name: str, session: Any) -> None:
    path = HERE / "exported" / f"{name}.onnx"
    frozen = ["*running*"] if "train" in name else []
    s = session(path, frozen=frozen)
    (declared,) = s.manifest.inputs
    rng = np.random.default_rng(2)
    shape = (BATCH, *declared.shape[1:])
    x = rng.normal(size=shape) if declared.dtype == "float32" else rng.integers(0, 20, shape)
    # the user's model, as it will be exported again: with the names that the weights have in training
    compare(onnx.load(s.directory / "inference_model.onnx"), {declared.name: x.astype(declared.dtype)}, s)


def test_nearly_every_rule_is_judged() -> None:
    judged = {case.operator for case in CASES if not reason(NOT_JUDGED, case)}
    assert {name for name, rule in RULES.items() if rule is not CONSTANT} - judged == {"GRU", "LSTM"}


def compare(model: onnx.ModelProto, feeds: dict[str, Any], s: Any) -> None:
    """Both gradients of the mean squared error against random numbers."""
    output = s.manifest.outputs[0].name
    y = run(model, feeds)[output]
    target = np.random.default_rng(5).normal(size=y.shape).astype(np.float32)
    found = s.gradients({**feeds, "target": target})
    expected = by_onnx_ad(model, feeds, list(found), {output: 2 * (y - target) / np.float32(y.size)})
    least = NOTHING * max(float(np.abs(gradient).max()) for gradient in expected.values())
    for name, gradient in expected.items():
        scale = max(least, float(np.abs(gradient).max()), 1e-6)
        np.testing.assert_allclose(found[name] / scale, gradient / scale, atol=TOLERANCE, rtol=0, err_msg=name)


def by_onnx_ad(model: onnx.ModelProto, feeds: dict[str, Any], names: list[str], dy: dict[str, Any]) -> dict[str, Any]:
    """The gradients of the weights `names`, which are made inputs for it; it wants every shape to be a number."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in names}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name not in names]
    for field in ("initializer", "value_info", "input", "output"):
        graph.ClearField(field)
    graph.initializer.extend(kept)
    for name, array in {**feeds, **weights}.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    for name, array in dy.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    adjoint = onnx_ad.reverse(onnx.shape_inference.infer_shapes(plain), names, list(dy), layout="onnx")
    seeds = {f"adj_{name}": array[..., None] for name, array in dy.items()}  # one direction
    found = run(adjoint, {**feeds, **weights, **seeds})
    return {name: found[f"adj_{name}"][..., 0] for name in names}


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # with more, ScatterND loses some of the sums that onnx-ad has it make
    options.log_severity_level = 4
    s = ort.InferenceSession(model.SerializeToString(), options)
    return dict(zip([output.name for output in s.get_outputs()], s.run(None, feeds), strict=True))
