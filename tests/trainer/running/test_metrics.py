"""What is counted beside a loss, and how the results of batches are put together."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edgefl.trainer.running.metrics import counted, metrics, weight
from tests.support.loss_values import loss_and_slope

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 1.0, 1.0]], np.float32)
LABELS = np.array([0, 1, 1, 2])


def test_accuracy_is_the_share_of_labels_that_are_the_highest_class() -> None:
    assert metrics("cross-entropy", {}, LOGITS, LABELS) == {"count": 4, "accuracy": 0.5}


def test_ignored_labels_do_not_count() -> None:
    assert metrics("cross-entropy", {"ignore_index": 2}, LOGITS, LABELS) == {"count": 3, "accuracy": 2 / 3}
    assert metrics("cross-entropy", {"ignore_index": 7}, LOGITS, np.full(4, 7)) == {"count": 0, "accuracy": 0.0}


def test_the_classes_are_where_the_axis_says() -> None:
    y = LABELS.reshape(2, 2)
    last = LOGITS.reshape(2, 2, 3)
    expected = {"count": 4, "accuracy": 0.5}
    assert metrics("cross-entropy", {}, last, y) == expected
    assert metrics("cross-entropy", {"axis": 1}, last.transpose(0, 2, 1), y) == expected
    image = last.transpose(0, 2, 1).reshape(2, 3, 2, 1)
    assert metrics("cross-entropy", {}, image, y.reshape(2, 2, 1)) == expected


def test_of_bce_the_side_of_one_half_counts_whether_a_sigmoid_was_stripped_or_not() -> None:
    z = np.array([[2.0, -1.0], [0.5, 3.0]], np.float32)
    t = np.array([[1.0, 0.0], [0.25, 0.75]], np.float32)
    assert metrics("bce", {"pos_weight": 1.0}, z, t) == {"count": 4, "accuracy": 0.75}
    assert metrics("bce", {}, 1 / (1 + np.exp(-z)), t, stripped="Sigmoid") == {"count": 4, "accuracy": 0.75}


@pytest.mark.parametrize(("name", "count"), [("mse", 6), ("mae", 6), ("huber", 6), ("own", 3)])
def test_other_losses_have_no_metric_of_their_own(name: str, count: int) -> None:
    assert metrics(name, {}, np.zeros((3, 2)), np.zeros((3, 2))) == {"count": count}


@pytest.mark.parametrize(
    ("name", "options", "target", "expected"),
    [
        ("cross-entropy", {}, LABELS, 4.0),
        ("cross-entropy", {"ignore_index": 0}, LABELS, 3.0),
        ("cross-entropy", {"class_weights": [4.0, 0.5, 1.0]}, LABELS, 6.0),
        ("cross-entropy", {"class_weights": [4.0, 0.5, 1.0], "ignore_index": -1}, np.array([-1, 2, 1]), 1.5),
        ("cross-entropy", {"ignore_index": 1}, np.array([1, 1]), 0.0),
        ("bce", {"pos_weight": 3.0}, np.ones((2, 3)), 6.0),
        ("mse", {}, np.ones((2, 3)), 6.0),
        ("own", {}, np.ones((2, 3)), 2.0),
    ],
)
def test_the_weight_is_what_the_mean_was_divided_by(name: str, options: Any, target: Any, expected: float) -> None:
    assert weight(name, options, target) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross-entropy", {}),
        ("cross-entropy", {"class_weights": [1.0, 4.0, 0.25], "ignore_index": 1, "label_smoothing": 0.2}),
        ("bce", {"pos_weight": 3.0}),
        ("huber", {}),
    ],
)
def test_weighted_means_of_batches_are_the_mean_of_the_whole(name: str, options: Any) -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(9, 3))
    y = rng.integers(0, 3, 9) if name == "cross-entropy" else rng.random((9, 3)).astype(np.float32)
    parts = [slice(0, 2), slice(2, 3), slice(3, 9)]
    weights = [weight(name, options, y[part]) for part in parts]
    losses, slopes = zip(*(loss_and_slope(name, z[part], y[part], **options) for part in parts), strict=True)
    whole = loss_and_slope(name, z, y, **options)
    assert np.average(losses, weights=weights) == pytest.approx(whole[0], rel=1e-6)
    shares = np.array(weights) / weight(name, options, y)
    joined = np.concatenate([share * slope for share, slope in zip(shares, slopes, strict=True)])
    np.testing.assert_allclose(joined, whole[1], atol=1e-7)


def test_labels_that_do_not_count_need_not_be_classes() -> None:
    y = np.array([[0, -100], [2, 1]])
    np.testing.assert_array_equal(counted("cross-entropy", {"ignore_index": -100}, y), [[True, False], [True, True]])
    assert counted("cross-entropy", {}, y).all()
    assert counted("mse", {}, np.zeros((2, 2))).shape == (2, 2)


def test_a_device_needs_no_onnx_package() -> None:
    code = "import sys, edgefl.trainer.running.metrics; assert not {'onnx', 'onnxruntime'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
