"""App: what `edgefl app` does, as calls; the daemon is a node on a loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import edgefl
from edgefl.api import App, Node
from edgefl.control import ControlError
from edgefl.demo import digits
from edgefl.errors import UnreachableError, UsageError
from edgefl.identity.fleet import FleetKey


def node_at(directory: Path, data: Path) -> Node:
    if not (directory / "fleet.key").exists():
        FleetKey.create(directory)
    return Node.join(
        state=directory / "node",
        first=True,
        fleet=directory,
        listen="127.0.0.1:0",
        mdns="off",
        data={"digits": str(data)},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with artifacts, and the data of one device."""
    directory = tmp_path_factory.mktemp("app")
    digits.build_artifacts("mlp", 0, directory / "artifacts")
    digits.write_parts(digits.divide(1, 0), directory)
    return directory


@pytest.fixture(scope="module")
def state(place: Path) -> Iterator[Path]:
    """The state directory of a node that runs while the tests do."""
    up, down = threading.Event(), threading.Event()

    async def run() -> None:
        async with node_at(place, place / "digits-0.npz"):
            up.set()
            await asyncio.to_thread(down.wait)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, run())
        try:
            assert up.wait(30.0) or running.result(0.0) is None
            yield place / "node"
        finally:
            down.set()
            running.result(30.0)


def create(place: Path, state: Path, **options: object) -> App:
    wanted = {"rounds": 3, "batch": 16, "local_epochs": 3, "deadline_s": 60.0, **options}
    return App.create(place / "artifacts", data="digits", state=state, **{"name": "digits", **wanted})


def test_an_application_from_its_creation_to_its_model(place: Path, state: Path, tmp_path: Path) -> None:
    app = create(place, state, name="whole")
    assert app.name != "whole", "it goes by its id, which is nobody else's"
    app.wait(round=1, timeout_s=60.0)
    app.wait(timeout_s=60.0)
    shown = app.show()
    assert (shown["name"], shown["rounds"], shown["finished"]) == ("whole", 3, True)
    history = app.history()
    assert [record["round"] for record in history] == [0, 1, 2, 3]
    assert shown["history"] == history
    assert history[-1]["loss"] < history[0]["loss"]
    pulled = app.pull(tmp_path / "model.onnx")
    assert (pulled["round"], pulled["finished"]) == (3, True)
    assert digits.accuracy_of_file(tmp_path / "model.onnx", digits.divide(1, 0).test) > 0.8
    assert App("whole", state=state).history() == history
    assert [one["name"] for one in App.all(state=state) if one["id"] == app.name] == ["whole"]


def test_watching_ends_with_the_application(place: Path, state: Path) -> None:
    events = list(create(place, state, name="watched").watch())
    rounds = [event["round"] for event in events]
    assert rounds == sorted(rounds)
    assert [event["finished"] for event in events][-1] is True
    assert {record["round"] for event in events for record in event["history"]} == {0, 1, 2, 3}


def test_the_owner_pauses_resumes_and_stops(place: Path, state: Path) -> None:
    app = create(place, state, name="steered", rounds=1_000_000)
    app.wait(round=1, timeout_s=60.0)
    app.pause()
    assert app.show()["wanted"] == "paused"
    app.resume()
    assert app.show()["wanted"] == "running"
    app.stop()
    app.wait(timeout_s=60.0)
    assert 1 <= app.show()["round"] < 1_000_000


def test_what_the_daemon_refuses_has_a_name_a_cause_and_a_next_step(place: Path, state: Path) -> None:
    with pytest.raises(ControlError, match="no strategy is called") as refused:
        create(place, state, strategy="best")
    assert (refused.value.name, bool(refused.value.hint)) == ("manifest", True)
    with pytest.raises(ControlError, match="no application 'nothing'"):
        App("nothing", state=state).history()
    with pytest.raises(ControlError, match="unknown setting 'round'"):
        create(place, state, round=3)
    with pytest.raises(UsageError, match="is no target"):
        create(place, state, target="accuracy=1")
    with pytest.raises(ControlError) as late:
        create(place, state, name="late", min_members=2).wait(timeout_s=0.2)
    assert late.value.name == "try-again"


def test_a_target_ends_it(place: Path, state: Path) -> None:
    app = create(place, state, name="aimed", rounds=200, target="accuracy>=0.5")
    app.wait(timeout_s=60.0)
    assert app.show()["round"] < 200


def test_where_no_daemon_listens(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        App("digits", state=tmp_path).show()


def test_on_the_loop_of_its_own_node_it_says_so_instead_of_waiting_for_ever(place: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with node_at(tmp_path, place / "digits-0.npz"):
            with pytest.raises(UsageError, match="could not answer") as error:
                App.all(state=tmp_path / "node")
            assert "asyncio.to_thread" in error.value.hint
            assert await asyncio.to_thread(lambda: App.all(state=tmp_path / "node")) == []

    asyncio.run(main())


def test_on_the_loop_of_a_program_without_a_node_it_only_waits(state: Path) -> None:
    """A notebook has a loop as well."""
    import subprocess
    import sys

    code = (
        "import asyncio, edgefl\n"
        f"async def main(): return edgefl.App.all(state={str(state)!r})\n"
        "print(len(asyncio.run(main())) >= 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60.0)
    assert done.stdout == "True\n", done.stderr


def test_it_is_a_name_of_the_package() -> None:
    assert edgefl.App is App
