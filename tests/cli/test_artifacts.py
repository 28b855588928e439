"""edgefl artifacts: what people see, what programs read, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from support.gradient_cases import small_model

from edgefl.cli import main
from edgefl.datasets import models
from edgefl.trainer import Session


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["artifacts", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(models.mlp(hidden=8), path)
    return path


@pytest.fixture
def built(model: Path, tmp_path: Path) -> Path:
    assert run("build", model, "--loss", "cross-entropy", "-o", tmp_path / "out").exit_code == 0
    return tmp_path / "out"


def test_build_writes_artifacts_that_train(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--loss", "cross-entropy", "--optimizer", "momentum", "--frozen", "hidden.*")
    result = run("build", model, *options, "-o", out)
    assert result.exit_code == 0
    assert "momentum 0.9" in result.stdout
    assert "90 numbers in 2 tensors" in result.stdout
    assert "360 bytes per model" in result.stdout
    assert list(Session(out).parameters()) == ["logits.weight", "logits.bias"]


def test_build_prints_one_json_document(model: Path, tmp_path: Path) -> None:
    result = run("build", model, "--loss", "cross-entropy", "--trainable", "hidden.*", "-o", tmp_path / "out", "--json")
    document = json.loads(result.stdout)
    assert document["edgefl"] == 1
    assert document["directory"] == str(tmp_path / "out")
    assert document["vector_size"] == 64 * 8 + 8
    assert [p["name"] for p in document["parameters"]] == ["hidden.weight", "hidden.bias"]
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 64]}]


def test_options_adapters_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    onnx.save(models.mlp(hidden=8), tmp_path / "mlp.onnx")
    arguments = ["build", tmp_path / "mlp.onnx", "-o", tmp_path / "out", "--json"]
    options = ["--loss-option", "label_smoothing=0.1", "--optimizer", "momentum", "--optimizer-option", "nesterov=1"]
    document = json.loads(run(*arguments, "--loss", "cross-entropy", *options, "--lora", 2).stdout)
    assert document["loss"] == "cross-entropy"
    assert document["loss_options"]["label_smoothing"] == 0.1
    assert document["optimizer"]["options"]["nesterov"] == 1.0
    assert [adapter["weight"] for adapter in document["adapters"]] == ["hidden.weight", "logits.weight"]
    assert "beside 2 weights" in run("show", tmp_path / "out").stdout

    own = small_model([helper.make_node("Sub", ["prediction", "target"], ["e"]),
                       helper.make_node("Mul", ["e", "e"], ["s"]),
                       helper.make_node("ReduceMean", ["s"], ["y"], keepdims=0)], {}, x=("batch", 10))  # fmt: skip
    own.graph.input[0].name = "prediction"
    own.graph.input.append(helper.make_tensor_value_info("target", onnx.TensorProto.FLOAT, ["batch", 10]))
    onnx.save(own, tmp_path / "own.onnx")
    assert json.loads(run(*arguments, "--loss-model", tmp_path / "own.onnx").stdout)["loss"] == "own"
    for wrong in (
        [],
        ["--loss", "mse", "--loss-model", "own.onnx"],
        ["--loss", "mse", "--lora-alpha", 1],
        ["--loss", "huber", "--loss-option", "delta"],
        ["--loss", "huber", "--loss-option", "delta=high"],
    ):
        assert run(*arguments, *wrong).exit_code == 2


def test_a_stripped_softmax_is_said(tmp_path: Path) -> None:
    soft = models.mlp(hidden=8)
    soft.graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], axis=-1))
    soft.graph.output[0].name = "p"
    onnx.save(soft, tmp_path / "soft.onnx")
    result = run("build", tmp_path / "soft.onnx", "--loss", "cross-entropy", "-o", tmp_path / "out")
    assert "the model ends in Softmax" in result.stderr
    assert "before the final Softmax" in result.stdout


def test_check_compares_gradients_and_times_a_step(built: Path) -> None:
    result = run("check", built, "--samples", "8")
    assert result.exit_code == 0
    assert result.stdout.count(" ok\n") == 4
    assert "ms for 8 samples" in result.stdout
    document = json.loads(run("check", built, "--json").stdout)
    assert document["ok"] is True
    assert document["step_seconds"] > 0
    assert document["gradients"][0]["parameter"] == "hidden.weight"


def test_check_fails_on_wrong_gradients(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Session.gradients
    monkeypatch.setattr(Session, "gradients", lambda s, b: {n: -g for n, g in original(s, b).items()})
    result = run("check", built)
    assert result.exit_code == 1
    assert "WRONG" in result.stdout
    assert json.loads(run("check", built, "--json").stdout)["ok"] is False


def test_check_of_a_model_with_absurd_weights_is_an_error(tmp_path: Path) -> None:
    model = models.mlp(hidden=8)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 1e30, np.float32), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    run("build", tmp_path / "model.onnx", "--loss", "cross-entropy", "-o", tmp_path / "out")
    result = run("check", tmp_path / "out", "--json")
    assert result.exit_code == 78
    assert result.stdout == ""
    assert "infinite or NaN" in result.stderr


def test_show_lists_parameters_and_files(built: Path) -> None:
    result = run("show", built)
    assert result.exit_code == 0
    for part in ("x float32[batch, 64]", "target int64[batch]", "hidden.weight", "[8, 64]", "training_model.onnx"):
        assert part in result.stdout
    assert json.loads(run("show", built, "--json").stdout)["loss"] == "cross-entropy"


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("build", "nothing.onnx", "--loss", "mse", "-o", "out"), 78, "edgefl: model: cannot read nothing.onnx"),
        (("build", "nothing.onnx", "--loss", "hinge", "-o", "out"), 2, "hinge"),
        (("build", "nothing.onnx", "-o", "out"), 2, "--loss"),
        (("show", "nowhere"), 78, "next: name a directory"),
        (("check", "nowhere"), 78, "manifest.json"),
        (("check", "nowhere", "--samples", "0"), 2, "--samples"),
    ],
)
def test_errors_name_the_cause_and_the_next_step(
    arguments: Any, code: int, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code
    assert what in result.stderr
    assert result.stdout == ""


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
import edgefl.cli.artifacts
assert not {"numpy", "onnx", "onnxruntime"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
