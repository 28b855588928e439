"""Several models that share one fleet: what is compared, on a small fleet whose models are soon good enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefl.cli.sim_together import show
from edgefl.datasets import digits
from edgefl.errors import TryAgainError
from edgefl.sim.apps import together
from edgefl.sim.apps.run import Setting, median_links
from edgefl.sim.apps.together import STEADY, WAYS, School, compare_ways, tasks
from edgefl.sim.train.traces import synthetic

SETTING = Setting(nodes=6, steps=10, quorum=0.5, deadline_s=120.0, seed=1)
EASY = tasks((0.55, 0.4, 0.55, 0.3))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return compare_ways(SETTING, median_links(synthetic(6, 1)), *digits(), EASY)


def test_every_way_ends_with_four_good_models(found: dict[str, Any]) -> None:
    assert [row["way"] for row in found["ways"]] == list(WAYS)
    for row in found["ways"]:
        assert [task["name"] for task in row["tasks"]] == [task.name for task in EASY]
        assert row["all_s"] == max(task["seconds"] for task in row["tasks"])
        assert all(task["rounds"] >= STEADY for task in row["tasks"])
        assert row["device_seconds"] > 0
        assert row["in_turn_over_this"] == round(found["ways"][0]["all_s"] / row["all_s"], 3)


def test_one_after_the_other_is_what_it_says(found: dict[str, Any]) -> None:
    in_turn, at_once, equal, _ = found["ways"]
    seconds = [task["seconds"] for task in in_turn["tasks"]]
    assert seconds == sorted(seconds)
    assert at_once["all_s"] < in_turn["all_s"]
    assert equal["all_s"] < in_turn["all_s"]


def test_only_those_who_share_have_needs_and_a_part_of_the_devices(found: dict[str, Any]) -> None:
    needs = {row["way"]: [task["need"] for task in row["tasks"]] for row in found["ways"]}
    assert needs["in turn"] == needs["at once"] == [None] * 4
    assert needs["equal shares"] == [1.0] * 4
    assert len(set(needs["by need"])) > 1

    def devices(way: str) -> float:
        (row,) = [row for row in found["ways"] if row["way"] == way]
        return float(np.mean([task["participants"] for task in row["tasks"]]))

    assert devices("equal shares") < 0.8 * devices("in turn")
    assert devices("by need") < 0.8 * devices("in turn")


def test_it_is_shown(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    show(found)
    shown = capsys.readouterr().out
    assert "equal shares" in shown
    assert "DIGITS, UNEVEN" in shown


def test_a_target_that_nobody_reaches_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "LONGEST_S", 5.0)
    school = School(
        SETTING, median_links(synthetic(6, 1)), *digits(), tasks((1.0, 1.0, 1.0, 1.0)), "buffered", "at once"
    )
    with pytest.raises(TryAgainError, match="no good model of small or large, digits"):
        school.run()
