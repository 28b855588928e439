"""The history of an application for people and for other tools: table, CSV, pictures, TensorBoard, MLflow."""

from __future__ import annotations

import csv
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from edgefl.cli.app_history import COLUMNS, HEADER, history_row, write_csv
from edgefl.cli.writers import EXPERIMENT, MLflow, TensorBoard, Writer
from edgefl.daemon.report import record_document
from edgefl.errors import MissingPackageError, UnreachableError, UsageError
from edgefl.pictures import draw_history
from edgefl.wire.learning import Metric, RoundRecord


def document(round_: int, **values: float) -> dict[str, Any]:
    """One round as the daemon shows it; evaluated unless the newest."""
    metrics = tuple(Metric(name, value * 10, 10) for name, value in values.items())
    if round_ == 0:
        return record_document(RoundRecord(0, 1 << 16, 0, 0, 0.0, metrics))
    return record_document(RoundRecord(round_, 1 << 16, 3, 300, 1.5, metrics, 2048, 1))


def rounds() -> list[dict[str, Any]]:
    """Three rounds, the newest not evaluated yet."""
    return [
        document(0, loss=2.5, accuracy=0.125),
        document(1, loss=1.5, accuracy=0.5, train_loss=2.0, train_epsilon=0.25),
        document(2, loss=0.5, accuracy=0.75, train_loss=1.0, train_epsilon=0.0625, f1=0.5),
        document(3, train_loss=0.75, train_epsilon=0.0),
    ]


def test_epsilon_is_in_the_table_and_in_the_document() -> None:
    assert rounds()[1]["epsilon"] == 0.25
    assert "epsilon" not in rounds()[0]
    row = dict(zip(HEADER, history_row(rounds()[2]), strict=True))
    assert (row["ROUND"], row["DEVICES"], row["LOSS"], row["KB"], row["EPSILON"]) == (2, 3, "0.5000", 2, "0.0625")
    assert history_row(rounds()[0])[-1] is None


def test_a_csv_file_has_the_same_columns_always_and_further_metrics_after_them(tmp_path: Path) -> None:
    write_csv(rounds(), tmp_path / "h.csv")
    with (tmp_path / "h.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == (*COLUMNS, "f1")
    assert [line["round"] for line in lines] == ["0", "1", "2", "3"]
    assert [line["epsilon"] for line in lines] == ["", "0.25", "0.0625", "0.0"]
    assert [line["f1"] for line in lines] == ["", "", "0.5", ""]
    assert [line["accuracy"] for line in lines] == ["0.125", "0.5", "0.75", ""]
    write_csv([], tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text().strip() == ",".join(COLUMNS)


MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", MAGIC)
def test_a_picture_is_of_the_kind_that_its_name_says(kind: str, tmp_path: Path) -> None:
    path = draw_history(rounds(), "digits", tmp_path / f"h.{kind}")
    assert path.read_bytes().startswith(MAGIC[kind])


def test_a_picture_shows_a_panel_for_everything_that_is_known(tmp_path: Path) -> None:
    text = draw_history(rounds(), "digits", tmp_path / "h.svg").read_text()
    bare = draw_history([document(1, loss=1.0)], "digits", tmp_path / "bare.svg").read_text()
    for label in ("loss", "accuracy", "devices", "seconds", "MB", "epsilon"):
        assert f"<!-- {label} -->" in text
        assert (f"<!-- {label} -->" in bare) == (label not in ("accuracy", "epsilon"))


def test_a_picture_in_a_directory_has_a_name_of_its_own(tmp_path: Path) -> None:
    assert draw_history(rounds(), "digits", tmp_path) == tmp_path / "history.png"
    assert draw_history([], "digits", tmp_path / "new") == tmp_path / "new" / "history.png"
    with pytest.raises(UsageError, match=r"\.txt"):
        draw_history(rounds(), "digits", tmp_path / "h.txt")


class Memory(Writer):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int, dict[str, float]]] = []

    def write_round(self, number: int, values: dict[str, float]) -> None:
        self.written.append((number, values))

    def close(self) -> None: ...


def test_each_round_is_written_once_when_it_is_complete() -> None:
    writer = Memory()
    known = rounds()
    writer.write(known[:2], finished=False)
    writer.write(known, finished=False)
    writer.write(known[2:], finished=False)
    assert [number for number, _ in writer.written] == [0, 1, 2]
    writer.write([document(3, loss=0.25, train_loss=0.75), document(4, train_loss=0.5)], finished=False)
    writer.write([document(4, train_loss=0.5)], finished=True)
    assert [number for number, _ in writer.written] == [0, 1, 2, 3, 4]
    assert writer.written[0][1] == {"loss": 2.5, "accuracy": 0.125}
    assert writer.written[1][1] == {
        "participants": 3, "samples": 300, "seconds": 1.5, "bytes": 2048, "attempts": 1,
        "members": 0, "budget_s": 0, "stalest": 0, "dropped": 0,
        "loss": 1.5, "accuracy": 0.5, "train_loss": 2.0, "epsilon": 0.25,
    }  # fmt: skip
    assert writer.written[3][1]["loss"] == 0.25


def test_a_round_that_was_never_evaluated_is_written_when_a_later_one_is_there() -> None:
    writer = Memory()
    writer.write([document(1, train_loss=1.0), document(2, train_loss=0.5)], finished=False)
    assert [number for number, _ in writer.written] == [1]


def test_without_its_package_a_writer_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingPackageError, match="tensorboardX") as caught:
        TensorBoard(tmp_path, "digits")
    assert caught.value.hint == "pip install 'edgefl[tensorboard]'"
    with pytest.raises(MissingPackageError, match="MLflow") as caught:
        MLflow(f"file://{tmp_path}", "digits", "0123")
    assert caught.value.hint == "pip install 'edgefl[mlflow]'"


def events_of(directory: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) in the event files, in order; a file's records are framed as TFRecord."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(directory.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + size
    return found


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with TensorBoard(tmp_path, "digits") as writer:
        writer.write(rounds()[:2], finished=False)
        writer.write(rounds(), finished=True)
    events = events_of(tmp_path / "digits")
    assert [(step, value) for name, step, value in events if name == "loss"] == [(0, 2.5), (1, 1.5), (2, 0.5)]
    assert [(step, value) for name, step, value in events if name == "epsilon"] == [(1, 0.25), (2, 0.0625), (3, 0.0)]
    assert ("participants", 3, 3.0) in events


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path}"
    with MLflow(uri, "digits", "0123") as run:
        run.write(rounds()[:3], finished=False)
    with MLflow(uri, "digits", "0123") as run:
        run.write(rounds(), finished=True)
    with MLflow(uri, "digits", "4567") as run:
        run.write(rounds()[:1], finished=False)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    first, second = sorted(
        client.search_runs([experiment.experiment_id]), key=lambda run: str(run.data.tags["edgefl.app"])
    )
    assert (first.info.run_name, first.data.tags["edgefl.app"]) == ("digits", "0123")
    losses = client.get_metric_history(first.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in losses) == [(0, 2.5), (1, 1.5), (2, 0.5)]
    assert len(client.get_metric_history(first.info.run_id, "epsilon")) == 3
    assert len(client.get_metric_history(second.info.run_id, "loss")) == 1


def test_an_mlflow_server_that_does_not_answer_is_an_error_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        MLflow("http://127.0.0.1:9", "digits", "0123")
