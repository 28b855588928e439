"""edgefl sim train: tables, files and pictures, and how it fails."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from edgefl.cli import main
from edgefl.datasets import models
from edgefl.sim.train.run import TOPOLOGIES
from edgefl.trainer import build


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["sim", "train", *map(str, arguments)])


def test_every_topology_is_offered() -> None:
    result = run("--nodes", "12", "--seconds", "20", "--points", "2", "--json")
    assert result.exit_code == 0, result.output
    curves = json.loads(result.stdout)["train"]["curves"]
    assert [curve["topology"] for curve in curves] == list(TOPOLOGIES)
    for curve in curves:
        lengths = {len(curve[name]) for name in ("time_s", "accuracy", "bytes", "device_seconds", "rounds")}
        assert lengths == {2}


def test_one_curve_for_each_strategy_where_there_is_a_root() -> None:
    arguments = (
        "--topology",
        "forest",
        "--topology",
        "sampled",
        "--strategy",
        "fedavg",
        "--strategy",
        "fedadam:lr=0.1",
    )
    result = run(*arguments, "--nodes", "12", "--seconds", "20", "--json")
    curves = json.loads(result.stdout)["train"]["curves"]
    assert [(curve["topology"], curve["strategy"]) for curve in curves] == [
        ("forest", "fedavg"),
        ("forest", "fedadam:lr=0.1"),
        ("sampled", "fedavg"),
    ]


def test_one_curve_for_each_pace_of_the_forest() -> None:
    result = run(
        "--topology",
        "forest",
        "--pace",
        "sync",
        "--pace",
        "buffered:goal=0.5,slack=1,floor=0.5",
        "--nodes",
        "12",
        "--seconds",
        "60",
        "--json",
    )
    curves = json.loads(result.stdout)["train"]["curves"]
    assert [curve["strategy"] for curve in curves] == ["fedavg", "fedavg buffered:goal=0.5,slack=1,floor=0.5"]
    assert curves[1]["rounds"][-1] > curves[0]["rounds"][-1] > 0


def test_the_points_come_as_a_file_and_as_pictures(tmp_path: Path) -> None:
    table, plots = tmp_path / "curves.csv", tmp_path / "plots"
    options = (
        "--topology",
        "sampled",
        "--topology",
        "fedavg-server",
        "--nodes",
        "20",
        "--seconds",
        "30",
        "--points",
        "5",
    )
    result = run(*options, "--csv", table, "--plot", plots, "--json")
    assert result.exit_code == 0, result.output
    curves = json.loads(result.stdout)["train"]["curves"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [one for curve in curves for one in curve["accuracy"]]
    assert {row["topology"] for row in rows} == {"sampled", "fedavg-server"}
    names = ["accuracy-bytes.svg", "accuracy-device-seconds.svg", "accuracy-time-s.svg"]
    assert sorted(path.name for path in plots.iterdir()) == names
    for name in names:
        drawn = ElementTree.parse(plots / name)  # noqa: S314 - our own file
        texts = [element.text for element in drawn.iter() if element.tag.endswith("}text")]
        assert {"sampled", "fedavg-server", "accuracy"} <= set(texts)
    before = {path.name: path.read_bytes() for path in plots.iterdir()}
    run(*options, "--plot", plots)
    assert {path.name: path.read_bytes() for path in plots.iterdir()} == before


def test_devices_from_a_file(tmp_path: Path) -> None:
    traces = tmp_path / "traces.csv"
    traces.write_text("step_s,uplink_bytes_s,downlink_bytes_s,delay_s\n2,1e6,4e6,0.01\n")
    options = (
        "--topology",
        "d-psgd-one-peer",
        "--nodes",
        "4",
        "--seconds",
        "100",
        "--points",
        "1",
        "--local-steps",
        "5",
    )
    curve = json.loads(run(*options, "--traces", traces, "--json").stdout)["train"]["curves"][0]
    assert curve["rounds"] == [9]  # 10 s of training each, and a little for the links
    assert curve["device_seconds"] == [400.0]


def test_the_trainer_that_ships_on_real_artifacts(tmp_path: Path) -> None:
    onnx.save(models.mlp(hidden=16), tmp_path / "model.onnx")
    build(tmp_path / "model.onnx", loss="cross-entropy", out=tmp_path / "artifacts")
    options = (
        "--topology",
        "sampled",
        "--topology",
        "fedavg-server",
        "--nodes",
        "10",
        "--seconds",
        "60",
        "--lr",
        "0.3",
    )
    result = run(*options, "--trainer", "ort", "--artifacts", tmp_path / "artifacts", "--json")
    assert result.exit_code == 0, result.output
    for curve in json.loads(result.stdout)["train"]["curves"]:
        assert curve["accuracy"][-1] > 0.7


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--fail", "20"), "ROUND:SHARE"),
        (("--fail", "20:1.5"), "out of range"),
        (("--strategy", "fedmagic"), "no strategy"),
        (("--pace", "leisurely"), "no pace"),
        (("--trainer", "ort"), "belong together"),
        (("--sample", "1", "--success", "0.5"), "not even one model"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], cause: str) -> None:
    result = run("--nodes", "5", "--seconds", "1", *arguments)
    assert result.exit_code == 2
    assert cause in result.stderr
