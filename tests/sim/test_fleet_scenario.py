"""The bars of `edgefl sim fleet`, and that a run can be repeated exactly."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.hash_seed import printed_with_two_hash_seeds

from edgefl.cli.sim import sim
from edgefl.sim import run_fleet
from edgefl.sim.fleet import app_id

SMALL = {"nodes": 40, "apps": 2, "members": 15, "lookups": 60}


def without_cpu(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("cpu_seconds", "object_bytes_per_node")}


def check_trees(result: dict[str, Any]) -> None:
    for app in result["apps"] + result["apps_before"]:
        assert app["attached"] == app["members"] == app["counted_by_root"]
        assert app["roots"] == 1
    assert result["cycles"] == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_half_of_three_hundred_devices_vanish(seed: int) -> None:
    result = run_fleet(nodes=300, churn=0.5, seed=seed)
    assert result["joined"] == 300
    assert result["lookups_correct"]["before"] == 1.0
    assert result["lookups_correct"]["after_70s"] >= 0.99
    assert result["lookups_correct"]["after_95s"] >= 0.99
    assert result["trees_whole"]["after_95s"] == result["trees_whole"]["before"] == 3
    assert result["idle_bytes_per_node_s"] <= 75
    assert result["bytes_per_node_s"] <= 100
    check_trees(result)


def test_one_percent_of_all_packets_are_lost() -> None:
    result = run_fleet(nodes=200, churn=0.5, loss=0.01, seed=3, wire=True)
    assert min(result["lookups_correct"].values()) >= 0.98
    check_trees(result)


@pytest.mark.parametrize("zones", [True, False])
def test_the_document_is_json_and_the_same_seed_gives_the_same_one(zones: bool) -> None:
    told: list[tuple[str, float]] = []
    first = run_fleet(seed=5, zones=zones, report=lambda what, share: told.append((what, share)), **SMALL)
    again = run_fleet(seed=5, zones=zones, wire=True, **SMALL)
    assert without_cpu(first) == without_cpu(again)
    assert json.loads(json.dumps(first)) == first
    assert without_cpu(run_fleet(seed=6, zones=zones, **SMALL)) != without_cpu(first)
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert {"nodes", "seed", "lookups_correct", "apps", "cycles", "bytes_per_node_s", "cpu_seconds"} <= first.keys()
    assert list(first["lookups_correct"]) == ["before", "after_45s", "after_70s", "after_95s"]
    assert {"members", "attached", "roots", "depth"} <= first["apps"][0].keys()
    check_trees(first)


def test_the_hash_seed_of_python_does_not_matter() -> None:
    code = f"from edgefl.sim import run_fleet; r = run_fleet(seed=7, **{SMALL}); "
    code += "del r['cpu_seconds'], r['object_bytes_per_node']; print(r)"
    first, second = printed_with_two_hash_seeds(code)
    assert first == second
    assert "lookups_correct" in first


def test_nobody_dies_without_churn() -> None:
    result = run_fleet(seed=8, churn=0.0, **SMALL)
    assert set(result["lookups_correct"].values()) == {1.0}
    assert [app["members"] for app in result["apps"]] == [15, 15]


def test_application_ids_differ() -> None:
    assert len({app_id(index, seed) for index in range(20) for seed in range(20)}) == 400


def test_the_timeline_shows_the_failure_and_the_repair() -> None:
    result = run_fleet(**SMALL)
    series = result["timeline"]
    lengths = {len(column) for column in series.values() if isinstance(column, list)}
    assert lengths == {len(series["time_s"])}
    assert series["time_s"] == sorted(series["time_s"])
    before = max(n for n, time_s in enumerate(series["time_s"]) if time_s < 0)
    assert series["alive"][before] == 40
    assert series["attached"][before] == series["trees_whole"][before] == 1.0
    at = series["time_s"].index(0)
    assert series["alive"][at + 1] == series["alive"][-1] == 20
    assert min(series["attached"][at + 1 :]) < 1.0, "members below the dead have no way to a root"
    assert series["attached"][-1] == series["trees_whole"][-1] == 1.0
    assert 0 < series["lookups_correct"][at] <= 1.0
    assert series["lookups_correct"][at + 16] == 1.0, "75 s later"
    assert sum(result["load"]["children_histogram"]) == 40


def test_figures_of_a_run_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    small = ["fleet", "--nodes", "12", "--apps", "1", "--members", "8", "--rounds", "0"]
    done = CliRunner().invoke(sim, [*small, "--plot", str(tmp_path / "plots"), "--json"])
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["depth.png", "load.png", "repair.png", "traffic.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused = CliRunner().invoke(sim, [*small, "--plot", str(tmp_path)])
    assert refused.exit_code == 78
    assert "edgefl[plot]" in refused.stderr
