"""Strategies whose devices send more than their delta: each against its paper in a tree, over a change of root, a round
that is tried again, a device that comes back; and on handwritten digits, whether they do what they claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.learning_world import World, make_manifest

from edgefl.datasets import digits
from edgefl.learning.effects import TrainResult
from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.metrics import means, merge
from edgefl.learning.strategies.local import Outcome, halves, local_part
from edgefl.learning.strategies.server import Facts, State, step_with_buffers, strategy_of
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.sim.train.learner import Learner
from edgefl.wire import Message
from edgefl.wire.learning import Update, UpdateAck, Verdict

TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
STEPS = {1: 1, 2: 3, 3: 1, 4: 5, 5: 2, 6: 8}


@dataclass
class Paper:
    """The three algorithms as the papers write them, in float64, on quadratic devices |x - target|^2 / 2."""

    name: str
    targets: np.ndarray
    samples: Sequence[int]
    steps: Sequence[int]
    lr: float
    q: float = 1.0
    x: np.ndarray = field(init=False)
    c: np.ndarray = field(init=False)
    own: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.x, self.c = np.zeros(self.targets.shape[1]), np.zeros(self.targets.shape[1])
        self.own = np.zeros(self.targets.shape)

    def descend(self, i: int) -> np.ndarray:
        y = self.x.copy()
        for _ in range(self.steps[i]):
            shift = self.c - self.own[i] if self.name == "scaffold" else 0.0
            y -= self.lr * (y - self.targets[i] + shift)
        return y

    def round(self, chosen: Sequence[int], share: float = 1.0) -> None:
        n = np.array([self.samples[i] for i in chosen], np.float64)
        p = n / n.sum()
        y = np.array([self.descend(i) for i in chosen])
        tau = np.array([self.steps[i] for i in chosen], np.float64)
        if self.name == "scaffold":
            new = self.own[chosen] - self.c + (self.x - y) / (tau[:, None] * self.lr)
            change = new - self.own[chosen]
            self.own[chosen] = new
            self.x, self.c = self.x + p @ (y - self.x), self.c + share * (p @ change)
        elif self.name == "fednova":
            self.x = self.x + (p @ tau) * (p @ ((y - self.x) / tau[:, None]))
        else:
            loss = np.sum((self.targets[chosen] - self.x) ** 2, axis=1)
            step = (self.x - y) / self.lr  # L (w - w_k), L = 1 / lr
            numerator = p @ (loss[:, None] ** self.q * step)
            h = self.q * loss ** (self.q - 1) * np.sum(step**2, axis=1) + loss**self.q / self.lr
            self.x = self.x - numerator / (p @ h)


CASES = ["scaffold", "fednova", "qfedavg", "qfedavg:q=0", "qfedavg:q=2.5"]


def paper_of(world: World, text: str) -> Paper:
    spec = parse_strategy(text)
    devices = list(world.devices.values())
    return Paper(
        spec.name,
        np.array([d.target for d in devices], np.float64),
        [d.samples for d in devices],
        [d.steps for d in devices],
        world.pull,
        spec.options.get("q", 1.0),
    )


def make_world(text: str, rounds: int, **changes: float) -> World:
    world = World(6, manifest=make_manifest(rounds=rounds, strategy=text, **changes))
    world.pull = 0.1
    for number, device in world.devices.items():
        device.steps = STEPS[number]
    return world


def weights_of(world: World, number: int) -> np.ndarray:
    return world.model_of(number)[: world.manifest.parameters]


@pytest.mark.parametrize("text", CASES)
def test_a_tree_does_what_the_paper_says(text: str) -> None:
    world = make_world(text, 6)
    paper = paper_of(world, text)
    world.start(TREE)
    world.run(world.finished)
    for _ in range(6):
        paper.round(range(6))
    for number in world.devices:
        np.testing.assert_allclose(weights_of(world, number), paper.x, rtol=1e-4, atol=1e-5)
    if text == "scaffold":
        np.testing.assert_allclose(world.model_of(3)[5:], paper.c, rtol=1e-4, atol=1e-5)
        for number, device in world.devices.items():
            kept = np.frombuffer(device.memories[world.app_id, "kept"], "<f4")
            np.testing.assert_allclose(kept, paper.own[number - 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.KEEPING, Phase.REPLICATING])
def test_a_successor_goes_on_exactly(text: str, phase: Phase) -> None:
    """The lost root was one of six: SCAFFOLD's c moves by 5/6 of the change in the next round."""
    world = make_world(text, 6)
    paper = paper_of(world, text)
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is phase)
    world.kill(1)
    world.run_for(0.2)
    done = max(device.app.ledger.round for device in world.devices.values())
    world.heal()
    world.run(world.finished)
    for number in range(6):
        paper.round(range(6) if number < done else range(1, 6), 5 / 6 if number == done else 1.0)
    np.testing.assert_allclose(weights_of(world, 2), paper.x, rtol=1e-4, atol=1e-5)


def test_a_round_that_is_tried_again_begins_with_the_control_variates_before() -> None:
    world = make_world("scaffold", 4, quorum=1.0)
    paper = paper_of(world, "scaffold")
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 2)
    world.devices[6].broken = True  # it trains, and nothing comes of it
    world.run(lambda: root.counters.get("round_failed", 0) == 2)
    world.devices[6].broken = False
    world.run(world.finished)
    for _ in range(4):
        paper.round(range(6))
    np.testing.assert_allclose(weights_of(world, 2), paper.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(world.model_of(2)[5:], paper.c, rtol=1e-4, atol=1e-5)


def test_after_a_power_cut_the_control_variates_are_those_of_the_last_round_that_is_done() -> None:
    world = make_world("scaffold", 5)
    paper = paper_of(world, "scaffold")
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.3)  # everybody has heard of round 4
    for number in world.devices:
        world.kill(number)
    for number in world.devices:
        world.restart(number)
    world.heal()
    world.run(world.finished)
    for _ in range(5):
        paper.round(range(6))
    np.testing.assert_allclose(weights_of(world, 1), paper.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(world.model_of(1)[5:], paper.c, rtol=1e-4, atol=1e-5)


def test_an_update_that_is_refused_takes_its_control_variate_with_it() -> None:
    """Device 6 hears that it is late in round 2: c and its c_i both go on without."""
    world = make_world("scaffold", 4, quorum=0.5)
    paper = paper_of(world, "scaffold")

    def tap(sender: int, to: int, message: Message) -> bool | Message:
        if sender == 6 and isinstance(message, Update) and message.round == 2:
            app = world.devices[6].learning
            late = UpdateAck(message.app, message.epoch, message.round, message.attempt, Verdict.LATE)
            world.at(world.now + 0.01, lambda now: app.on_message(world.devices[to].contact, late, now))
            return False
        return True

    world.tap = tap
    world.start({2: 1, 3: 1, 4: 1, 5: 1, 6: 1})
    world.run(world.finished)
    assert world.devices[6].app.counters["own_update_late"] == 1
    paper.round(range(6))
    paper.round(range(5), 5 / 6)
    paper.round(range(6))
    paper.round(range(6))
    np.testing.assert_allclose(weights_of(world, 2), paper.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(world.model_of(2)[5:], paper.c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [b"short", np.full(5, np.nan, "<f4").tobytes(), np.zeros(6, "<f4").tobytes()])
def test_a_control_variate_that_does_not_fit_is_a_fresh_start(bad: bytes) -> None:
    if len(bad) % 4:
        bad = bad[: len(bad) // 4 * 4]
    part = local_part("scaffold")
    model = np.arange(10, dtype=np.float32)
    fresh = part.plan(model, None)
    plan = part.plan(model, np.frombuffer(bad, "<f4"))
    assert plan.shift is not None
    np.testing.assert_array_equal(plan.shift, fresh.shift)


def test_buffers_are_averaged_whatever_the_strategy() -> None:
    """Running statistics, behind the trained part: neither scaled by tau, nor by a loss, nor by an optimiser."""
    model, delta = np.zeros(4, np.float32), np.array([1, -1, 3, 5], np.float32)
    for text in ("fedavg:lr=0.1", "fedavgm:lr=0.5", "fedadam", "fednova", "qfedavg"):
        facts = Facts(means={"train_steps": 7.0, "train_fair_step": 3.0})
        new, _ = step_with_buffers(strategy_of(text), model, delta, (), facts, slice(2, 4))
        np.testing.assert_array_equal(new[2:], [3, 5])
        assert (new[:2] != [1, -1]).all(), text
    outcome = Outcome(delta, 10, 4.0, 0.5, 2.0)
    for text in ("scaffold", "fednova", "qfedavg"):
        given = np.zeros(8, np.float32) if text == "scaffold" else model
        report = local_part(text).report(given, None, outcome, 2)
        np.testing.assert_array_equal(report.vector[2:4], [3, 5])
        if text == "scaffold":
            np.testing.assert_allclose(report.vector[4:], [-0.5, 0.5, 0, 0])


@given(
    st.sampled_from(["scaffold", "fednova", "qfedavg:q=5", "qfedavg:q=0.1"]),
    st.floats(0, 1e4),
    st.floats(1, 1e6),
    st.floats(1e-4, 100),
    st.floats(-100, 100, width=32),
)
def test_reports_and_steps_are_finite_and_change_no_argument(
    text: str, loss: float, steps: float, lr: float, value: float
) -> None:
    delta = np.full(3, value, np.float32)
    model = np.arange(6 if text == "scaffold" else 3, dtype=np.float32)
    for vector in (delta, model):
        vector.flags.writeable = False
    part, strategy = local_part(text), strategy_of(text)
    report = part.report(model, None, Outcome(delta, 7, steps, lr, loss), 3)
    assert np.isfinite(report.vector).all()
    new, _ = strategy.step(model, report.vector, (), Facts(1.0, means(report.metrics)))
    assert np.isfinite(new).all()
    assert (delta == value).all()


@pytest.mark.parametrize("said", [-3.0, 1e300, None])
def test_what_devices_say_about_their_steps_is_bounded(said: float | None) -> None:
    facts = Facts(means={} if said is None else {"train_steps": said, "train_fair_step": said})
    for text in ("fednova", "qfedavg"):
        new, _ = strategy_of(text).step(np.zeros(2, np.float32), np.ones(2, np.float32), (), facts)
        assert np.isfinite(new).all()
        assert (new >= 0).all()


def test_a_step_that_leads_nowhere_is_not_taken() -> None:
    """A liar about its steps: the model stays finite, and the root says why it does not go on."""
    world = make_world("fednova", 30)
    trained = world.devices[6].learning.on_trained

    def lie(app: int, tag: Any, result: TrainResult | None, now: float) -> None:
        if result is not None and world.devices[1].app.ledger.round >= 2:
            metrics = tuple(replace(m, total=1e300) if m.name == "train_steps" else m for m in result.metrics)
            result = TrainResult(result.delta, result.samples, metrics, result.kept)
        trained(app, tag, result, now)

    world.devices[6].learning.on_trained = lie  # type: ignore[method-assign]
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: "not finite" in root.coordinator.problem)
    assert np.isfinite(weights_of(world, 1)).all()
    assert root.counters["round_failed"] >= 1


# What they claim, on handwritten digits that are spread unequally


@dataclass
class Fleet:
    """Devices with some digits each, a softmax regression with weight decay, and the shipped strategy."""

    text: str
    parts: list[tuple[np.ndarray, np.ndarray]]
    steps: list[int]
    lr: float = 0.2
    decay: float = 0.01
    momentum: float = 0.0
    drift: float = 0.0

    def __post_init__(self) -> None:
        self.learner = Learner(64, 10)
        self.part, self.strategy = local_part(self.text), strategy_of(self.text)
        self.model = np.zeros(self.learner.parameters * parse_strategy(self.text).width, np.float32)
        self.kept: list[np.ndarray | None] = [None] * len(self.parts)
        self.state: State = ()

    @property
    def x(self) -> np.ndarray:
        return self.model[: self.learner.parameters]

    def gradient(self, x: np.ndarray, i: int) -> np.ndarray:
        return self.learner.gradient(x, *self.parts[i]) + np.float32(self.decay) * x

    def loss(self, x: np.ndarray, i: int) -> float:
        features, labels = self.parts[i]
        logits = self.learner.logits(x, features)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(len(labels)), labels].mean()) + self.decay / 2 * float(x @ x)

    def losses(self) -> np.ndarray:
        return np.array([self.loss(self.x, i) for i in range(len(self.parts))])

    def round(self) -> None:
        reports, weights, ends = [], [len(labels) for _, labels in self.parts], []
        for i in range(len(self.parts)):
            plan = self.part.plan(self.model, self.kept[i])
            y = plan.weights.copy()
            for _ in range(self.steps[i]):
                g = self.gradient(y, i) + np.float32(plan.proximal) * (y - plan.weights)
                y -= np.float32(self.lr) * (g if plan.shift is None else g + plan.shift)
            loss = self.loss(plan.weights, i) if plan.wants_loss else 0.0
            outcome = Outcome(y - plan.weights, weights[i], float(self.steps[i]), self.lr, loss)
            report = self.part.report(self.model, self.kept[i], outcome, len(y))
            self.kept[i] = report.kept
            reports.append(report)
            ends.append(y)
        mean = np.average(ends, axis=0, weights=weights)
        self.drift = float(np.mean([np.linalg.norm(y - mean) for y in ends]))
        delta = np.average([r.vector for r in reports], axis=0, weights=weights).astype(np.float32)
        facts = Facts(1.0, means(merge(*(r.metrics for r in reports))))
        self.model, self.state = self.strategy.step(self.model, delta, self.state, facts)

    def run(self, rounds: int) -> Fleet:
        for _ in range(rounds):
            self.round()
        return self

    def optimum(self) -> np.ndarray:
        """Of all data together: plain descent until the gradient is small."""
        x = np.zeros(self.learner.parameters, np.float32)
        weights = [len(labels) for _, labels in self.parts]
        for _ in range(3000):
            gradient = np.average([self.gradient(x, i) for i in range(len(self.parts))], axis=0, weights=weights)
            x = x - 0.5 * gradient.astype(np.float32)
        assert np.linalg.norm(gradient) < 1e-3
        return x

    def error(self, optimum: np.ndarray) -> float:
        return float(np.linalg.norm(self.x - optimum) / np.linalg.norm(optimum))


def two_classes_each(per_device: int = 40) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ten devices; device i has digits i and i + 1 alone."""
    x, y = digits()
    rng = np.random.default_rng(5)
    parts = []
    for i in range(10):
        chosen = rng.permutation(np.flatnonzero((y == i) | (y == (i + 1) % 10)))[:per_device]
        parts.append((x[chosen], y[chosen]))
    return parts


def test_scaffold_drifts_less_than_fedavg_and_comes_nearer_to_the_optimum() -> None:
    parts = two_classes_each()
    fleets = {text: Fleet(text, parts, [20] * 10) for text in ("fedavg", "scaffold")}
    optimum = fleets["fedavg"].optimum()
    for fleet in fleets.values():
        fleet.run(60)
    fedavg, scaffold = fleets["fedavg"], fleets["scaffold"]
    assert scaffold.drift < fedavg.drift / 4
    assert scaffold.error(optimum) < fedavg.error(optimum) / 4
    # c is the mean of the devices' c_i, each of which is the device's own gradient at the model
    _, c = halves(scaffold.model)
    np.testing.assert_allclose(c, np.mean(scaffold.kept, axis=0), atol=1e-4)


def test_fednova_is_not_pulled_to_those_who_take_more_steps() -> None:
    """Devices with the digits 0 to 4 take one step, the others 25."""
    parts = two_classes_each()
    steps = [1] * 5 + [25] * 5
    fleets = {text: Fleet(text, parts, steps, lr=0.05) for text in ("fedavg", "fednova")}
    optimum = fleets["fedavg"].optimum()
    for fleet in fleets.values():
        fleet.run(80)
    few = {text: fleet.losses()[:5].mean() for text, fleet in fleets.items()}
    many = {text: fleet.losses()[5:].mean() for text, fleet in fleets.items()}
    assert few["fedavg"] > 2 * many["fedavg"]
    assert few["fednova"] < 1.3 * many["fednova"]
    assert fleets["fednova"].error(optimum) < fleets["fedavg"].error(optimum) / 1.5


def test_qfedavg_makes_the_devices_losses_more_equal() -> None:
    """One device in five has digits that nobody else has."""
    x, y = digits()
    rng = np.random.default_rng(7)
    parts = []
    for i in range(10):
        wanted = (y == 8) | (y == 9) if i in (3, 7) else y < 4
        chosen = rng.permutation(np.flatnonzero(wanted))[: 20 if i in (3, 7) else 60]
        parts.append((x[chosen], y[chosen]))
    losses = {text: Fleet(text, parts, [5] * 10).run(40).losses() for text in ("fedavg", "qfedavg:q=0", "qfedavg:q=2")}
    np.testing.assert_allclose(losses["qfedavg:q=0"], losses["fedavg"], rtol=1e-4)
    assert losses["qfedavg:q=2"].var() < losses["fedavg"].var() / 2
    assert losses["qfedavg:q=2"].max() < losses["fedavg"].max()
