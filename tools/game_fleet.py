"""The routing game among real daemons whose links differ, beside the nearest parent and the best static trees.

Twelve processes, each in a network namespace of its own behind a link of its own rate and delay, where this machine
allows it (plane_bench/network.py); elsewhere on loopback, with uplinks that the daemons limit themselves. One
application on one fleet, so that root and links are the same: some rounds under each rule, with a restart of all
daemons in between (and one without a change of the rule, since a restart changes the tree by itself). At last the trees
that a search finds best are arranged by hand.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "plane_bench"))

import network
from game_search import best_trees
from network import Link, Network

from edgefl.config import split_address
from edgefl.datasets import models
from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.errors import EdgeflError, TryAgainError
from edgefl.overlay.game.rules import Rule
from edgefl.overlay.rank import rank
from edgefl.trainer import build
from edgefl.wire import Capacity, Contact, parse_node_name
from edgefl.wire.contact import pack_contact

DEVICES = 12
ROUNDS, GAME_ROUNDS, LAST = 6, 24, 5
"""Rounds of each phase, those in which the game is played, and how many at the end of a phase count."""

SETTLE = 2
"""The first rounds of a phase belong to nobody: the one in which the daemons stop, the one in which they come back."""

TREES = 2
"""Of those that the search finds best, so many are measured, and the faster one is the yardstick."""

HIDDEN = 8192
"""Units of the one hidden layer: 2.4 MB a model."""

SLOWEST, FASTEST = 6.0, 7.0
"""Powers of ten (log-uniform), bytes a second: 1 to 10 MB/s, each way."""

SHORTEST_MS, LONGEST_MS = 4.0, 60.0
"""A device's part of a round trip."""

TRAIN_S, CHUNK_S = 0.5, 0.1
"""What the search takes for granted: training beside eleven others, and one chunk's way."""

PATIENCE_S = 600.0

GAME_DAEMON = Path(__file__).resolve().parent / "game_daemon.py"


@dataclass(slots=True)
class Seen:
    """What the records and the devices' own views have shown during all phases."""

    seconds: dict[int, float] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    participants: dict[int, int] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)
    looks: int = 0
    wrong_edges: int = 0
    """Parents that do not outrank their child: without one there is no cycle."""

    def of(self, rounds: range) -> list[float]:
        return [self.seconds[number] for number in rounds if number in self.seconds]


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a round (median of the last), by phase; what the search believed of the static trees, and of the tree
    that the game has made; moves of the game, its rounds that needed a second attempt, and those whose sum had not all
    devices, each once (in the other phases, where nobody moves, too)."""

    shaped: bool
    root_bytes_s: float
    nearest_s: float
    nearest_again_s: float
    game_s: float
    static_s: tuple[float, ...]
    model_s: tuple[float, ...]
    game_model_s: float
    moves: int
    lost_rounds: int
    uneven_rounds: int
    uneven_nearest: int
    wrong_edges: int
    rounds_s: tuple[float, ...]


def measure(seed: int) -> Measured:
    random = Random(seed)
    rates = [10 ** random.uniform(SLOWEST, FASTEST) for _ in range(DEVICES)]
    delays = [random.uniform(SHORTEST_MS, LONGEST_MS) for _ in range(DEVICES)]
    shaped = not network.available()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgefl-game-")))
        links = [Link(rate * 8e-6, rate * 8e-6, delay) for rate, delay in zip(rates, delays, strict=True)]
        net = stack.enter_context(Network(links)) if shaped else None
        division = digits.divide(DEVICES, seed)
        model = models.mlp(hidden=HIDDEN, seed=seed).SerializeToString()
        build(model, loss="cross-entropy", optimizer="sgd", out=directory / "artifacts")
        fleet = stack.enter_context(LocalFleet(directory, DEVICES, digits.write_parts(division, directory)))
        trial = Trial(fleet, net, rates, delays)
        return trial.run(seed)


def _contact(status: dict[str, Any]) -> Contact:
    """A device's, by what it says of itself."""
    host, port = split_address(status["address"])
    capacity = Capacity[status["capacity"]["class"].upper()]
    incarnation, zone = status["incarnation"], status["zone"]
    return Contact(parse_node_name(status["node"]), host, port, zone, incarnation, capacity)


class Trial:
    """One fleet, phase after phase."""

    def __init__(self, fleet: LocalFleet, net: Network | None, rates: list[float], delays: list[float]) -> None:
        self._fleet, self._net, self._rates, self._delays = fleet, net, rates, delays
        self._order = fleet.directory / "order.json"
        self._seen = Seen()
        self._round = 0
        for number in range(DEVICES):
            enter = [] if net is None else net.enter(number)
            fleet.commands[number] = (*enter, sys.executable, str(GAME_DAEMON), str(self._order))
            if net is not None:
                fleet.hosts[number] = network.address(number)

    def run(self, seed: int) -> Measured:
        self._configure(Rule.RTT)
        self._fleet.start()
        self._app = self._create(seed)
        nearest = self._play(ROUNDS)
        self._restart(Rule.RTT)
        again = self._play(ROUNDS)
        self._restart(Rule.ACBR)
        game = self._play(GAME_ROUNDS)
        statuses = self._fleet.statuses()
        moves = sum(status["counters"].get("game_moves", 0) for status in statuses.values())
        self._restart(Rule.RTT)
        ranked = sorted(statuses, key=lambda number: self._rank(statuses[number]), reverse=True)
        game_model_s = self._round_s(ranked, self._tree(statuses, ranked))
        found = best_trees(DEVICES, lambda parents: self._round_s(ranked, parents), Random(seed), TREES)
        static = []
        for _, tree in found:
            above = [None if at == 0 else ranked[tree[at]] for at in range(DEVICES)]
            self._arrange(statuses, dict(zip(ranked, above, strict=True)))
            static.append(self._last_s(self._play(ROUNDS)))
        seen, whole = self._seen, Counter(self._seen.samples.values()).most_common(1)[0][0]
        return Measured(
            self._net is not None,
            self._rates[ranked[0]],
            self._last_s(nearest),
            self._last_s(again),
            self._last_s(game),
            tuple(static),
            tuple(seconds for seconds, _ in found),
            game_model_s,
            moves,
            sum(seen.attempts.get(number) != 1 for number in game),
            self._uneven(game, whole),
            self._uneven(nearest, whole) + self._uneven(again, whole),
            seen.wrong_edges,
            tuple(seen.seconds[number] for number in sorted(seen.seconds)),
        )

    def _uneven(self, rounds: range, whole: int) -> int:
        """Rounds whose sum is not that of all devices, each once."""
        counted = ((self._seen.participants.get(number), self._seen.samples.get(number)) for number in rounds)
        return sum(one != (DEVICES, whole) for one in counted)

    def _tree(self, statuses: dict[int, dict[str, Any]], ranked: list[int]) -> list[int]:
        """Everybody's parent, in the order of rank."""
        names = {statuses[number]["node"]: at for at, number in enumerate(ranked)}
        parents = self._parents(statuses)
        above = (parents[statuses[number]["node"]] for number in ranked)
        return [0 if parent is None else names[parent] for parent in above]

    # Phases

    def _configure(self, rule: Rule) -> None:
        for number, rate in enumerate(self._rates):
            limit = "" if self._net is not None else f'[limits]\nuplink = "{rate / 1000:.0f} kB/s"\n'
            path = self._fleet.configs[number] = self._fleet.directory / f"device-{number}.toml"
            path.write_text(f'[overlay]\nrule = "{rule.value}"\n{limit}')

    def _restart(self, rule: Rule) -> None:
        self._order.unlink(missing_ok=True)
        self._fleet.stop()
        self._configure(rule)
        for number in range(DEVICES):
            self._fleet.launch(number)
        for number in range(DEVICES):
            self._fleet.wait_ready(number)

    def _arrange(self, statuses: dict[int, dict[str, Any]], above: dict[int, int | None]) -> None:
        names = {number: status["node"] for number, status in statuses.items()}
        parents = {names[number]: None if parent is None else names[parent] for number, parent in above.items()}
        now = self._fleet.statuses()  # ports are others since the restart
        contacts = {names[number]: pack_contact(_contact(status)).hex() for number, status in now.items()}
        self._order.write_text(json.dumps({"app": self._app, "parents": parents, "contacts": contacts}))
        self._until(lambda parents_now: all(parents_now.get(one) == above for one, above in parents.items() if above))

    def _play(self, rounds: int) -> range:
        """Wait for so many rounds more; those that count."""
        begin = self._round
        self._until(lambda _: self._round >= begin + SETTLE + rounds)
        return range(begin + SETTLE + 1, begin + SETTLE + rounds + 1)

    def _last_s(self, rounds: range) -> float:
        return median(self._seen.of(rounds)[-LAST:])

    # Looking

    def _until(self, done: Callable[[dict[str, str | None]], bool]) -> None:
        """Look at the application and its devices every second until `done`, which is told everybody's parent."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                found = self._fleet.client(0).call("app.show", app=self._app)
                if done(self._note(found)):
                    return
            except EdgeflError:
                pass  # it has not found its application again yet
            time.sleep(1.0)
        raise TryAgainError(f"nothing came of it in {PATIENCE_S:g} s", hint="this machine may be too busy")

    def _note(self, found: dict[str, Any]) -> dict[str, str | None]:
        seen = self._seen
        self._round = max(self._round, found["round"])
        for record in found["history"]:
            if record["round"]:
                seen.seconds[record["round"]] = record["seconds"]
                seen.attempts[record["round"]] = record["attempts"]
                seen.participants[record["round"]] = record["participants"]
                seen.samples[record["round"]] = record["samples"]
        statuses = self._fleet.statuses()
        ranks = {status["node"]: self._rank(status) for status in statuses.values()}
        parents = self._parents(statuses)
        edges = [(below, above) for below, above in parents.items() if above in ranks]
        seen.looks += len(edges)
        seen.wrong_edges += sum(ranks[below] >= ranks[above] for below, above in edges if above is not None)
        return parents

    def _parents(self, statuses: dict[int, dict[str, Any]]) -> dict[str, str | None]:
        return {
            status["node"]: one["parent"]
            for status in statuses.values()
            for one in status["applications"]
            if one["id"] == self._app
        }

    def _rank(self, status: dict[str, Any]) -> Any:
        return rank(_contact(status), int(self._app, 16))

    # What the search believes

    def _round_s(self, ranked: list[int], parents: list[int]) -> float:
        """From the start of a round to the sum at the root. A model is pushed chunk by chunk to all children at once;
        an update goes up in chunks as soon as those of its children come in."""
        rates, count = [self._rates[number] for number in ranked], len(parents)
        way_s = [self._delays[number] / 4000 for number in ranked]
        size = 4 * (64 * HIDDEN + HIDDEN + HIDDEN * 10 + 10)
        children: list[list[int]] = [[] for _ in range(count)]
        for at in range(1, count):
            children[parents[at]].append(at)
        down, lag = [float("inf")] * count, [0.0] * count
        for at in range(1, count):
            above = parents[at]
            down[at] = min(down[above], rates[above] / len(children[above]), rates[at])
            lag[at] = lag[above] + way_s[at] + way_s[above] + CHUNK_S
        first, last = [0.0] * count, [0.0] * count
        for at in range(count - 1, -1, -1):
            first[at] = last[at] = lag[at] + size / down[at] + TRAIN_S
            taken = 0.0
            for child in sorted(children[at], key=lambda one: first[one]):
                lag_s = way_s[child] + way_s[at]
                sent = max(first[child] + size / rates[child], last[child] + CHUNK_S) + lag_s
                taken = max(sent, max(taken, first[child] + lag_s) + size / rates[at])
                first[at] = max(first[at], first[child] + lag_s + CHUNK_S)
            last[at] = max(last[at], taken)
        return last[0]

    def _create(self, seed: int) -> str:
        created = self._fleet.client(0).call(
            "app.create",
            directory=str(self._fleet.directory / "artifacts"),
            name="game",
            data="digits",
            rounds=10_000,
            local_epochs=1,
            batch=32,
            learning_rate=0.01,
            held_back=0.1,
            deadline_s=300.0,
            min_members=DEVICES,
            seed=seed,
        )
        app: str = created["id"]
        return app
