"""What a session runs on: ONNX Runtime's providers, and its own training package's artifacts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest
from support.building import build

from edgefl import trainer
from edgefl.datasets import models
from edgefl.errors import ConfigError
from edgefl.trainer.running.ort_training import OrtTrainingSession


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this one has it")
def test_a_provider_that_is_not_there_is_named_with_the_next_step(tmp_path: Path) -> None:
    build(models.mlp(hidden=4), loss="cross-entropy", out=tmp_path)
    with pytest.raises(ConfigError, match="no CUDAExecutionProvider") as caught:
        trainer.Session(tmp_path, provider="cuda")
    assert "--provider cpu" in caught.value.hint
    with pytest.raises(ConfigError, match="no provider 'tpu'"):
        trainer.Session(tmp_path, provider="tpu")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime.training") is not None, reason="the package is here")
def test_artifacts_of_the_training_package_need_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own training package") as caught:
        OrtTrainingSession(tmp_path)
    assert "onnxruntime-training-cpu==1.19.2" in caught.value.hint
