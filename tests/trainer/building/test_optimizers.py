"""Optimisers and losses against their formulas in numpy, over several steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgefl.errors import ModelError


def sgd(p: Any, lr: float, **_: float) -> Iterator[Any]:
    while True:
        p = p - lr * (yield p)


def momentum(p: Any, lr: float, momentum: float = 0.9) -> Iterator[Any]:
    v = np.zeros_like(p)
    while True:
        v = momentum * v + (yield p)
        p = p - lr * v


def adam(p: Any, lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, decay: float = 0.0) -> Any:
    m, v, t = np.zeros_like(p), np.zeros_like(p), 0
    while True:
        g = yield p
        t += 1
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p = p - lr * decay * p
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)


@pytest.mark.parametrize(
    ("name", "reference", "options", "expected"),
    [
        ("sgd", sgd, {}, {}),
        ("momentum", momentum, {}, {}),
        ("momentum", momentum, {"momentum": 0.5}, {"momentum": 0.5}),
        ("adam", adam, {}, {}),
        ("adam", adam, {"beta1": 0.8, "epsilon": 1e-3}, {"beta1": 0.8, "epsilon": 1e-3}),
        ("adamw", adam, {}, {"decay": 0.01}),
        ("adamw", adam, {"weight_decay": 0.1}, {"decay": 0.1}),
    ],
)
def test_eight_steps_follow_the_formula(
    name: str, reference: Any, options: Any, expected: Any, linear: Any, session: Any
) -> None:
    s = session(linear(), optimizer=name, optimizer_options=options)
    rng = np.random.default_rng(1)
    w, b = (array.astype(np.float64) for array in s.parameters().values())
    steps = [reference(w, 0.05, **expected), reference(b, 0.05, **expected)]
    w, b = (next(step) for step in steps)
    for _ in range(8):
        x, target = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
        loss = s.step({"x": x.astype(np.float32), "target": target.astype(np.float32)}, lr=0.05)
        error = x @ w + b - target
        assert loss == pytest.approx((error**2).mean(), rel=1e-5)
        slope = 2 * error / error.size
        w, b = steps[0].send(x.T @ slope), steps[1].send(slope.sum(axis=0))
        np.testing.assert_allclose(s.parameters()["w"], w, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(s.parameters()["b"], b, rtol=2e-4, atol=2e-5)


def test_cross_entropy_is_the_mean_over_the_batch_and_stable_for_large_logits(onnx_model: Any, session: Any) -> None:
    model = onnx_model([helper.make_node("Add", ["x", "shift"], ["y"])], {"shift": np.zeros(4, np.float32)})
    s = session(model, loss="cross-entropy")
    x = np.array([[1e4, 0, -1e4, 3], [0.1, 0.2, 0.3, 0.4]], np.float32)
    labels = np.array([3, 1])
    shifted = x.astype(np.float64) - x.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    result = s.evaluate({"x": x, "target": labels})
    assert result == {"loss": pytest.approx(-(logs[0, 3] + logs[1, 1]) / 2), "samples": 2, "accuracy": 0.0}
    expected = (np.exp(logs) - np.eye(4)[labels]).sum(axis=0) / 2
    np.testing.assert_allclose(s.gradients({"x": x, "target": labels})["shift"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"optimizer": "lion"}, "no optimizer 'lion'"),
        ({"optimizer": "sgd", "optimizer_options": {"beta": 1}}, "no option beta"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_choices(options: Any, what: str, linear: Any, session: Any) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        session(linear(), **options)
    assert caught.value.hint
