"""Strategies: each against its formula, in a tree, over a change of root, and on simulated devices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
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
    *(name for name in STRATEGY_OPTIONS if name not in ("scaffold", "fednova", "qfedavg", "trimmed", "trimmed-zones")),
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


STATEFUL = ["fedavgm", "fedadam:lr=0.1,beta1=0.8,beta2=0.95,tau=0.01"]


def restarted(world: World) -> int:
    return sum(d.app.counters.get("strategy_restarted", 0) for d in world.devices.values() if d.alive)


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.KEEPING, Phase.REPLICATING])
def test_a_successor_goes_on_exactly(text: str, phase: Phase) -> None:
    world = World(6, manifest=make_manifest(rounds=6, strategy=text))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is phase)
    world.kill(1)
    world.run_for(0.2)
    done = max(device.app.ledger.round for device in world.devices.values())
    world.heal()
    world.run(world.finished)
    everybody = world.expected_model(1) / world.pull
    survivors = world.expected_model(1, [2, 3, 4, 5, 6]) / world.pull
    expected = follow(text, [everybody] * done + [survivors] * (6 - done), world.pull)
    np.testing.assert_allclose(world.model_of(2), expected, rtol=1e-3, atol=1e-4)
    assert restarted(world) == 0
    for device in world.devices.values():
        if device.alive:  # nothing is held for ever
            assert device.app.ledger.state == ()
            assert len(device.blobs) <= 2  # the last model, and the initial one that `prepare` gave


@pytest.mark.parametrize("text", STATEFUL)
def test_an_outranking_device_takes_the_state_over_from_the_root_before(text: str) -> None:
    world = World(4, manifest=make_manifest(rounds=5, strategy=text))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
        device.train_s = 3.0
    world.run_for(0.1)
    world.crown(2)
    world.attach(3, 2)
    world.attach(4, 2)
    old = world.devices[2].app
    world.run(lambda: old.ledger.round == 2 and old.coordinator.phase is Phase.RUNNING)
    world.crown(1)
    world.attach(2, 1)
    world.run(world.finished)
    before = world.expected_model(1, [2, 3, 4]) / world.pull
    everybody = world.expected_model(1) / world.pull
    # In the third round the new root was on top already and did not train yet.
    expected = follow(text, [before] * 3 + [everybody] * 2, world.pull)
    np.testing.assert_allclose(world.model_of(2), expected, rtol=1e-3, atol=1e-4)
    assert restarted(world) == 0


@pytest.mark.parametrize("text", STATEFUL)
def test_after_a_power_cut_the_root_goes_on_exactly(text: str) -> None:
    world = World(6, manifest=make_manifest(rounds=6, strategy=text))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    for number in world.devices:
        world.kill(number)
    for number in world.devices:
        world.restart(number)
    world.heal()
    world.run(world.finished)
    everybody = world.expected_model(1) / world.pull
    np.testing.assert_allclose(world.model_of(2), follow(text, [everybody] * 6, world.pull), rtol=1e-3, atol=1e-4)
    assert restarted(world) == 0


@pytest.mark.parametrize("text", STATEFUL)
def test_a_new_root_that_holds_nothing_finds_the_state_below(text: str) -> None:
    """The runner-up hangs below a device that has the same model and no state, which passes its report on."""
    world = World(6, manifest=make_manifest(rounds=6, strategy=text))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.2)
    for number in (1, 3):
        world.kill(number)
    assert world.devices[2].app.ledger.state
    assert world.devices[5].app.ledger.state == ()
    assert world.devices[5].app.ledger.round == world.devices[2].app.ledger.round
    world.crown(5)
    world.attach(6, 5)
    world.attach(2, 6)
    world.attach(4, 6)
    world.run(lambda: world.finished(2, 4, 5, 6))
    everybody = world.expected_model(1) / world.pull
    survivors = world.expected_model(1, [2, 4, 5, 6]) / world.pull
    expected = follow(text, [everybody] * 3 + [survivors] * 3, world.pull)
    np.testing.assert_allclose(world.model_of(5), expected, rtol=1e-3, atol=1e-4)
    assert restarted(world) == 0


@pytest.mark.parametrize("text", CASES)
def test_a_state_that_died_with_all_its_holders_begins_afresh_and_is_counted(text: str) -> None:
    world = World(6, manifest=make_manifest(rounds=6, strategy=text, quorum=0.4))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.2)
    for number in (1, 2, 3):  # the root and its runners-up
        world.kill(number)
    world.heal()
    world.run(world.finished)
    everybody = world.expected_model(1) / world.pull
    survivors = world.expected_model(1, [4, 5, 6]) / world.pull
    expected = follow(text, [everybody] * 3 + [survivors] * 3, world.pull, fresh_at=3)
    np.testing.assert_allclose(world.model_of(4), expected, rtol=1e-3, atol=1e-4)
    assert restarted(world) == (strategy_of(text).vectors > 0)


def test_a_saved_state_that_cannot_be_read_any_more_is_counted_as_lost() -> None:
    world = World(3, manifest=make_manifest(rounds=4, strategy="fedavgm"))
    world.start({2: 1, 3: 1})
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 2 and root.coordinator.phase is Phase.RUNNING)
    for number in world.devices:
        world.kill(number)
        for ref in (
            world.devices[number].saved[world.app_id].state if world.app_id in world.devices[number].saved else ()
        ):
            world.devices[number].durable[ref.id] = np.full(5, np.nan, "<f4").tobytes()
    for number in world.devices:
        world.restart(number)
    world.heal()
    world.run(world.finished)
    assert restarted(world) == 1


@pytest.mark.parametrize("dies", [Phase.KEEPING, Phase.REPLICATING])
def test_a_root_that_is_superseded_forgets_what_it_was_making(dies: Phase) -> None:
    world = World(6, manifest=make_manifest(rounds=4, strategy="fedavgm:momentum=0.5,lr=0.5"))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 2 and root.coordinator.phase is dies)
    root.coordinator.on_superseded()
    world.run_for(0.005)  # names that were asked for still come
    held = {blob.id for blob in root.ledger.blobs()}
    assert set(world.devices[1].blobs) <= held | {world.devices[1].app.worker.open.model.id}
    assert root.coordinator.next_model._memory is None


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([("fedadam:lr=0.1,tau=0.01", 0), ("scaffold", 3), ("fedavgm", 0), ("trimmed:share=0.2", 2)]),
    st.integers(0, 2**32),
    st.integers(3, 8),
    st.lists(st.tuples(st.floats(0.2, 8.0), st.booleans()), min_size=1, max_size=6),
)
def test_any_schedule_of_deaths_and_returns_loses_and_keeps_nothing(
    chosen: tuple[str, int], seed: int, size: int, turns: list[tuple[float, bool]]
) -> None:
    """All end with the same model and the same best one, and hold nothing else."""
    text, patience = chosen
    changes = {"rounds": 6, "quorum": 0.3, "deadline_s": 15.0, "strategy": text, "patience": patience}
    world = World(size, seed=seed, manifest=make_manifest(**changes, keep_best=True))
    world.start({child: world.random.randint(1, child - 1) for child in range(2, size + 1)})
    for pause, comes_back in turns:
        world.run_for(pause)
        alive = [number for number, device in world.devices.items() if device.alive]
        dead = [number for number, device in world.devices.items() if not device.alive]
        if dead and comes_back:
            world.restart(world.random.choice(dead))
        elif len(alive) > 2:
            world.kill(world.random.choice(alive))
        world.run_for(0.3)
        world.heal()
    for number, device in list(world.devices.items()):
        if not device.alive:
            world.restart(number)
    world.heal()
    world.run(world.finished, limit_s=3000)
    world.run_for(30)
    ledgers = [device.app.ledger for device in world.devices.values()]
    assert len({(ledger.round, ledger.model, ledger.best) for ledger in ledgers}) == 1
    for device in world.devices.values():
        assert set(device.blobs) == {blob.id for blob in device.app.ledger.blobs()}


CONVERGING: dict[str, int] = {
    "fedavg": 12,
    "fedprox": 12,
    "fedavgm:lr=0.5,momentum=0.5": 25,
    "fedadagrad:lr=0.5": 25,
    "fedadam:lr=0.1,beta1=0.5,tau=0.1": 40,
    "fedyogi:lr=0.1,beta1=0.5,tau=0.1": 40,
    "scaffold": 12,
    "fednova": 12,
    "qfedavg:q=0.01": 12,
}


def fleet_model(text: str, rounds: int) -> tuple[list[LearningDevice], np.ndarray]:
    """A simulated fleet after its last round: its devices and the model."""
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
    ledger = devices[0].learning.applications[manifest.app_id].ledger
    assert ledger.finished
    assert ledger.model is not None
    model = np.frombuffer(devices[0]._blobs[ledger.model.id], "<f4")[: manifest.parameters]
    return devices, model


@pytest.mark.parametrize("text", CONVERGING)
def test_a_simulated_fleet_converges(text: str) -> None:
    """To the weighted mean of its targets: a tenth is left of the way from where it began."""
    devices, model = fleet_model(text, CONVERGING[text])
    mean = np.average([d._target for d in devices], axis=0, weights=[d._samples for d in devices])
    assert np.linalg.norm(model - mean) / np.linalg.norm(mean) < 0.1


def test_a_simulated_fleet_trims() -> None:
    """To somewhere between the targets, in every coordinate, with the ends cut off."""
    devices, model = fleet_model("trimmed:share=0.3", 12)
    targets = np.sort([device._target for device in devices], axis=0)
    assert (model > targets[0]).all()
    assert (model < targets[-1]).all()
    middle = np.median(targets, axis=0)
    assert np.linalg.norm(model - middle) < 0.5 * np.linalg.norm(targets[-1] - middle)
