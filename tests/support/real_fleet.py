"""Real daemons for end-to-end tests: the demonstration's local fleet, small tasks, waits that have deadlines."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from support.own_time import OwnTime

WAIT_S = 60.0


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """The condition's value as soon as it is true; fails with `what` when it is not in time, which is our own."""
    own_time = OwnTime()
    while own_time() < timeout_s:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:g} s in vain for: {what}")


def wait_ended(process: subprocess.Popen[Any], timeout_s: float = WAIT_S) -> int:
    """The exit code of a process that ends by itself."""
    wait_for(lambda: process.poll() is not None, f"the end of {process.args!r:.200}", timeout_s)
    return int(process.returncode)


def edgefl(*arguments: str, timeout_s: float = WAIT_S, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line, as a user does."""
    command = [sys.executable, "-m", "edgefl", *arguments]
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, text=True, **options)
        try:
            code = wait_ended(process, timeout_s)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), errors.read())


class Task:
    """A fleet of `nodes` daemons with the digits divided between them, and one application on it."""

    def __init__(self, directory: Path, nodes: int, *, seed: int = 0) -> None:
        self.directory = directory
        self.division = digits.divide(nodes, seed)
        self.fleet = LocalFleet(directory, nodes, digits.write_parts(self.division, directory), clock=OwnTime())
        digits.build_artifacts("mlp", seed, directory / "artifacts")
        self.id = ""

    def create(self, **settings: Any) -> None:
        """Announce the application at device 0; training begins when all devices are there."""
        recipe = digits.RECIPES["mlp"]
        options: dict[str, Any] = {
            "name": "digits",
            "data": "digits",
            "rounds": 6,
            "local_epochs": recipe.local_epochs,
            "batch": recipe.batch,
            "learning_rate": recipe.lr,
            "held_back": 0.1,
            "min_members": self.fleet.nodes,
            "deadline_s": 60.0,
            **settings,
        }
        created = self.fleet.client(0).call("app.create", directory=str(self.directory / "artifacts"), **options)
        self.id = created["id"]

    def stop(self) -> None:
        """The owner has seen enough: the application ends with the round that is open."""
        self.fleet.client(0).call("app.state", app=self.id, state="stopped")

    def app(self, number: int) -> dict[str, Any]:
        """The application as device `number` sees it."""
        for app in self.fleet.status(number)["applications"]:
            if app["id"] == self.id:
                found: dict[str, Any] = app
                return found
        return {}

    def apps(self) -> dict[int, dict[str, Any]]:
        """The application as every running device sees it."""
        return {
            number: app
            for number, status in self.fleet.statuses().items()
            for app in status["applications"]
            if app["id"] == self.id
        }

    def root(self) -> int:
        """The device that is the root, once there is just one."""

        def the_root() -> list[int] | None:
            roots = [number for number, app in self.apps().items() if app["is_root"]]
            return roots if len(roots) == 1 else None

        (number,) = wait_for(the_root, "a single root")
        return int(number)

    def wait_finished(self, timeout_s: float = WAIT_S) -> None:
        def finished() -> bool:
            apps = self.apps()
            return len(apps) == len(list(self.fleet.running())) and all(app["finished"] for app in apps.values())

        wait_for(finished, "the application's end on every running device", timeout_s)

    def accuracy(self, number: int) -> float:
        """Of the model pulled from device `number`, on digits that no device has."""
        file = self.directory / f"pulled-{number}.onnx"
        self.fleet.client(number).pull(self.id, file)
        return digits.accuracy_of_file(file, self.division.test)
