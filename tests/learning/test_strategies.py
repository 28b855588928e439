"""Strategies: each against its formula, in a tree, over a change of root, and on simulated devices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.learning_world import World, make_manifest

from edgefl.errors import UsageError
from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.strategies.server import State, strategy_of
from edgefl.learning.strategies.spec import STRATEGY_OPTIONS, parse_strategy
from edgefl.sim import World as Fleet
from edgefl.sim.training import LearningDevice, Transfers, make_application

vectors = arrays(np.float32, 5, elements=st.floats(-1e3, 1e3, width=32))


def reference(text: str, model: np.ndarray, deltas: list[np.ndarray]) -> np.ndarray:
    """The models after each delta, in float64, element by element as the papers write it."""
    spec = parse_strategy(text)
    o = spec.options
    x, m = model.astype(np.float64), np.zeros(len(model))
    v = np.full(len(model), o.get("tau", 0.0) ** 2)
    path = []
    for delta in deltas:
        for i, d in enumerate(delta.astype(np.float64)):
            if spec.name in ("fedavg", "fedprox"):
                x[i] += o["lr"] * d
                continue
            if spec.name == "fedavgm":
                m[i] = o["momentum"] * m[i] + d
                x[i] += o["lr"] * m[i]
                continue
            m[i] = o["beta1"] * m[i] + (1 - o["beta1"]) * d
            if spec.name == "fedadagrad":
                v[i] += d**2
            elif spec.name == "fedadam":
                v[i] = o["beta2"] * v[i] + (1 - o["beta2"]) * d**2
            else:
                v[i] -= (1 - o["beta2"]) * d**2 * np.sign(v[i] - d**2)
            x[i] += o["lr"] * m[i] / (v[i] ** 0.5 + o["tau"])
        path.append(x.copy())
    return np.array(path)


def walk(text: str, model: np.ndarray, deltas: list[np.ndarray]) -> np.ndarray:
    strategy = strategy_of(text)
    state: State = ()
    path = []
    for delta in deltas:
        model, state = strategy.step(model, delta, state)
        assert {vector.dtype for vector in (model, *state)} == {np.dtype(np.float32)}
        path.append(model)
    return np.array(path)


CASES = [
    *STRATEGY_OPTIONS,
    "fedavg:lr=0.5",
    "fedavgm:lr=0.3,momentum=0.7",
    "fedadagrad:lr=0.1,beta1=0.5,tau=0.1",
    "fedadam:lr=0.1,beta1=0.8,beta2=0.95,tau=0.01",
    "fedyogi:lr=0.1,beta1=0.8,beta2=0.95,tau=0.01",
]


@pytest.mark.parametrize("text", CASES)
def test_ten_steps_are_those_of_the_paper(text: str) -> None:
    generator = np.random.default_rng(7)
    model = generator.normal(size=50).astype(np.float32)
    deltas = [generator.normal(scale=s, size=50).astype(np.float32) for s in np.geomspace(1, 1e-3, 10)]
    np.testing.assert_allclose(walk(text, model, deltas), reference(text, model, deltas), rtol=1e-4, atol=1e-5)


@given(vectors, st.lists(st.tuples(vectors, st.integers(1, 500)), min_size=1, max_size=6))
def test_fedavg_is_the_weighted_mean_of_the_models(model: np.ndarray, devices: list[tuple[np.ndarray, int]]) -> None:
    weights = [n for _, n in devices]
    delta = np.average([d for d, _ in devices], axis=0, weights=weights).astype(np.float32)
    new, state = strategy_of("fedavg").step(model, delta, ())
    mean = np.average([model.astype(np.float64) + d for d, _ in devices], axis=0, weights=weights)
    np.testing.assert_allclose(new, mean, rtol=1e-6, atol=1e-3)
    assert state == ()


@given(st.sampled_from(CASES), vectors, st.lists(vectors, min_size=1, max_size=5))
def test_steps_change_no_argument_and_stay_finite(text: str, model: np.ndarray, deltas: list[np.ndarray]) -> None:
    before = model.copy(), [delta.copy() for delta in deltas]
    for vector in (model, *deltas):
        vector.flags.writeable = False
    assert np.isfinite(walk(text, model, deltas)).all()
    np.testing.assert_array_equal(model, before[0])
    np.testing.assert_array_equal(deltas, before[1])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no strategy"),
        ("magic", "no strategy"),
        ("fedavg:", "no option ''"),
        ("fedavg:mu=1", "no option 'mu'"),
        ("fedadam:beta1=1", "beta1 of fedadam is 1"),
        ("fedadam:tau=0", "tau of fedadam"),
        ("fedadam:lr=nan", "lr of fedadam"),
        ("fedprox:mu=inf", "mu of fedprox"),
        ("fedavgm:momentum", "must be a number"),
        ("fedavg:lr=1,lr=1", "twice"),
        ("fedavg:lr=1." + "0" * 200, "more than 128"),
    ],
)
def test_bad_options_are_refused_with_their_reason(text: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        parse_strategy(text)
    assert caught.value.hint


@given(st.text(max_size=40) | st.from_regex(r"fed[a-z]+:[a-z0-9]+=[0-9a-z.+-]{1,9}", fullmatch=True))
def test_any_text_is_a_strategy_or_refused(text: str) -> None:
    try:
        spec = parse_strategy(text)
    except UsageError:
        return
    for key, option in STRATEGY_OPTIONS[spec.name].items():
        assert option.fits(spec.options[key])


def test_only_fedprox_has_a_proximal_term() -> None:
    assert {name for name in STRATEGY_OPTIONS if parse_strategy(name).proximal} == {"fedprox"}
    assert parse_strategy("fedprox:mu=0.5").proximal == 0.5


def follow(text: str, means: list[np.ndarray], pull: float, fresh_at: int | None = None) -> np.ndarray:
    """The model after one round towards each of `means`; a new root begins afresh at round `fresh_at`."""
    strategy = strategy_of(text)
    state: State = ()
    model = np.zeros(len(means[0]), np.float32)
    for number, mean in enumerate(means):
        state = () if number == fresh_at else state
        model, state = strategy.step(model, ((mean - model) * pull).astype(np.float32), state)
    return model


TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3}


@pytest.mark.parametrize("text", CASES)
def test_the_root_of_a_tree_keeps_the_state_from_round_to_round(text: str) -> None:
    world = World(6, manifest=make_manifest(rounds=5, strategy=text))
    world.start(TREE)
    world.run(world.finished)
    mean = world.expected_model(1) / world.pull
    np.testing.assert_allclose(world.model_of(4), follow(text, [mean] * 5, world.pull), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", CASES)
def test_a_successor_goes_on_from_the_same_model_with_the_state_afresh(text: str) -> None:
    world = World(6, manifest=make_manifest(rounds=6, strategy=text))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.2)
    world.kill(1)
    world.heal()
    world.run(world.finished)
    everybody = world.expected_model(1) / world.pull
    survivors = world.expected_model(1, [2, 3, 4, 5, 6]) / world.pull
    expected = follow(text, [everybody] * 3 + [survivors] * 3, world.pull, fresh_at=3)
    np.testing.assert_allclose(world.model_of(2), expected, rtol=1e-3, atol=1e-4)
    stateful = parse_strategy(text).name not in ("fedavg", "fedprox")
    assert world.devices[2].app.counters.get("strategy_restarted", 0) == stateful
    assert root.counters.get("strategy_restarted", 0) == 0


@pytest.mark.parametrize("dies", [Phase.KEEPING, Phase.REPLICATING])
def test_a_root_that_is_superseded_forgets_the_state(dies: Phase) -> None:
    world = World(6, manifest=make_manifest(rounds=4, strategy="fedavgm:momentum=0.5,lr=0.5"))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 2 and root.coordinator.phase is dies)
    root.coordinator.on_superseded()
    assert root.coordinator._remembered() == ()


CONVERGING: dict[str, int] = {
    "fedavg": 12,
    "fedprox": 12,
    "fedavgm:lr=0.5,momentum=0.5": 25,
    "fedadagrad:lr=0.5": 25,
    "fedadam:lr=0.1,beta1=0.5,tau=0.1": 40,
    "fedyogi:lr=0.1,beta1=0.5,tau=0.1": 40,
}


def fleet_error(text: str, rounds: int) -> float:
    """How far a fleet's last model is from the weighted mean of its targets, as a share of where it began."""
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    fleet = Fleet(devices=8, seed=2, equip=lambda member: [LearningDevice(member, learners, transfers)])
    fleet.grow(8, 5.0)
    fleet.run(20.0)
    for learner in learners.values():
        learner.data.add("digits")
    manifest = make_application("digits", "digits", rounds=rounds, min_members=8, quorum=1.0, seed=1, strategy=text)
    learners[fleet.alive()[0].node_id].create(manifest, fleet.clock.now)
    fleet.run(60.0 + 12.0 * rounds)
    devices = list(learners.values())
    mean = np.average([d._target for d in devices], axis=0, weights=[d._samples for d in devices])
    ledger = devices[0].learning.applications[manifest.app_id].ledger
    assert ledger.finished
    assert ledger.model is not None
    model = np.frombuffer(devices[0]._blobs[ledger.model.id], "<f4")
    return float(np.linalg.norm(model - mean) / np.linalg.norm(mean))


@pytest.mark.parametrize("text", CONVERGING)
def test_a_simulated_fleet_converges(text: str) -> None:
    assert fleet_error(text, CONVERGING[text]) < 0.1
