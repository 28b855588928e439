"""Lots, and rounds at the pace of the quick, among real daemons."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.real_fleet import Task

pytestmark = pytest.mark.e2e


def on_sites(tmp_path: Path, sites: list[str]) -> Task:
    """A fleet of one device for each, which its owner has put on that site."""
    task = Task(tmp_path, len(sites))
    for number, site in enumerate(sites):
        config = task.fleet.configs[number] = tmp_path / f"site-{number}.toml"
        config.write_text(f'site = "{site}"\n')
    return task


@pytest.mark.parametrize("pace", ["buffered:goal=0.6,floor=1", "quantile:q=0.6,floor=1"])
def test_five_daemons_draw_lots_and_train_at_their_own_pace(tmp_path: Path, pace: str) -> None:
    task = Task(tmp_path, 5)
    with task.fleet:
        task.fleet.start()
        task.create(rounds=20, pace=pace, select=3, over_select=0.5, quorum=0.3)
        task.wait_finished()
        assert task.accuracy(4) >= 0.85
        history = task.fleet.client(0).call("app.history", app=task.id)
    assert [record["round"] for record in history] == list(range(21))
    for record in history[1:]:
        assert 1 <= record["participants"] <= 5
        assert record["members"] == 5
    assert history[1]["budget_s"] == 60.0
    assert all(record["budget_s"] < 60.0 for record in history[2:])


def test_two_sites_train_by_themselves_between_global_rounds(tmp_path: Path) -> None:
    task = on_sites(tmp_path, ["there", "here"] * 3)
    with task.fleet:
        task.fleet.start()
        task.create(rounds=4, zone_rounds=3)
        task.wait_finished()
        zones = {task.fleet.status(number)["zone"] for number in range(6)}
        assert len(zones) == 2
        assert task.accuracy(5) >= 0.85
        history = task.fleet.client(0).call("app.history", app=task.id)
    assert [record["participants"] for record in history[1:]] == [6] * 4


def test_two_applications_share_the_devices_and_both_get_good(tmp_path: Path) -> None:
    task = Task(tmp_path, 4)
    with task.fleet:
        task.fleet.start()
        # Training takes most of the time, so that who trains for one is missing at the other, also on a fast machine.
        # At the end each round has some of the classes only: small steps keep what the others have taught.
        options = {
            "rounds": 40,
            "local_epochs": 20,
            "pace": "buffered:goal=0.8,floor=1",
            "quorum": 0.3,
            "lr_schedule": "cosine:floor=0.1",
        }
        task.create(name="first", together="plant", **options)
        first = task.id
        task.create(name="second", together="plant", **options)
        second = task.id
        histories = {}
        for task.id in (first, second):
            task.wait_finished()
            assert task.accuracy(3) >= 0.85
            histories[task.id] = task.fleet.client(0).call("app.history", app=task.id)
    for history in histories.values():
        assert [record["round"] for record in history] == list(range(41))
        assert all(1 <= record["participants"] <= 4 for record in history[1:])
        assert all(record["train_need"] > 0 for record in history[1:])
    together = [record["participants"] for history in histories.values() for record in history[1:]]
    assert sum(together) < 0.9 * 4 * len(together), f"a round has a part of the devices: {together}"


def test_each_site_has_a_voice_also_those_that_the_root_has_no_place_for(tmp_path: Path) -> None:
    """Heads of zones deliver straight to the root, also those that hang below another site's."""
    task = on_sites(tmp_path, [f"plant {number}" for number in range(7)])
    with task.fleet:
        task.fleet.start()
        task.create(rounds=4, strategy="trimmed-zones:share=0.2")
        task.wait_finished()
        apps = task.apps().values()
        history = task.fleet.client(0).call("app.history", app=task.id)
        accuracy = task.accuracy(5)
    assert max(app["depth"] for app in apps) >= 2, "the root has places for four other sites"
    assert [record["participants"] for record in history[1:]] == [7] * 4
    assert [record["attempts"] for record in history[1:]] == [1] * 4
    seconds = [record["seconds"] for record in history[1:]]
    assert max(seconds) < 30.0, f"nobody was waited for in vain: {seconds}"
    assert accuracy >= 0.5  # the middle of sites that know different digits
