"""What belongs to one zone stays in it: rounds, updates, models, and the answers to those who ask from outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from support.learning_world import World as ScriptedWorld
from support.learning_world import make_contact, make_manifest

from edgefl.learning.border import Border, is_inside
from edgefl.sim import World
from edgefl.sim.network import SimNode
from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.wire import Contact, Message
from edgefl.wire.blob import ref_of
from edgefl.wire.learning import Replica, RoundKind, RoundStart, Standing, Update, UpdateAck, UpdateGet, Verdict
from edgefl.wire.overlay import Scope

STRANGER = replace(make_contact(77), zone=5)


class Fleet:
    """Simulated devices in zones, and a record of every message and model of the learning layer between zones."""

    def __init__(self, zone_of: str) -> None:
        self.learners: dict[int, LearningDevice] = {}
        self.crossed: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self.world = World(devices=60, seed=3, equip=self._equip)
        self._send = self.world.network.send
        self.world.network.send = self._watch  # type: ignore[method-assign]
        self.world.grow(60, 20.0)
        self.world.run(30.0)
        zones = Counter(member.overlay.contact.zone for member in self.world.alive())
        assert len(zones) > 1
        self.zone = zones.most_common(1)[0][0]
        for device in self.learners.values():
            device.data.add("digits")
        self.creator = next(d for d in self.learners.values() if d.member.overlay.contact.zone == self.zone)
        scoped = self.zone if zone_of == "zone" else None
        self.manifest = make_application("a", "digits", rounds=4, min_members=5, quorum=0.8, seed=1, zone=scoped)
        self.creator.create(self.manifest, self.world.clock.now)
        self.world.run(200.0)

    def _equip(self, member: object) -> list[LearningDevice]:
        return [Watched(self, member, self.learners, Transfers())]  # type: ignore[arg-type]

    def _watch(self, origin: SimNode, to: Contact, message: Message) -> None:
        if type(message).__module__ == "edgefl.wire.learning":
            self.note(type(message).__name__, origin.contact, to)
        self._send(origin, to, message)

    def note(self, what: str, one: Contact, other: Contact) -> None:
        (self.inside if one.zone == other.zone else self.crossed)[what] += 1


class Watched(LearningDevice):
    """Notes from where its models come."""

    def __init__(self, fleet: Fleet, *arguments: object) -> None:
        self._fleet = fleet
        super().__init__(*arguments)  # type: ignore[arg-type]

    def _arrived(self, app, token, blob, holder, now) -> None:  # type: ignore[no-untyped-def]
        self._fleet.note("blob", self.member.overlay.contact, holder.member.overlay.contact)
        super()._arrived(app, token, blob, holder, now)


def test_the_rounds_of_a_zone_put_nothing_on_a_link_between_zones() -> None:
    fleet = Fleet("zone")
    insiders = [d for d in fleet.learners.values() if d.member.overlay.contact.zone == fleet.zone]
    assert len(insiders) >= 5
    for device in insiders:
        assert device.learning.applications[fleet.manifest.app_id].ledger.finished
    assert {"RoundStart", "Update", "blob"} <= set(fleet.inside)
    assert not fleet.crossed


def test_the_rounds_of_the_fleet_do_cross() -> None:
    """The record above can see a crossing."""
    assert {"RoundStart", "Update", "blob"} <= set(Fleet("fleet").crossed)


def zone_world() -> ScriptedWorld:
    """A root (1) and its children in zone 0, in the middle of an application of that zone."""
    world = ScriptedWorld(3, manifest=make_manifest(scope=Scope.ZONE, zone=0, rounds=3))
    world.start({2: 1, 3: 1})
    return world


def attacks(app: int) -> list[Message]:
    model = ref_of(bytes(20))
    epoch = 65536 + 1
    return [
        RoundStart(app, epoch, 1, 1, RoundKind.TRAIN, model, 10.0, ()),
        Update(app, epoch, 1, 1, (77,), 1, vector=True),
        UpdateGet(app, epoch, 1, 1, 0, 1),
        UpdateAck(app, epoch, 1, 1, Verdict.ACCEPTED),
        Standing(app, epoch, 1, model, STRANGER, False, False, ()),
        Replica(app, epoch, 1, model, False, ()),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_peer_of_another_zone_is_refused_counted_and_not_answered(number: int) -> None:
    world = zone_world()
    device = world.devices[2]
    sent: list[int] = []
    world.post = lambda sender, to, message: sent.append(to)  # type: ignore[method-assign]
    message = attacks(world.app_id)[number]
    before = (device.app.ledger.round, device.app.ledger.model, dict(device.timers))
    device.learning.on_message(STRANGER, message, 1.0)
    assert device.app.counters["refused_foreign_zone"] == 1
    assert (device.app.ledger.round, device.app.ledger.model, dict(device.timers)) == before
    assert sent == []


def test_who_has_moved_to_another_zone_is_silent() -> None:
    world = zone_world()
    device = world.devices[2]
    device.contact = replace(device.contact, zone=5)
    sent: list[int] = []
    world.post = lambda sender, to, message: sent.append(to)  # type: ignore[method-assign]
    app, insider = device.app, world.devices[1].contact
    before = len(device.broadcasts)
    for peer in (STRANGER, insider):
        app.effects.send(peer, attacks(app.id)[0])
        app.effects.subscribe(app.id, peer)
    app.effects.broadcast(app.id, ref_of(b"x"))
    assert (sent, len(device.broadcasts)) == ([], before)
    assert app.counters["refused_foreign_zone"] == 5


def test_foreign_sources_are_not_asked() -> None:
    asked: list[tuple[Contact, ...]] = []
    refusals: list[None] = []

    class Asked:
        def fetch(self, app, token, blob, sources, *, pushed=False) -> None:  # type: ignore[no-untyped-def]
            asked.append(sources)

        def prepare(self, app, manifest, sources, *, observer) -> None:  # type: ignore[no-untyped-def]
            asked.append(sources)

    manifest = make_manifest(scope=Scope.ZONE, zone=0)
    insider = make_contact(2)
    border = Border(Asked(), manifest, lambda: make_contact(1), lambda: refusals.append(None))  # type: ignore[arg-type]
    border.fetch(manifest.app_id, ("start", 1), ref_of(b"x"), (STRANGER, insider))
    border.prepare(manifest.app_id, manifest, (STRANGER,), observer=False)
    assert asked == [(insider,), ()]
    assert len(refusals) == 2


def test_an_application_of_the_fleet_knows_no_border() -> None:
    assert is_inside(make_manifest(), make_contact(1), STRANGER)
    assert not is_inside(make_manifest(scope=Scope.ZONE, zone=0), make_contact(1), STRANGER)
    assert not is_inside(make_manifest(scope=Scope.ZONE, zone=0), STRANGER, STRANGER)


@pytest.mark.parametrize(("zone", "joins"), [(0, True), (5, False)])
def test_a_device_that_moved_while_it_prepared_does_not_join_from_outside(zone: int, joins: bool) -> None:
    world = ScriptedWorld(1, manifest=make_manifest(scope=Scope.ZONE, zone=zone))
    world.start({})
    world.run_for(2.0)
    device = world.devices[1]
    assert (world.app_id in device.joined) == joins
    assert device.app.counters.get("refused_foreign_zone", 0) == (0 if joins else 1)
