"""The demonstration's models are valid ONNX that old runtimes load, and the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgefl.datasets import digits, models


@pytest.mark.parametrize("make", [models.mlp, models.cnn])
def test_the_model_takes_digits_of_any_batch(make: Any) -> None:
    model = make()
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    session = ort.InferenceSession(model.SerializeToString())
    for batch in (1, 7):
        (logits,) = session.run(["logits"], {"x": digits()[0][:batch]})
        assert logits.shape == (batch, 10)
        assert np.abs(logits).max() < 30


@pytest.mark.parametrize("make", [models.mlp, models.cnn])
def test_a_seed_fixes_the_weights(make: Any) -> None:
    assert make(seed=3).SerializeToString() == make(seed=3).SerializeToString()
    assert make(seed=3).SerializeToString() != make(seed=4).SerializeToString()


def test_sizes_can_be_chosen() -> None:
    sizes = {t.name: tuple(t.dims) for t in models.mlp(inputs=10, hidden=5, classes=3).graph.initializer}
    assert sizes == {"hidden.weight": (5, 10), "hidden.bias": (5,), "logits.weight": (3, 5), "logits.bias": (3,)}
    image = models.cnn(side=12, channels=3, hidden=4, classes=2)
    x = np.zeros((2, 144), np.float32)
    assert ort.InferenceSession(image.SerializeToString()).run(None, {"x": x})[0].shape == (2, 2)
