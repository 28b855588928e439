"""The first step of a stranger's artifacts, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import helper
from support.building import build

from edgefl.datasets import models
from edgefl.errors import ModelError, StorageError
from edgefl.trainer.files.manifest import MANIFEST, TRAINING, blake2b
from edgefl.trainer.running import trial
from edgefl.trainer.running.cancelled import TrainingCancelledError


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    build(models.mlp(hidden=4), loss="cross-entropy", out=tmp_path / "art")
    return tmp_path / "art"


def replace_training(directory: Path, model: onnx.ModelProto) -> None:
    """Another training graph, and a manifest that vouches for it."""
    content = model.SerializeToString()
    (directory / TRAINING).write_bytes(content)
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"][TRAINING] = {"size_bytes": len(content), "blake2b": blake2b(content)}
    manifest["operators"] = sorted({*manifest["operators"], *(node.op_type for node in model.graph.node)})
    (directory / MANIFEST).write_text(json.dumps(manifest))


def test_sound_artifacts_are_tried_once_for_the_same_graphs(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    trial.require_tried(artifacts, notes)
    (note,) = notes.iterdir()
    monkeypatch.setattr(trial, "require_trial", lambda *_, **__: pytest.fail("tried again"))
    trial.require_tried(artifacts, notes)
    monkeypatch.undo()
    build(models.mlp(hidden=5), loss="cross-entropy", out=tmp_path / "other")
    monkeypatch.setattr(trial, "MAX_NOTES", 1)
    trial.require_tried(tmp_path / "other", notes)
    (newer,) = notes.iterdir()
    assert newer != note


def test_a_place_for_notes_that_cannot_be_written_is_named(artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        trial.require_tried(artifacts, tmp_path / "file" / "notes")


def test_a_graph_that_onnxruntime_refuses_is_refused_by_name(artifacts: Path) -> None:
    model = onnx.load(artifacts / TRAINING)
    model.graph.node[0].input[0] = "nowhere"
    replace_training(artifacts, model)
    with pytest.raises(ModelError, match=r"training_model\.onnx"):
        trial.require_trial(artifacts)


def test_a_graph_that_takes_all_memory_takes_that_of_its_child_alone(artifacts: Path) -> None:
    model = onnx.load(artifacts / TRAINING)
    huge = helper.make_tensor("huge", onnx.TensorProto.INT64, [4], [1 << 12] * 4)
    model.graph.initializer.append(huge)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["zeros"], "fill"))
    model.graph.node.append(helper.make_node("ReduceSum", ["zeros"], ["sum"], "sum", keepdims=0))
    last = next(node for node in model.graph.node if model.graph.output[0].name in node.output)
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Add", ["before", "sum"], [model.graph.output[0].name], "late"))
    replace_training(artifacts, model)
    with pytest.raises(ModelError, match=r"Failed to allocate memory|too much memory|crashed the process"):
        trial.require_trial(artifacts)


def test_it_ends_in_time_and_on_demand(artifacts: Path) -> None:
    with pytest.raises(ModelError, match="a first step with these artifacts took over 0 s"):
        trial.require_trial(artifacts, timeout_s=0.0)
    with pytest.raises(TrainingCancelledError, match="was stopped"):
        trial.require_trial(artifacts, should_stop=lambda: True)
