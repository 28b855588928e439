"""The whole demonstration: start a fleet, let it train, judge the result, leave nothing behind."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.demo.yardsticks import Question, ask
from edgefl.errors import TryAgainError
from edgefl.overlay.rank import rank
from edgefl.pictures import draw_tree, round_line, tree_depth
from edgefl.wire import Capacity, Contact, parse_node_name

Say = Callable[[str], None]

FINISH_S = 900.0
"""A demonstration that has not finished by then reports how far it came."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for."""

    nodes: int = 8
    rounds: int = 12
    apps: int = 1
    topology: str = "forest"
    model: str = "mlp"
    seed: int = 0
    compress: str = "none"


@dataclass(slots=True)
class Outcome:
    """One application's result."""

    name: str
    id: str = ""
    root: str | None = None
    expected_root: str | None = None
    depth: int = 0
    rounds: int = 0
    federated: float = 0.0
    centralised: float = 0.0
    local_mean: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def run_demo(wishes: Wishes, say: Say) -> dict[str, Any]:
    """Run it; `say` gets lines for people. Returns the document of `edgefl demo --json`.

    Ctrl-C and SIGTERM end it early and clean up as well. Raises EdgeflError.
    """
    began = time.monotonic()
    with _interruptible(), tempfile.TemporaryDirectory(prefix="edgefl-demo-") as place:
        directory = Path(place)
        division = digits.divide(wishes.nodes, wishes.seed)
        sizes = ", ".join(str(len(part)) for part in division.parts)
        say(f"digits: {sizes} images on {wishes.nodes} devices, {len(division.test)} kept aside to judge the result")
        outcomes = [Outcome(f"digits-{number + 1}") for number in range(wishes.apps)]
        for number in range(wishes.apps):
            digits.build_artifacts(wishes.model, wishes.seed + number, directory / f"artifacts-{number}")
        errors: list[str] = []
        with LocalFleet(directory, wishes.nodes, digits.write_parts(division, directory)) as fleet:
            fleet.start()
            say(f"fleet: {wishes.nodes} daemons have joined ({time.monotonic() - began:.1f} s)")
            training_began = time.monotonic()
            _create(fleet, wishes, outcomes)
            _follow(fleet, wishes, outcomes, say)
            training_s = time.monotonic() - training_began
            bytes_per_node = _inspect(fleet, outcomes, errors, say)
            for number, outcome in enumerate(outcomes):
                file = directory / f"{outcome.name}.onnx"
                fleet.client(number % wishes.nodes).pull(outcome.id, file)
                outcome.federated = digits.accuracy_of_file(file, division.test)
        say("yardsticks: all data in one place, and every device alone")
        questions = [
            Question(directory / f"artifacts-{number}", wishes.model, wishes.nodes, wishes.seed, wishes.rounds)
            for number in range(wishes.apps)
        ]
        for outcome, (centralised, local_mean) in zip(outcomes, ask(questions), strict=True):
            outcome.centralised, outcome.local_mean = centralised, local_mean
        document = _document(wishes, outcomes, errors, bytes_per_node)
        document["training_seconds"] = round(training_s, 2)
    document["seconds"] = round(time.monotonic() - began, 2)
    return document


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that everything is cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _create(fleet: LocalFleet, wishes: Wishes, outcomes: list[Outcome]) -> None:
    recipe = digits.RECIPES[wishes.model]
    for number, outcome in enumerate(outcomes):
        created = fleet.client(number % wishes.nodes).call(
            "app.create",
            directory=str(fleet.directory / f"artifacts-{number}"),
            name=outcome.name,
            data="digits",
            topology=wishes.topology,
            rounds=wishes.rounds,
            local_epochs=recipe.local_epochs,
            batch=recipe.batch,
            learning_rate=recipe.lr,
            held_back=0.1,
            deadline_s=60.0,
            min_members=wishes.nodes,
            compress=wishes.compress,
            seed=wishes.seed,
        )
        outcome.id = created["id"]


def _follow(fleet: LocalFleet, wishes: Wishes, outcomes: list[Outcome], say: Say) -> None:
    """Print every round of every application, until all of them have finished on all devices."""
    shown: set[tuple[str, int]] = set()
    roots: dict[str, str | None] = {}
    pictured: set[str] = set()
    deadline = time.monotonic() + FINISH_S
    began = time.monotonic()
    while True:
        done = True
        for number, outcome in enumerate(outcomes):
            app = fleet.client(number % wishes.nodes).call("app.show", app=outcome.id)
            if app["root"] != roots.get(outcome.id) and app["round"] + len(app["history"]) > 0:
                roots[outcome.id] = app["root"]
                say(f"{outcome.name}: the root is {app['root']}")
            for record in app["history"]:
                if (outcome.id, record["round"]) not in shown and "loss" in record:
                    shown.add((outcome.id, record["round"]))
                    say(f"{outcome.name}: {round_line(record, app['rounds'])}")
            if outcome.id not in pictured and app["round"] >= 1:
                pictured.add(outcome.id)
                for line in draw_tree(_parents(fleet, outcome.id)):
                    say(f"    {line}")
            if app["finished"] and not outcome.seconds:
                outcome.seconds = time.monotonic() - began
            outcome.history, outcome.rounds = app["history"], app["round"]
            done = done and app["finished"]
        if done and all(app["finished"] for status in fleet.statuses().values() for app in status["applications"]):
            return
        if time.monotonic() > deadline:
            raise TryAgainError(f"not finished after {FINISH_S:g} s", hint="the machine may be too busy: fewer --nodes")
        time.sleep(0.1)


def _parents(fleet: LocalFleet, app_id: str) -> dict[str, str | None]:
    """Device -> parent in the application's tree, as the devices themselves see it."""
    return {
        status["node"]: app["parent"]
        for status in fleet.statuses().values()
        for app in status["applications"]
        if app["id"] == app_id
    }


def _inspect(fleet: LocalFleet, outcomes: list[Outcome], errors: list[str], say: Say) -> float:
    """Fill in what the trees look like at the end, collect problems; mean bytes sent per device."""
    statuses = fleet.statuses()
    for number, status in statuses.items():
        errors += [f"device {number}: {problem}" for problem in status["problems"]]
    missing = set(range(fleet.nodes)) - set(statuses)
    errors += [f"device {number} does not answer any more" for number in sorted(missing)]
    for outcome in outcomes:
        parents = _parents(fleet, outcome.id)
        roots = [node for node, parent in parents.items() if parent is None]
        outcome.root = roots[0] if len(roots) == 1 else None
        outcome.depth = tree_depth(parents)
        outcome.expected_root = max(parents, key=lambda node: _rank(node, outcome.id))
        if outcome.root != outcome.expected_root:
            errors.append(f"{outcome.name}: roots {roots}, but {outcome.expected_root} ranks highest")
    sent: list[int] = [status["traffic"].get("bytes_sent", 0) for status in statuses.values()]
    return sum(sent) / max(1, len(sent))


def _rank(node: str, app_id: str) -> Any:
    contact = Contact(parse_node_name(node), "127.0.0.1", 1, capacity=Capacity.NORMAL)
    return rank(contact, parse_node_name(app_id))


def _document(wishes: Wishes, outcomes: list[Outcome], errors: list[str], bytes_per_node: float) -> dict[str, Any]:
    def mean(name: str) -> float:
        values: list[float] = [getattr(outcome, name) for outcome in outcomes]
        return round(sum(values) / len(values), 4)

    return {
        "nodes": wishes.nodes,
        "apps": wishes.apps,
        "rounds": min(outcome.rounds for outcome in outcomes),
        "model": wishes.model,
        "topology": wishes.topology,
        "seed": wishes.seed,
        "accuracy": {name: mean(name) for name in ("federated", "centralised", "local_mean")},
        "bytes_per_node": round(bytes_per_node),
        "tree": {"depth": max(outcome.depth for outcome in outcomes), "root": outcomes[0].root},
        "applications": [
            {
                "name": outcome.name,
                "id": outcome.id,
                "root": outcome.root,
                "expected_root": outcome.expected_root,
                "depth": outcome.depth,
                "rounds": outcome.rounds,
                "seconds": round(outcome.seconds, 2),
                "accuracy": {
                    "federated": round(outcome.federated, 4),
                    "centralised": round(outcome.centralised, 4),
                    "local_mean": round(outcome.local_mean, 4),
                },
                "history": outcome.history,
            }
            for outcome in outcomes
        ],
        "errors": errors,
    }
