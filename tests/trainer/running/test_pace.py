"""The sum of the weights of all gradients, against what a real optimiser does with gradients of 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefl.trainer.files.manifest import Optimizer
from edgefl.trainer.running.pace import adds_up, plain_steps


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {}),
        ("momentum", {"momentum": 0.9, "nesterov": 0.0}),
        ("momentum", {"momentum": 0.5, "nesterov": 1.0}),
        ("momentum", {"momentum": 0.0, "nesterov": 1.0}),
        ("momentum", {"momentum": 1.0, "nesterov": 0.0}),
    ],
)
def test_it_is_how_far_gradients_of_one_lead(name: str, options: dict[str, float], steps: int) -> None:
    from onnx.reference import ReferenceEvaluator

    from edgefl.trainer.building.optimizers import optimizer_model

    model, record = optimizer_model(name, options, 1)
    evaluator: Any = ReferenceEvaluator(model)
    p, state, lr = np.zeros(1, np.float32), [np.zeros(1, np.float32) for _ in record.state], np.float32(0.25)
    for _ in range(steps):
        gradient = np.ones(1, np.float32)
        given = {"parameters": p, "gradient": -lr * gradient if record.takes_step else gradient}
        given |= dict(zip(record.state, state, strict=True))
        if not record.takes_step:
            given["lr"] = lr
        p, *state = evaluator.run(None, given)
    assert plain_steps(record, steps) == pytest.approx(-p[0] / lr, rel=1e-5)
    assert adds_up(record)


def test_adam_has_no_such_sum() -> None:
    adam = Optimizer("adam", {"beta1": 0.9, "beta2": 0.999}, ("mean", "square"), True, False)
    assert not adds_up(adam)
    assert plain_steps(adam, 5) == 5.0
