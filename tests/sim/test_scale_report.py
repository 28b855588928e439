"""`edgefl sim scale` and `edgefl sim zones`: documents, tables, pictures, and the event simulator beside the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.hash_seed import printed_with_two_hash_seeds

from edgefl.cli import main
from edgefl.sim.scale import run_scale
from edgefl.sim.scale.cross_check import cross_check

SMALL = ["--nodes", "1500", "--apps", "20", "--routes", "200"]
MEASURED = ("seconds", "peak_memory_bytes")


def edgefl(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sim", *arguments])


def without_measured(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in MEASURED}


def test_the_document_has_the_keys_of_the_contract() -> None:
    document = json.loads(edgefl("scale", *SMALL, "--json").stdout)
    assert document["edgefl"] == 1
    assert document["nodes"] == 1500
    assert {"mean", "p99"} <= document["hops"].keys()
    assert {"mean", "p95"} <= document["stretch"].keys()
    assert document["in_zone_leave"] == 0.0
    assert {"mean", "max"} <= document["contacts"].keys()
    trees = document["trees"]
    assert {"depth", "zone_crossings_over_ideal", "children_worst_node"} <= trees.keys()
    assert {"mean", "max"} <= trees["depth"].keys()
    assert [step["nodes"] for step in document["growth"]] == [1000, 1500]
    assert [row["candidates"] for row in document["stretch_by_candidates"]] == [4, 8, 16]
    assert {"model", "seed", "failure", "roots", "zones", *MEASURED} <= document.keys()
    assert document["peak_memory_bytes"] < 2**30


def test_people_read_tables() -> None:
    shown = edgefl("scale", *SMALL)
    assert shown.exit_code == 0
    for part in ("vectorised: no device is real", "in-zone routes", "as shipped", "landmark binning, 8", "gateway"):
        assert part in shown.stdout
    zones = edgefl("zones", "--nodes", "200")
    assert zones.exit_code == 0
    assert "PAIRS KEPT" in zones.stdout
    document = json.loads(edgefl("zones", "--nodes", "200", "--tau", "25", "--json").stdout)
    assert (document["nodes"], document["tau_ms"], len(document["methods"])) == (200, 25.0, 5)


def test_figures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = edgefl("scale", *SMALL, "--plot", str(tmp_path / "plots"), "--json")
    assert drawn.exit_code == 0
    json.loads(drawn.stdout)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "depth.png",
        "hops.png",
        "load.png",
        "stretch.png",
    ]


def test_without_matplotlib_the_next_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused = edgefl("scale", *SMALL, "--plot", str(tmp_path))
    assert refused.exit_code == 78
    assert "edgefl[plot]" in refused.stderr


def test_measured_rtts_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rtt.csv"
    file.write_text("1,120\n120,1\n")
    document = json.loads(edgefl("zones", "--nodes", "200", "--rtt", str(file), "--json").stdout)
    assert document["methods"][0]["zones"] == 2
    file.write_text("1,2\n3\n")
    refused = edgefl("scale", "--rtt", str(file))
    assert refused.exit_code == 78
    assert "no square matrix" in refused.stderr


def test_the_hash_seed_of_python_does_not_matter() -> None:
    code = (
        "from edgefl.sim.scale import run_scale; d = run_scale(nodes=500, apps=10, routes=100, seed=7);"
        f"print({{k: v for k, v in d.items() if k not in {MEASURED}}})"
    )
    first, second = printed_with_two_hash_seeds(code)
    assert first == second
    assert "growth" in first


def test_progress_rises_and_another_seed_is_another_run() -> None:
    told: list[float] = []
    small = {"nodes": 300, "apps": 5, "routes": 100}
    first = run_scale(**small, seed=1, report=lambda what, share: told.append(share))  # type: ignore[arg-type]
    assert told == sorted(told)
    other = run_scale(**small, seed=2)  # type: ignore[arg-type]
    assert without_measured(first) != without_measured(other)
    assert json.loads(json.dumps(first)) == first


def test_the_model_agrees_with_the_event_simulator_at_300_devices() -> None:
    document = cross_check(nodes=300, lookups=600, idle_s=60.0, seed=1)
    event, model = document["event"], document["model"]
    assert event.keys() == model.keys()
    assert event["right"] == model["right"] == 1.0
    assert (model["slots"], model["leaves"]) == (event["slots"], event["leaves"])
    assert model["contacts"] == pytest.approx(event["contacts"], rel=0.03)
    assert model["hops"] == pytest.approx(event["hops"], rel=0.05)
    assert model["hops_p99"] == event["hops_p99"]
    assert model["stretch_of_totals"] == pytest.approx(event["stretch_of_totals"], rel=0.1)
    assert model["stretch"] == pytest.approx(event["stretch"], rel=0.15)
    assert model["depth"] == pytest.approx(event["depth"], rel=0.25)


def test_the_event_simulator_is_for_small_fleets() -> None:
    refused = edgefl("scale", "--nodes", "100000", "--cross-check")
    assert refused.exit_code == 2
    assert "5,000" in refused.stderr
