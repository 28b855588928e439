"""Losses: values and gradients against PyTorch's, and against the definition in numpy with finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefl.errors import ModelError
from edgefl.trainer.building.losses import LOSSES
from edgefl.trainer.files.manifest import Tensor
from tests.support.loss_values import finite_differences, loss_and_slope

# PyTorch 2.13, float64: the function named, on these numbers

LOGITS = [[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.5, 1.5, 0.0], [-0.5, 3.0, 1.0]]
LABELS = [0, 2, 1, 1]
WEIGHTS = [1.0, 2.0, 0.5]

CROSS_ENTROPY = {  # F.cross_entropy(logits, labels, weight, ignore_index, label_smoothing)
    "plain": (
        {},
        1.135604476,
        [
            [-0.053600741, 0.0097781433, 0.043822598],
            [0.064874115, 0.17634613, -0.24122024],
            [0.11245405, -0.13754595, 0.025091891],
            [0.0064771637, -0.035505797, 0.029028634],
        ],
    ),
    "weights": (
        {"class_weights": WEIGHTS},
        0.6945465798,
        [
            [-0.038982357, 0.007111377, 0.03187098],
            [0.023590587, 0.064125865, -0.087716452],
            [0.16356953, -0.20006683, 0.036497296],
            [0.009421329, -0.051644796, 0.042223467],
        ],
    ),
    "ignore": (
        {"ignore_index": 1},
        1.795161757,
        [[-0.10720148, 0.019556287, 0.087645196], [0.12974823, 0.35269226, -0.48244049], [0, 0, 0], [0, 0, 0]],
    ),
    "smooth": (
        {"label_smoothing": 0.1},
        1.189771143,
        [
            [-0.036934075, 0.00144481, 0.035489265],
            [0.056540782, 0.16801279, -0.22455358],
            [0.10412072, -0.12087928, 0.016758558],
            [-0.0018561697, -0.018839131, 0.0206953],
        ],
    ),
    "all three": (
        {"class_weights": WEIGHTS, "ignore_index": 2, "label_smoothing": 0.1},
        0.4940361472,
        [
            [-0.026928603, -0.0053804434, 0.032309046],
            [0, 0, 0],
            [0.16576288, -0.20090378, 0.0351409],
            [0.0032649843, -0.044442223, 0.041177238],
        ],
    ),
}


@pytest.mark.parametrize("case", CROSS_ENTROPY)
def test_cross_entropy_is_pytorch_s(case: str) -> None:
    options, expected, slope = CROSS_ENTROPY[case]
    found = loss_and_slope("cross-entropy", LOGITS, LABELS, **options)
    assert found[0] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found[1], slope, atol=1e-7)


def test_cross_entropy_of_positions_is_pytorch_s() -> None:
    """F.cross_entropy(z, y, weight=[1, 2, 0.5], label_smoothing=0.2), z [batch, classes, positions], −100 ignored."""
    z = np.array([[[2.0, -1.0], [0.5, 0.0], [1.0, -2.0]], [[1.5, 1.5], [0.0, -0.5], [3.0, 1.0]]])
    y = np.array([[0, 2], [1, -100]])
    options = {"class_weights": WEIGHTS, "label_smoothing": 0.2, "ignore_index": -100}
    slope = [
        [[-0.06205254, 0.02523658], [0.0033102465, 0.082281697], [0.058742294, -0.10751828]],
        [[0.072771158, 0], [-0.47475056, 0], [0.4019794, 0]],
    ]
    found = loss_and_slope("cross-entropy", z, y, axis=1, **options)
    assert found[0] == pytest.approx(2.184876828, rel=1e-6)
    np.testing.assert_allclose(found[1], slope, atol=1e-7)
    # the same with the classes last
    last = loss_and_slope("cross-entropy", z.transpose(0, 2, 1), y, **options)
    assert last[0] == pytest.approx(2.184876828, rel=1e-6)
    np.testing.assert_allclose(last[1].transpose(0, 2, 1), slope, atol=1e-7)


BINARY = ([[2.0, -1.0, 0.0], [100.0, -100.0, 0.5]], [[1.0, 0.0, 0.25], [0.0, 1.0, 1.0]])
ERRORS = ([[0.0, 1.5, -2.0], [0.25, 3.0, -0.5]], [[0.0, 1.0, 1.0], [0.75, -1.0, -0.25]])

ELEMENTWISE = {
    "F.binary_cross_entropy_with_logits": (
        *("bce", {}, BINARY, 33.60123564),
        [[-0.019867154, 0.04482357, 0.041666667], [0.16666667, -0.16666667, -0.062923445]],
    ),
    "… pos_weight=3": (
        *("bce", {"pos_weight": 3.0}, BINARY, 67.19266624),
        [[-0.059601461, 0.04482357, 0], [0.16666667, -0.5, -0.18877033]],
    ),
    "… pos_weight=[3, 0.5, 2]": (
        *("bce", {"pos_weight": [3.0, 0.5, 2.0]}, BINARY, 25.41810561),
        [[-0.059601461, 0.04482357, 0.020833333], [0.16666667, -0.083333333, -0.12584689]],
    ),
    "F.mse_loss": (
        *("mse", {}, ERRORS, 4.260416667),
        [[0, 0.16666667, -1], [-0.16666667, 1.3333333, -0.083333333]],
    ),
    "F.l1_loss": (
        *("mae", {}, ERRORS, 1.375),
        [[0, 0.16666667, -0.16666667], [-0.16666667, 0.16666667, -0.16666667]],
    ),
    "F.huber_loss": (
        *("huber", {}, ERRORS, 1.046875),
        [[0, 0.083333333, -0.16666667], [-0.083333333, 0.16666667, -0.041666667]],
    ),
    "F.huber_loss(delta=0.3)": (
        *("huber", {"delta": 0.3}, ERRORS, 0.3752083333),
        [[0, 0.05, -0.05], [-0.05, 0.05, -0.041666667]],
    ),
}


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_elementwise_losses_are_pytorch_s(case: str) -> None:
    name, options, numbers, expected, slope = ELEMENTWISE[case]
    found = loss_and_slope(name, *numbers, **options)
    assert found[0] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found[1], slope, atol=1e-7)


# The definitions, in float64


def cross_entropy(z: Any, y: Any, axis: int, o: dict[str, Any]) -> float:
    logs = np.moveaxis(z, axis, -1).reshape(-1, z.shape[axis])
    logs = logs - logs.max(axis=1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    classes, smoothing = logs.shape[1], o.get("label_smoothing", 0.0)
    weights = np.array(o.get("class_weights", [1.0] * classes))
    total = divisor = 0.0
    for row, label in zip(logs, y.ravel(), strict=True):
        if label != o.get("ignore_index"):
            total -= (1 - smoothing) * weights[label] * row[label] + smoothing / classes * (weights * row).sum()
            divisor += weights[label]
    return total / divisor if divisor else 0.0


def binary(z: Any, t: Any, q: Any = 1.0) -> float:
    return float(np.mean(q * t * np.log1p(np.exp(-z)) + (1 - t) * np.log1p(np.exp(z))))


def huber(p: Any, t: Any, delta: float) -> float:
    e = np.abs(p - t)
    return float(np.mean(np.where(e <= delta, e * e / 2, delta * (e - delta / 2))))


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    ("shape", "options", "axis"),
    [
        ((2,), {}, 1),
        ((5,), {}, 1),
        ((4, 3), {}, 2),
        ((4, 3), {"axis": -1}, 2),
        ((4, 3), {"axis": 1}, 1),
        ((4, 3), {"axis": -2}, 1),
        ((3, 2, 4), {}, 1),
        ((2, 2, 3), {"axis": 3}, 3),
        ((3, 2, 1, 2), {}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 1, -100, 255])
def test_cross_entropy_agrees_with_its_definition(
    batch: int, shape: Any, options: Any, axis: int, smoothing: float, weighted: bool, ignore: int | None
) -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(size=(batch, *shape)).astype(np.float32).astype(float)
    classes = z.shape[axis]
    y = rng.integers(0, classes, np.delete(z.shape, axis))
    options = dict(options)
    if smoothing:
        options["label_smoothing"] = smoothing
    if weighted:
        options["class_weights"] = [float(w) for w in rng.integers(1, 9, classes) / 4]
    if ignore is not None:
        options["ignore_index"] = ignore
        y[rng.random(y.shape) < 0.3] = ignore
    value, slope = loss_and_slope("cross-entropy", z, y, **options)
    assert value == pytest.approx(cross_entropy(z, y, axis, options), rel=2e-6, abs=1e-7)
    np.testing.assert_allclose(slope, finite_differences(lambda p: cross_entropy(p, y, axis, options), z), atol=3e-7)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("bce", {}, binary),
        ("bce", {"pos_weight": 2.5}, lambda p, t: binary(p, t, 2.5)),
        ("mse", {}, lambda p, t: float(np.mean((p - t) ** 2))),
        ("mae", {}, lambda p, t: float(np.mean(np.abs(p - t)))),
        ("huber", {}, lambda p, t: huber(p, t, 1.0)),
        ("huber", {"delta": 0.4}, lambda p, t: huber(p, t, 0.4)),
    ],
)
def test_elementwise_losses_agree_with_their_definition(shape: Any, name: str, options: Any, reference: Any) -> None:
    rng = np.random.default_rng(4)
    p = (2 * rng.normal(size=shape)).astype(np.float32).astype(float)
    t = (rng.random(shape) if name == "bce" else rng.normal(size=shape)).astype(np.float32)
    value, slope = loss_and_slope(name, p, t, **options)
    assert value == pytest.approx(reference(p, t.astype(float)), rel=1e-6)
    np.testing.assert_allclose(slope, finite_differences(lambda x: reference(x, t.astype(float)), p), atol=3e-7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross-entropy", {}),
        ("cross-entropy", {"class_weights": WEIGHTS, "ignore_index": 2, "label_smoothing": 0.1}),
        *(("bce", {}), ("bce", {"pos_weight": 3.0}), ("mse", {}), ("mae", {}), ("huber", {})),
    ],
)
def test_a_scale_multiplies_the_gradient_alone(name: str, options: Any) -> None:
    p, t = (LOGITS, LABELS) if name == "cross-entropy" else ERRORS
    value, slope = loss_and_slope(name, p, t, **options)
    scaled = loss_and_slope(name, p, t, scale=-0.5, **options)
    assert scaled[0] == value
    np.testing.assert_allclose(scaled[1], -0.5 * slope, rtol=1e-6)


# What is easily wrong


@pytest.mark.parametrize("options", [{}, {"class_weights": [2.0, 0.0, 1.0]}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 2, 2)], ids=str)
def test_if_every_label_is_ignored_loss_and_gradient_are_zero(options: Any, shape: Any) -> None:
    z = np.random.default_rng(0).normal(size=(2, *shape))
    y = np.full((2, *(shape[1:] if len(shape) == 3 else shape[:-1])), -1)
    value, slope = loss_and_slope("cross-entropy", z, y, ignore_index=-1, **options)
    assert value == 0
    np.testing.assert_array_equal(slope, np.zeros(z.shape))


def test_if_every_label_weighs_nothing_loss_and_gradient_are_zero() -> None:
    value, slope = loss_and_slope("cross-entropy", LOGITS, [1, 1, 1, 1], class_weights=[1.0, 0.0, 1.0])
    assert value == 0
    np.testing.assert_array_equal(slope, np.zeros((4, 3)))


def test_an_ignored_label_may_have_an_impossible_class_below_it() -> None:
    value, slope = loss_and_slope("cross-entropy", [[-np.inf, 1.0, 1.0], [0.0, 1.0, 0.0]], [-100, 1], ignore_index=-100)
    assert value == pytest.approx(np.log(1 + 2 / np.e))
    np.testing.assert_array_equal(slope[0], np.zeros(3))


def test_a_negative_ignored_label_is_no_class_counted_from_the_end() -> None:
    """−100 of 200 classes."""
    z = np.random.default_rng(0).normal(size=(2, 200))
    value, slope = loss_and_slope("cross-entropy", z, [-100, 7], ignore_index=-100)
    assert value == pytest.approx(cross_entropy(z[1:], np.array([7]), 1, {}), rel=1e-6)
    assert not slope[0].any()


@pytest.mark.parametrize(("axis", "shape"), [(1, (1, 3)), (1, (1, 3, 1, 1))])
def test_cross_entropy_is_stable_for_large_logits(axis: int, shape: Any) -> None:
    """Both forms of the softmax."""
    value, slope = loss_and_slope("cross-entropy", np.reshape([1e4, 0, -1e4], shape), np.reshape([1], (1, *shape[2:])))
    assert value == 1e4
    np.testing.assert_array_equal(slope.ravel(), [1, -1, 0])


def test_bce_is_stable_for_large_logits() -> None:
    value, slope = loss_and_slope("bce", [[100.0, -100.0, 100.0, -100.0]], [[1.0, 0.0, 0.0, 1.0]])
    assert value == pytest.approx(50, rel=1e-6)
    np.testing.assert_allclose(slope, [[0, 0, 0.25, -0.25]], atol=1e-9)
    value, _ = loss_and_slope("bce", [[1e30, -1e30]], [[1.0, 0.0]], pos_weight=7.0)
    assert value == 0


def test_a_small_bce_is_not_lost_beside_its_large_logits() -> None:
    """Within a few roundings of 1, although |z| is 200 times as large."""
    value, _ = loss_and_slope("bce", [[12.0], [-12.0]], [[1.0], [0.0]])
    assert value == pytest.approx(np.log1p(np.exp(-12.0)), abs=2.5e-7)


@pytest.mark.parametrize("error", [1e-30, 1e-6, 1.0, 3.0, 1e30])
def test_mae_counts_every_error_alike(error: float) -> None:
    _, slope = loss_and_slope("mae", [[error, -error, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(slope, [[0.25, -0.25, 0, 0]])


@pytest.mark.parametrize("name", ["bce", "mse", "mae", "huber"])
def test_means_over_many_elements_keep_their_digits(name: str) -> None:
    """One float32 sum over this million would err by 2e-5 and more."""
    rng = np.random.default_rng(0)
    p, t = (rng.normal(size=(16, 64, 1000)) ** 2).astype(np.float32), np.zeros((16, 64, 1000), np.float32)
    reference = {"bce": binary, "mse": lambda p, t: np.mean((p - t) ** 2), "mae": lambda p, t: np.mean(np.abs(p - t))}
    expected = reference.get(name, lambda p, t: huber(p, t, 1.0))(p.astype(float), t.astype(float))
    assert loss_and_slope(name, p, t)[0] == pytest.approx(expected, rel=5e-6)


# What fits


@pytest.mark.parametrize(
    ("name", "shape", "options", "target", "classes"),
    [
        ("cross-entropy", (None, 10), {}, Tensor("target", "int64", (None,)), 10),
        ("cross-entropy", (None, 64, 1000), {}, Tensor("target", "int64", (None, 64)), 1000),
        ("cross-entropy", (None, 5, 64), {"axis": 1}, Tensor("target", "int64", (None, 64)), 5),
        ("cross-entropy", (None, 21, 32, 48), {}, Tensor("target", "int64", (None, 32, 48)), 21),
        ("cross-entropy", (None, 32, 48, 21), {"axis": -1}, Tensor("target", "int64", (None, 32, 48)), 21),
        ("bce", (None,), {}, Tensor("target", "float32", (None,)), 0),
        ("bce", (None, 4), {"pos_weight": [1, 2, 3, 4]}, Tensor("target", "float32", (None, 4)), 0),
        ("mse", (None, 3, 2), {}, Tensor("target", "float32", (None, 3, 2)), 0),
    ],
)
def test_the_target_fits_the_output(name: str, shape: Any, options: Any, target: Tensor, classes: int) -> None:
    assert LOSSES[name].target(shape, options) == target
    assert LOSSES[name].classes(shape, options) == classes


@pytest.mark.parametrize(
    ("name", "shape", "options", "what"),
    [
        ("cross-entropy", (None,), {}, r"gives \[batch\]"),
        ("cross-entropy", (None, 1), {}, r"gives \[batch, 1\]"),
        ("cross-entropy", (None, None), {}, r"gives \[batch, batch\]"),
        ("cross-entropy", (None, None, 3), {}, r"gives \[batch, batch, 3\]"),
        ("cross-entropy", (None, 3), {"axis": 0}, "axis 0 of an output with 2 axes"),
        ("cross-entropy", (None, 3), {"axis": -2}, "axis -2 of an output with 2 axes"),
        ("cross-entropy", (None, 3), {"axis": 2}, "axis 2 of an output with 2 axes"),
        ("cross-entropy", (None, 3), {"class_weights": [1, 2]}, "2 class weights do not fit 3 classes"),
        ("bce", (None, None), {}, "fixed sizes"),
        ("bce", (None, 3), {"pos_weight": [1, 2]}, "2 weights of positives do not fit"),
        ("huber", (None, 3, None), {}, "fixed sizes"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(name: str, shape: Any, options: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        LOSSES[name].target(shape, options)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "operator", "attributes", "shape", "options", "taken"),
    [
        ("cross-entropy", "Softmax", {"axis": 1}, (None, 3), {}, True),
        ("cross-entropy", "LogSoftmax", {}, (None, 4, 3), {}, True),
        ("cross-entropy", "Softmax", {"axis": 1}, (None, 4, 3), {}, False),
        ("cross-entropy", "Softmax", {"axis": -2}, (None, 4, 3), {"axis": 1}, True),
        ("cross-entropy", "Softmax", {"axis": 1}, (None, 3, 8, 8), {}, True),
        ("cross-entropy", "Softmax", {}, (None, 3, 8, 8), {}, False),
        ("cross-entropy", "Sigmoid", {}, (None, 3), {}, False),
        ("bce", "Sigmoid", {}, (None,), {}, True),
        ("bce", "Softmax", {}, (None, 3), {}, False),
        ("mse", "Softmax", {}, (None, 3), {}, False),
    ],
)
def test_a_final_operator_belongs_to_the_loss_that_contains_it(
    name: str, operator: str, attributes: Any, shape: Any, options: Any, taken: bool
) -> None:
    assert LOSSES[name].takes_in(operator, attributes, shape, options) is taken
