"""Building in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.building import build as build_here

from edgefl import trainer
from edgefl.datasets import models
from edgefl.errors import ModelError, StorageError, UnsupportedOperatorError
from edgefl.trainer.child import Child


def test_it_gives_the_same_artifacts_as_in_this_process(tmp_path: Path) -> None:
    options = {"loss": "cross-entropy", "optimizer": "adam", "frozen": ["hidden.*"]}
    options |= {"loss_options": {"class_weights": np.arange(1.0, 11.0)}, "optimizer_options": {"beta1": 0.8}}
    manifest = trainer.build(models.mlp(hidden=4), out=tmp_path / "apart", **options)
    options["loss_options"] = {"class_weights": [float(n) for n in range(1, 11)]}
    assert manifest == build_here(models.mlp(hidden=4), out=tmp_path / "here", **options)
    for name in manifest.files:
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_models_losses_and_adapters_cross_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.mlp(hidden=4)
    onnx.save(model, tmp_path / "m.onnx")
    loss = helper.make_model(
        helper.make_graph(
            [helper.make_node("Sub", ["prediction", "target"], ["d"]), helper.make_node("ReduceMean", ["d"], ["loss"])],
            "loss",
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 10]) for n in ("prediction", "target")],
            [helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (tmp_path / "loss.onnx").write_bytes(loss.SerializeToString())
    lora = trainer.LowRank(2, targets=("hidden.*",))
    monkeypatch.chdir(tmp_path)
    built = [
        trainer.build(a_model, loss=a_loss, lora=lora, out=f"art{i}")
        for i, (a_model, a_loss) in enumerate(
            [(model, loss), (model.SerializeToString(), loss.SerializeToString()), ("m.onnx", Path("loss.onnx"))]
        )
    ]
    assert built[0] == built[1] == built[2]
    assert built[0].adapters
    assert built[0].loss.name == "own"


def test_errors_come_back_as_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no loss 'mean'") as caught:
        trainer.build(models.mlp(), loss="mean", out=tmp_path)
    assert "choose one of cross-entropy" in caught.value.hint
    odd = models.mlp(hidden=4)
    odd.graph.node[-1].CopyFrom(helper.make_node("Asinh", [odd.graph.node[-1].input[0]], ["logits"], "odd"))
    with pytest.raises(UnsupportedOperatorError, match="'odd' uses Asinh"):
        trainer.build(odd, loss="mse", out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"):
        trainer.build(models.mlp(hidden=4), loss="mse", out=tmp_path / "file" / "out")
    with pytest.raises(ModelError, match="an option is"):
        trainer.build(models.mlp(hidden=4), loss="mse", out=tmp_path, optimizer_options={"momentum": object()})  # type: ignore[dict-item]


def test_what_ends_the_child_leaves_the_caller_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the test's own stands for a library that dies."""
    (tmp_path / "dying.py").write_text("import os, signal, sys\nos.kill(os.getpid(), int(sys.argv[1]))\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    child = Child("dying", "building this", "leave it")
    with pytest.raises(ModelError, match=r"building this crashed the process that tried it \(SIGSEGV\)"):
        child.run([str(int(signal.SIGSEGV))], timeout_s=60)


def test_a_child_is_stopped_in_time_and_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleeping.py").write_text("import sys\nsys.stdin.read()\nwhile True: pass\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    child = Child("sleeping", "this", "leave it")
    with pytest.raises(ModelError, match=r"this took over 0\.3 s"):
        child.run([], request=[bytes(1 << 20)], timeout_s=0.3)
    with pytest.raises(InterruptedError):
        child.run([], timeout_s=60, should_stop=lambda: True)


def test_a_request_that_no_pipe_can_hold_reaches_a_child_that_is_slow_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\ntime.sleep(0.3)\nraise SystemExit(len(sys.stdin.buffer.read()) != 1 << 20)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    Child("slow", "this", "leave it").run([], request=[bytes(1 << 19), bytes(1 << 19)], timeout_s=30)


@pytest.mark.parametrize("output", ["", "no JSON", "[1]", '["usage", "a", "b"]', '{"a": 1}'])
def test_last_words_that_are_none(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(f"print({output!r})\nraise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with pytest.raises(ModelError, match="this failed without a word"):
        Child("odd", "this", "leave it").run([], timeout_s=60)


def test_without_the_onnx_package_building_says_what_to_install(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["onnx"] = None
from edgefl import trainer
from edgefl.errors import MissingPackageError
try:
    trainer.build(b"", loss="mse", out={str(tmp_path)!r})
except MissingPackageError as error:
    print(error.name, error.hint)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "missing-package pip install 'edgefl[build]'\n"
