"""Options of losses: those that make sense, in the form that a manifest holds; every other is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefl.errors import ModelError
from edgefl.trainer.building.losses import LOSSES
from edgefl.trainer.files import loss_options


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("mse", {"delta": 1.0}, "mse has no option delta"),
        ("cross-entropy", {"weights": [1.0]}, "cross-entropy has no option weights"),
        ("cross-entropy", {"label_smoothing": 1.5}, "label_smoothing of loss cross-entropy is 1.5"),
        ("cross-entropy", {"label_smoothing": float("nan")}, "is nan"),
        ("cross-entropy", {"label_smoothing": "0.1"}, "is '0.1'"),
        ("cross-entropy", {"class_weights": 2.0}, "is 2.0"),
        ("cross-entropy", {"class_weights": "12"}, "is '12'"),
        ("cross-entropy", {"class_weights": []}, "is \\[\\]"),
        ("cross-entropy", {"class_weights": [0.0, 0.0]}, "is \\[0.0, 0.0\\]"),
        ("cross-entropy", {"class_weights": [1.0, -1.0]}, "is \\[1.0, -1.0\\]"),
        ("cross-entropy", {"class_weights": [1.0, float("inf")]}, "is \\[1.0, inf\\]"),
        ("cross-entropy", {"class_weights": [1.0] * 70_000}, "class_weights"),
        ("cross-entropy", {"class_weights": [1.0, True]}, "is \\[1.0, True\\]"),
        ("cross-entropy", {"ignore_index": 1.0}, "is 1.0"),
        ("cross-entropy", {"ignore_index": True}, "is True"),
        ("cross-entropy", {"ignore_index": 1 << 70}, "ignore_index"),
        ("cross-entropy", {"axis": None}, "is None"),
        ("bce", {"pos_weight": 0.0}, "is 0.0"),
        ("bce", {"pos_weight": -1}, "is -1"),
        ("huber", {"delta": 0}, "is 0"),
        ("huber", {"delta": 1e-40}, "is 1e-40"),
        ("huber", {"delta": False}, "is False"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        LOSSES[name].settings(options)
    assert caught.value.hint
    assert len(caught.value.cause) < 200


def test_an_unknown_loss_is_refused_with_the_choices() -> None:
    with pytest.raises(ModelError, match="no loss 'hinge'") as caught:
        loss_options.settings("hinge", {})
    assert "huber" in caught.value.hint


def test_settings_are_what_a_manifest_can_hold() -> None:
    given = {"class_weights": (1, np.float32(0.5)), "ignore_index": np.int64(-100)}
    settings = LOSSES["cross-entropy"].settings(given)
    assert settings == {"class_weights": [1.0, 0.5], "ignore_index": -100, "label_smoothing": 0.0}
    assert {type(value) for value in (*settings["class_weights"], settings["ignore_index"])} == {float, int}
    assert LOSSES["cross-entropy"].settings(settings) == settings
    assert LOSSES["cross-entropy"].options == {
        "axis": None,
        "class_weights": None,
        "ignore_index": None,
        "label_smoothing": 0.0,
    }
    assert LOSSES["huber"].settings() == {"delta": 1.0}


def test_every_loss_has_its_options_stated() -> None:
    assert [*LOSSES, "own"] == list(loss_options.OPTIONS)
