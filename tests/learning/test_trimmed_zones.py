"""The strategy `trimmed-zones`: a trimmed mean over zones, whatever tree they hang in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.learning_world import World, lying, make_manifest, small_chunks

from edgefl.learning.aggregate import DuplicateError
from edgefl.learning.forest.direct import admit_guest
from edgefl.learning.groups import MAX_GROUPS, GroupedSum
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire.learning import MAX_HEADS, RoundKind, RoundStart, Update, UpdateChunk
from edgefl.wire.overlay import Scope

ZONES = {1: 10, 2: 10, 3: 10, 4: 20, 5: 20, 6: 20, 7: 30, 8: 30, 9: 30, 10: 40, 11: 40}
CHAIN = {2: 1, 3: 1, 4: 2, 5: 4, 6: 4, 7: 5, 8: 7, 9: 7, 10: 7, 11: 10}
"""The head of zone 20 hangs below an inner device, that of 30 below an inner device of 20, that of 40 below 30's."""

STRATEGY = "trimmed-zones:share=0.3"


def make_world(seed: int = 0, *, loss: float = 0.0, rounds: int = 6, **changes: Any) -> World:
    manifest = make_manifest(rounds=rounds, strategy=STRATEGY, **changes)
    return World(11, seed=seed, loss=loss, manifest=manifest, zones=ZONES)


def mean_of(world: World, zone: int) -> np.ndarray:
    devices = [device for number, device in world.devices.items() if ZONES[number] == zone]
    weights = [device.samples for device in devices]
    return np.average([device.target for device in devices], axis=0, weights=weights)


def expected(world: World, zones: tuple[int, ...] = (10, 20, 30, 40)) -> np.ndarray:
    """Without the lowest and the highest zone in each coordinate; a zone counts no more than the median zone."""
    means = np.array([mean_of(world, zone) for zone in zones])
    sizes = [sum(d.samples for n, d in world.devices.items() if ZONES[n] == zone) for zone in zones]
    weights = np.minimum(sizes, np.median(sizes))
    order = np.argsort(means, axis=0)[1:-1]
    kept = np.take_along_axis(means, order, axis=0)
    return np.asarray((kept * weights[order]).sum(axis=0) / weights[order].sum(axis=0))


@pytest.mark.parametrize("small", [False, True], ids=["one chunk", "three chunks"])
def test_zones_are_compared_wherever_they_hang(small: bool) -> None:
    world = make_world()
    if small:
        with small_chunks():
            world.start(CHAIN)
            world.run(world.finished)
    else:
        world.start(CHAIN)
        world.run(world.finished)
    # Every round moves half-way to the same point.
    np.testing.assert_allclose(world.model_of(9), expected(world) * (1 - 0.5**6), rtol=1e-3, atol=1e-4)
    for record in world.devices[1].app.ledger.history.all()[1:]:
        assert record.participants == 11
        assert record.samples == sum(device.samples for device in world.devices.values())
        assert record.attempts == 1


def test_each_zone_crosses_once_and_nothing_else_does() -> None:
    """One update of each head, straight to the root."""
    world, crossing = make_world(rounds=1), set[tuple[int, int]]()

    def tap(sender: int, to: int, message: object) -> bool:
        if isinstance(message, UpdateChunk) and ZONES[sender] != ZONES[to]:
            crossing.add((sender, to))
        return True

    world.tap = tap
    world.start(CHAIN)
    world.run(world.finished)
    assert crossing == {(4, 1), (7, 1), (10, 1)}


@pytest.mark.parametrize("liars", [(7, 8, 9), (4,), (5,), (2,), (11,)], ids=["zone", "head", "inner", "below", "leaf"])
def test_liars_spoil_their_own_zone_alone(liars: tuple[int, ...]) -> None:
    """However many of them there are in it, and whoever hangs below them."""
    world = make_world(rounds=8)
    lying(world, *liars)
    world.start(CHAIN)
    world.run(world.finished)
    honest = np.array([mean_of(world, zone) for zone in (10, 20, 30, 40) if zone != ZONES[liars[0]]])
    model = world.model_of(3)
    assert (model >= np.minimum(honest.min(axis=0), 0) - 1e-3).all()
    assert (model <= np.maximum(honest.max(axis=0), 0) + 1e-3).all()


def test_liars_in_two_of_four_zones_are_too_many() -> None:
    """The limit that the guide states."""
    world = make_world(rounds=8)
    lying(world, 8, 11)
    world.start(CHAIN)
    world.run(world.finished)
    assert np.abs(world.model_of(3)).max() > 100


def test_the_same_liars_spoil_everything_when_the_root_compares_its_children() -> None:
    """Zones 20, 30 and 40 are one group there, and the rest of the root's zone are two."""
    manifest = make_manifest(rounds=8, strategy="trimmed:share=0.3")
    world = World(11, manifest=manifest, zones=ZONES)
    lying(world, 2, 3)
    world.start(CHAIN)
    world.run(world.finished)
    wrong = np.abs(world.model_of(3)).max()
    world = make_world(rounds=8)
    lying(world, 2, 3)
    world.start(CHAIN)
    world.run(world.finished)
    assert np.abs(world.model_of(3)).max() < 3 < wrong


@pytest.mark.parametrize("seed", range(4))
def test_lost_messages_cost_time_alone(seed: int) -> None:
    world = make_world(seed, loss=0.1, rounds=3, quorum=1.0)
    with small_chunks():
        world.start(CHAIN)
        world.run(world.finished, limit_s=3000.0)
    np.testing.assert_allclose(world.model_of(1), expected(world) * (1 - 0.5**3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lost", [4, 2, 7, 5])
@pytest.mark.parametrize("at", [0.02, 0.6, 1.03, 1.06])
def test_a_head_or_who_is_above_it_dies_in_the_middle_of_a_round(lost: int, at: float) -> None:
    world = make_world(deadline_s=20.0)
    world.start(CHAIN)
    root = world.devices[1].app
    world.run(lambda: root.worker.open is not None and root.worker.open.tag[1] == 2, limit_s=60.0)
    world.run_for(at)
    world.kill(lost)
    world.run_for(1.0)
    for child, parent in CHAIN.items():  # each finds a place one higher, heads of zones below others' devices
        if parent == lost:
            world.attach(child, CHAIN[lost])
    world.run(lambda: root.ledger.finished, limit_s=200.0)
    records = root.ledger.history.all()
    assert records[-1].participants == 10
    assert all(record.participants >= 8 for record in records[1:])


def test_a_root_that_takes_over_compares_zones_as_well() -> None:
    world = make_world(deadline_s=20.0)
    world.start(CHAIN)
    world.run(lambda: world.devices[1].app.ledger.round == 2, limit_s=60.0)
    world.kill(1)
    world.crown(2)
    world.attach(3, 2)
    root = world.devices[2].app
    world.run(lambda: root.ledger.finished, limit_s=200.0)
    last = root.ledger.history.get(6)
    assert last is not None
    assert last.participants == 10


def test_a_device_that_comes_to_a_parent_in_its_zone_is_no_head_any_more() -> None:
    world = make_world(deadline_s=30.0, rounds=3)
    world.start(CHAIN)
    root = world.devices[1].app
    world.run(lambda: root.worker.open is not None and root.worker.open.tag[1] == 2, limit_s=60.0)
    world.run_for(0.3)
    world.attach(10, 9)  # another zone again: still a head
    world.attach(11, 6)  # a head now, of the zone 40
    world.run(lambda: root.ledger.finished, limit_s=200.0)
    assert [record.participants for record in root.ledger.history.all()[1:]] == [11, 11, 11]


@pytest.mark.parametrize("heard", [False, True], ids=["before it has heard so", "once it has heard so"])
def test_a_head_that_has_delivered_promises_nothing_to_its_next_parent(heard: bool) -> None:
    """It was a child of the root, and goes below another zone's device while the round is still open."""
    world = make_world(deadline_s=30.0, rounds=1)
    world.devices[2].train_s = 5.0
    world.start({**CHAIN, 4: 1})
    root = world.devices[1].app
    world.run(lambda: root.worker.open is not None and 4 in root.worker.open.delivered, limit_s=60.0)
    if heard:
        world.run_for(0.1)
    world.attach(4, 2)
    world.run(lambda: root.ledger.finished, limit_s=60.0)
    record = root.ledger.history.get(1)
    assert record is not None
    assert record.participants == 11
    assert record.seconds < 10.0, "it is not waited for a second time"


def test_a_zone_counts_once_however_many_heads_it_has() -> None:
    world = make_world(rounds=5)
    parents = {**CHAIN, 6: 3, 9: 6}  # zone 20 has a second head, and zone 30 as well
    world.start(parents)
    world.run(world.finished)
    np.testing.assert_allclose(world.model_of(9), expected(world) * (1 - 0.5**5), rtol=1e-3, atol=1e-4)


# The sum


def add(sum_: GroupedSum, value: float, samples: int, names: list[int], group: int) -> None:
    mask = sum(sum_.bits(names))
    sum_.add_chunk(0, np.full(3, value * samples, np.float32), samples, len(names), mask, group)


def test_own_part_and_neighbours_are_one_group() -> None:
    sum_ = GroupedSum(3, 100, 0.3, own_group=10)
    sum_.expect(1)
    add(sum_, 4.0, 10, [2], 10)
    add(sum_, 0.0, 20, [3], 20)
    add(sum_, 100.0, 20, [4], 30)
    sum_.add_own(np.full(3, 2.0, np.float32), 30, ())
    assert sum_.seal_mean() == pytest.approx(np.full(3, 2.5))  # (4 * 10 + 2 * 30) / 40, the middle one
    assert sum_.weight(0)[:2] == (80, 4)


def test_who_names_devices_of_other_zones_does_not_keep_them_out() -> None:
    sum_ = GroupedSum(3, 100, 0.3, own_group=10)
    add(sum_, -1e6, 100, [5, 6, 7, 8], 40)
    add(sum_, 1.0, 10, [5, 6], 20)
    add(sum_, 2.0, 10, [7, 8], 30)
    add(sum_, 3.0, 10, [2], 10)
    with pytest.raises(DuplicateError):
        add(sum_, 9.0, 10, [6], 20)
    assert sum_.seal_mean() == pytest.approx(np.full(3, 1.5))


def test_the_roots_own_zone_has_a_group_whoever_comes_first() -> None:
    sum_ = GroupedSum(3, 100, 0.3, own_group=7)
    for zone in range(100, 100 + 2 * MAX_GROUPS):
        add(sum_, 0.0, 1, [zone], zone)
    add(sum_, 5.0, 1, [1], 7)
    assert len(sum_._parts[0]) == MAX_GROUPS - 1
    assert sum_._parts[0][sum_._groups[7]][1] == 1


# Who may deliver


def test_the_root_takes_guests_from_other_zones_in_rounds_of_training_and_not_too_many() -> None:
    world = make_world()
    world.start(CHAIN)
    app = world.devices[1].app
    world.run(lambda: app.worker.open is not None, limit_s=60.0)
    round_ = app.worker.open
    assert round_ is not None
    neighbour, foreign = world.devices[3].contact, world.devices[9].contact
    assert not admit_guest(app, round_, neighbour)
    assert admit_guest(app, round_, foreign)
    assert admit_guest(app, round_, foreign)
    for number in range(2 * MAX_HEADS):
        admit_guest(app, round_, type(foreign)(1000 + number, "10.9.9.9", 4000, zone=30))
    assert len(round_.guests) == MAX_HEADS
    inner = world.devices[4].app
    world.run(lambda: inner.worker.open is not None, limit_s=60.0)
    assert inner.worker.open is not None
    assert not admit_guest(inner, inner.worker.open, foreign)
    round_.kind = RoundKind.EVALUATE
    assert not admit_guest(app, round_, foreign)


def test_other_strategies_have_no_guests() -> None:
    world = World(11, manifest=make_manifest(rounds=1, strategy="trimmed"), zones=ZONES)
    said: list[RoundStart] = []
    world.tap = lambda sender, to, message: said.append(message) is None if isinstance(message, RoundStart) else True
    world.start(CHAIN)
    app = world.devices[1].app
    world.run(lambda: app.worker.open is not None, limit_s=60.0)
    assert app.worker.open is not None
    assert not admit_guest(app, app.worker.open, world.devices[9].contact)
    world.run(world.finished)
    assert {message.root for message in said} == {None}


@pytest.mark.parametrize(("strategy", "named"), [("fedavg", 9), (STRATEGY, 5)], ids=["not by zone", "itself"])
def test_a_parent_cannot_have_sums_sent_elsewhere_by_naming_a_root(strategy: str, named: int) -> None:
    """Device 5 tells device 7, the head of another zone, of a wrong root: it delivers to its parent then."""
    world = World(11, manifest=make_manifest(rounds=2, strategy=strategy, deadline_s=10.0), zones=ZONES)
    chunks: set[tuple[int, int]] = set()

    def tap(sender: int, to: int, message: object) -> object:
        if isinstance(message, UpdateChunk):
            chunks.add((sender, to))
        if isinstance(message, RoundStart) and sender == 5 and message.kind is RoundKind.TRAIN:
            return replace(message, root=world.devices[7 if named == 5 else named].contact)
        return True

    world.tap = tap  # type: ignore[assignment]
    world.start(CHAIN)
    world.run(world.finished, limit_s=200.0)
    assert (7, 5) in chunks
    assert not any(to == named for sender, to in chunks if sender == 7 and to != 5)
    assert (7, 7) not in chunks


def test_promises_are_bounded() -> None:
    """A liar that announces heads which never come costs the round its deadline, and no more."""
    world = make_world(deadline_s=10.0, rounds=1)

    def tap(sender: int, to: int, message: object) -> object:
        if isinstance(message, Update) and sender == 3 and message.final:
            return replace(message, direct=tuple(range(100, 100 + MAX_HEADS)))
        return True

    world.tap = tap  # type: ignore[assignment]
    world.start(CHAIN)
    root = world.devices[1].app
    world.run(lambda: root.ledger.finished, limit_s=60.0)
    last = root.ledger.history.get(1)
    assert last is not None
    assert last.participants == 11
    assert 9.0 <= last.seconds <= 11.0


def test_the_choice_is_checked() -> None:
    check_manifest(make_manifest(strategy=STRATEGY))
    assert (parse_strategy(STRATEGY).trim, parse_strategy(STRATEGY).by_zone) == (0.3, True)
    assert not parse_strategy("trimmed").by_zone
    for changes in ({"scope": Scope.ZONE, "zone": 3}, {"zone_rounds": 2}, {"strategy": "trimmed-zones:share=0.5"}):
        with pytest.raises(ManifestError):
            check_manifest(make_manifest(**{"strategy": STRATEGY, **changes}))
