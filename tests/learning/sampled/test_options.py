"""What an application may choose for sampled training, and why not."""

import pytest

from edgefl.learning.sampled.options import MAX_AGGREGATORS, MAX_SAMPLE, MAX_WINDOW, MIN_PATIENCE_S, SampledOptions


def test_the_defaults_are_those_of_plexus():
    options = SampledOptions()
    assert options.objection() is None
    assert options.threshold(0) == options.threshold(13) == 10
    assert options.threshold(1) == 1
    assert options.timeout_s == 300


def test_patience_follows_the_median_of_the_last_rounds() -> None:
    options = SampledOptions(timeout_s=100.0)
    assert options.patience_s([]) == 100
    assert options.patience_s([3.0, 90.0, 4.0]) == 16
    assert options.patience_s([0.1]) == MIN_PATIENCE_S
    assert options.patience_s([1000.0]) == 100


def test_a_quorum_is_a_share_of_a_usual_sample() -> None:
    options = SampledOptions(sample=4)
    assert options.quorum(0.5, [], 1) == 1, "a fleet of one"
    assert options.quorum(0.5, [], 5) == options.quorum(0.5, [], 500) == 2
    assert options.quorum(1.0, [3, 4, 4], 1) == 4, "who has just started knows the last rounds alone"
    assert options.quorum(0.1, [4], 5) == 1
    assert options.quorum(0.5, [2**32], 3) == 2, "no record makes it more than a sample"


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"sample": 0}, "sample"),
        ({"sample": MAX_SAMPLE + 1}, "sample"),
        ({"aggregators": 0}, "aggregators"),
        ({"aggregators": MAX_AGGREGATORS + 1}, "aggregators"),
        ({"sample": 2, "aggregators": 3}, "aggregators"),
        ({"success": 0.0}, "success"),
        ({"success": 1.1}, "success"),
        ({"sample": 1, "success": 0.5}, "success"),
        ({"window": 0}, "window"),
        ({"window": MAX_WINDOW + 1}, "window"),
        ({"timeout_s": 1.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
    ],
    ids=str,
)
def test_an_impossible_choice_names_itself(wrong, name):
    objection = SampledOptions(**wrong).objection()
    assert objection is not None
    assert objection.startswith(name)
