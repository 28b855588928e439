"""Adverts: published, rumoured, discovered, expired; only signed ones, only newer ones, nobody beyond a share."""

from __future__ import annotations

import cbor2
import pytest
from support.overlay_contacts import advert, contact, is_valid, manifest
from support.solo import SoloOverlay

from edgefl.overlay.assembly import COST, MESSAGE_SHARE
from edgefl.overlay.directory import (
    HANDOVER_ADVERTS,
    MAX_ADVERTS,
    MAX_ADVERTS_PER_OWNER,
    MAX_BYTES_PER_OWNER,
    MAX_DIRECTORY_BYTES,
    MAX_PAGES,
)
from edgefl.overlay.ids import directory_key
from edgefl.overlay.profile import WAN
from edgefl.sim.world import World
from edgefl.wire import encode
from edgefl.wire.application import Advert, AppState, pack_advert
from edgefl.wire.codec import encode_record
from edgefl.wire.overlay import MAX_PAGE_ADVERTS, Adverts, Discover, Publish, Route, Rumour, Scope

KEY = directory_key()
OWNER_ID = KEY  # the device that owns the directory's key, whoever else is there
FRIEND = contact(KEY ^ 1 << 62)


def names(adverts: tuple[Advert, ...]) -> list[str]:
    return sorted(a.decode_manifest().name for a in adverts)


def fleet(devices: int = 40, *, seed: int = 1) -> World:
    world = World(devices=devices, seed=seed, verify=is_valid)
    world.grow(devices, 15)
    world.run(30)
    return world


def owner() -> SoloOverlay:
    """The owner of the fleet's directory, with one friend."""
    return SoloOverlay(OWNER_ID).start(FRIEND)


def route(world: SoloOverlay, body: Publish | Discover, number: int, scope: Scope = Scope.GLOBAL) -> None:
    key = KEY if scope is Scope.GLOBAL else directory_key(0)
    world.receive(FRIEND, Route(number, key, FRIEND, encode(body), 1, scope))


# In a fleet


def test_a_fleet_knows_a_new_application_within_seconds() -> None:
    world = fleet(80)
    member = world.alive()[3]
    member.overlay.publish(advert(holder=member.node_id), world.clock.now)
    world.run(2)
    knowing = [m for m in world.alive() if names(m.overlay.adverts()) == ["app"]]
    assert len(knowing) == 80
    assert all(len(m.log.times("advert")) == 1 for m in world.alive())


def test_lost_rumours_are_made_good_by_discovery() -> None:
    world = fleet(40)
    world.network.faults.loss = 0.3
    publisher = world.alive()[3]
    for _ in range(5):  # whoever knows of no application asks every four minutes
        publisher.overlay.publish(advert(), world.clock.now)
        world.run(60)
    assert all(names(m.overlay.adverts()) == ["app"] for m in world.alive())


def test_an_application_of_one_zone_stays_in_the_zone() -> None:
    world = fleet(60, seed=3)
    zones = {m.overlay.contact.zone for m in world.alive()}
    assert len(zones) > 1
    member = world.alive()[0]
    zone = member.overlay.contact.zone
    member.overlay.publish(advert(scope=Scope.ZONE, zone=zone), world.clock.now)
    world.run(5)
    for other in world.alive():
        assert (names(other.overlay.adverts()) == ["app"]) == (other.overlay.contact.zone == zone)
    newcomer = next(m for m in iter(world.add, None) if m.overlay.contact.zone == zone)
    world.start(newcomer)
    world.run(20)
    assert names(newcomer.overlay.adverts()) == ["app"]


def test_who_joins_late_discovers_everything_page_by_page() -> None:
    world = fleet(30)
    for n in range(20):
        world.alive()[n].overlay.publish(advert(f"app {n:02}"), world.clock.now)
    world.run(5)
    late = world.add()
    world.start(late)
    world.run(10)
    assert names(late.overlay.adverts()) == [f"app {n:02}" for n in range(20)]
    assert len(late.log.times("advert")) == 20


def test_adverts_live_while_they_are_published_and_no_longer() -> None:
    world = fleet(30)
    publisher = world.alive()[5]
    kept, left = advert("kept"), advert("left")
    publisher.overlay.publish(left, world.clock.now)
    for _ in range(8):
        publisher.overlay.publish(kept, world.clock.now)
        world.run(60)
    assert all(names(m.overlay.adverts()) == ["kept"] for m in world.alive())
    world.run(480)
    assert all(m.overlay.adverts() == () for m in world.alive())


def test_the_death_of_the_directory_s_owner_loses_nothing() -> None:
    world = fleet(40)
    publisher = world.alive()[5]
    publisher.overlay.publish(advert(), world.clock.now)
    world.run(3)
    victim = world.members[world.owner(KEY)]
    assert victim is not publisher
    world.kill([victim])
    world.run(60)
    publisher.overlay.publish(advert(), world.clock.now)
    world.run(5)
    late = world.add()
    world.start(late)
    world.run(10)
    assert names(late.overlay.adverts()) == ["app"]


def test_the_first_application_is_kept_alive_by_all_who_heard_the_rumour() -> None:
    world = fleet(20)
    publisher = world.alive()[0]
    for _ in range(6):
        publisher.overlay.publish(advert(), world.clock.now)
        world.run(WAN.republish_s)
        assert all(names(member.overlay.adverts()) == ["app"] for member in world.alive())


def test_nothing_new_costs_little_however_many_applications_there_are() -> None:
    traffic = []
    for applications in (1, 30):
        world = fleet(20)
        for n in range(applications):
            world.alive()[n % 20].overlay.publish(advert(f"app {n}"), world.clock.now)
        world.run(70)
        before = world.network.by_type["Adverts"]
        world.run(60)
        traffic.append(world.network.by_type["Adverts"] - before)
    assert traffic[1] < traffic[0] * 1.5


def test_who_comes_back_with_an_old_advert_is_told_the_newer_one() -> None:
    world = fleet(30)
    a, b = world.alive()[2:4]
    a.overlay.publish(advert(), world.clock.now)
    world.run(3)
    a.overlay.publish(advert(version=2, state=AppState.STOPPED), world.clock.now)
    world.run(400)
    late = world.add()
    world.start(late)
    world.run(10)
    late.overlay.publish(advert(version=1), world.clock.now)
    world.run(3)
    assert [x.state for x in late.overlay.adverts()] == [AppState.STOPPED]
    assert [x.state for x in b.overlay.adverts()] == [AppState.STOPPED]


# At the owner of the key


def test_the_higher_version_wins_and_of_equal_ones_that_which_stops_more() -> None:
    world = owner()
    steps = [
        (advert(version=2), True),
        (advert(version=1, state=AppState.STOPPED), False),
        (advert(version=2), False),
        (advert(version=2, state=AppState.PAUSED), True),
        (advert(version=3), True),
    ]
    for number, (candidate, news) in enumerate(steps):
        heard = len(world.log.events)
        route(world, Publish(pack_advert(candidate)), number)
        assert (len(world.log.events) > heard) == news
    assert [(a.version, a.state) for a in world.overlay.adverts()] == [(3, AppState.RUNNING)]


def test_what_is_not_signed_or_not_an_advert_is_dropped_and_counted() -> None:
    world = owner()
    for number, data in enumerate((pack_advert(advert(valid=False)), b"", b"\xa0", pack_advert(advert())[:-1])):
        route(world, Publish(data), number)
        world.receive(FRIEND, Rumour(data))
    assert world.overlay.adverts() == ()
    assert world.overlay.counters["bad_adverts"] == 8
    world.overlay.publish(advert(valid=False), 0.0)
    assert world.overlay.adverts() == ()


def test_new_adverts_are_copied_to_the_next_owner_and_rumoured_once() -> None:
    world = owner()
    route(world, Publish(pack_advert(advert())), 1)
    assert len(world.take(Publish, FRIEND)) == 1
    assert len(world.take(Rumour, FRIEND)) == 1
    route(world, Publish(pack_advert(advert())), 2)
    world.receive(FRIEND, Rumour(pack_advert(advert())))
    world.receive(FRIEND, Publish(pack_advert(advert())))
    assert world.take(Publish) == world.take(Rumour) == []


def test_an_older_rumour_is_answered_with_the_newer_one() -> None:
    world = owner()
    newer = advert(version=5)
    route(world, Publish(pack_advert(newer)), 1)
    world.sent.clear()
    world.receive(FRIEND, Rumour(pack_advert(advert(version=4))))
    route(world, Publish(pack_advert(advert(version=4))), 2)
    assert world.take(Rumour, FRIEND) == [Rumour(pack_advert(newer))] * 2


def test_the_hint_who_holds_the_artifacts_is_kept_up_to_date() -> None:
    world = owner()
    route(world, Publish(pack_advert(advert(holder=1))), 1)
    route(world, Publish(pack_advert(advert(holder=2))), 2)
    assert [a.holder.node_id for a in world.overlay.adverts()] == [2]
    assert len(world.log.times("advert")) == 1


def test_discovery_is_answered_page_by_page_and_with_nothing_if_nothing_is_new() -> None:
    world = owner()
    for n in range(11):
        route(world, Publish(pack_advert(advert(f"{n}"))), n)
    route(world, Publish(pack_advert(advert("gone", state=AppState.STOPPED))), 20)
    world.sent.clear()
    route(world, Discover(), 30)
    (first,) = world.take(Adverts, FRIEND)
    assert (len(first.adverts), first.more, first.same) == (8, True, False)
    ids = sorted(manifest(f"{n}").app_id for n in range(11))
    route(world, Discover(after=ids[7]), 31)
    (second,) = world.take(Adverts, FRIEND)
    assert (len(second.adverts), second.more) == (3, False)
    route(world, Discover(after=ids[-1]), 32)
    assert world.take(Adverts, FRIEND) == [Adverts(same=True)]


def test_discovery_at_the_wrong_place_is_not_answered() -> None:
    world = owner()
    world.receive(FRIEND, Route(1, KEY ^ 1, FRIEND, encode(Discover()), 1))
    assert world.take(Adverts) == []


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    world = owner()
    world.receive(FRIEND, Adverts((pack_advert(advert()),)))
    assert world.overlay.adverts() == ()


def test_an_endless_directory_is_cut_off() -> None:
    asker = SoloOverlay(KEY ^ 1 << 63).start()
    liar = contact(KEY)
    asker.meet(liar)
    pages = 0
    asker.advance(70)
    for n in range(MAX_ADVERTS):
        asked = [m for m in asker.take(Route, liar) if m.key == KEY]
        if asked:
            pages += 1
            apps = sorted((f"{n}/{k}" for k in range(4000)), key=lambda name: manifest(name).app_id)
            asker.receive(liar, Adverts((pack_advert(advert(apps[n * 13], owner=n.to_bytes(32, "big"))),), more=True))
        asker.advance(0.1)
        if not asked:
            break
    assert pages <= MAX_ADVERTS // 8 + 1


def test_every_owner_has_a_share_and_the_table_a_limit() -> None:
    world = owner()
    number = 0
    for own in range(MAX_ADVERTS // MAX_ADVERTS_PER_OWNER + 2):
        for n in range(MAX_ADVERTS_PER_OWNER + 5):
            number += 1
            world.advance(0.1)
            route(world, Publish(pack_advert(advert(f"{n}", owner=bytes([own]) * 32))), number)
    assert len(world.overlay.adverts()) == MAX_ADVERTS
    assert world.overlay.counters["adverts_refused"] > 20
    # What has stopped makes room.
    world.advance(60)
    stopped = advert("0", owner=bytes(32), version=2, state=AppState.STOPPED)
    route(world, Publish(pack_advert(stopped)), 9000)
    route(world, Publish(pack_advert(advert("new", owner=b"n" * 32))), 9001)
    assert "new" in names(world.overlay.adverts())
    assert len(world.overlay.adverts()) == MAX_ADVERTS


def fill(world: SoloOverlay, owners: int, each: int, *, first: int = 1) -> set[str]:
    """Publish `each` applications of every owner at the directory; their names."""
    published = set()
    for number in range(owners * each):
        world.advance(0.1)
        name = f"app {number:04}"
        published.add(name)
        owned = pack_advert(advert(name, owner=(number // each).to_bytes(32, "big")))
        route(world, Publish(owned), first + number)
    return published


def test_a_newcomer_discovers_a_thousand_applications_page_by_page() -> None:
    directory = owner()
    published = fill(directory, owners=100, each=10)
    newcomer = SoloOverlay(KEY ^ 1 << 63).start()
    host = contact(OWNER_ID)
    newcomer.meet(host)
    newcomer.take(Route, host)
    newcomer.overlay._directory.discover(newcomer.now)
    pages = 0
    for number in range(MAX_ADVERTS):
        asked = [m for m in newcomer.take(Route, host) if m.key == KEY]
        if not asked:
            break
        directory.take(Adverts)
        directory.advance(0.1)
        directory.receive(FRIEND, Route(5000 + number, KEY, FRIEND, asked[-1].body, 1))
        (page,) = directory.take(Adverts)
        newcomer.receive(host, page)
        newcomer.advance(0.01)
        pages += 1
    assert pages == 1000 // MAX_PAGE_ADVERTS
    assert set(names(newcomer.overlay.adverts())) == published
    assert len(newcomer.overlay.adverts()) == 1000


def test_a_full_directory_is_handed_over_as_far_as_the_new_owner_listens() -> None:
    world = SoloOverlay(OWNER_ID ^ 2).start(FRIEND)
    fill(world, owners=40, each=10)
    world.take(Publish)
    nearer = contact(OWNER_ID)
    world.meet(nearer)
    assert len(world.take(Publish, nearer)) == HANDOVER_ADVERTS
    assert HANDOVER_ADVERTS * COST[Publish] < MESSAGE_SHARE
    assert MAX_PAGES * COST[Adverts] < MESSAGE_SHARE


def test_a_hostile_publisher_takes_no_more_than_its_share() -> None:
    world = owner()
    honest = fill(world, owners=15, each=MAX_ADVERTS_PER_OWNER)
    for n in range(3 * MAX_ADVERTS_PER_OWNER):
        world.advance(0.1)
        route(world, Publish(pack_advert(advert(f"flood {n}", owner=b"h" * 32))), 5000 + n)
    kept = set(names(world.overlay.adverts()))
    assert honest <= kept
    assert len(kept - honest) == MAX_ADVERTS_PER_OWNER
    assert world.overlay.counters["adverts_refused"] == 2 * MAX_ADVERTS_PER_OWNER


def test_large_adverts_use_up_their_owner_s_bytes_and_nobody_else_s() -> None:
    world = owner()
    for n in range(MAX_ADVERTS_PER_OWNER):
        world.advance(0.1)
        route(world, Publish(large(f"large {n}")), n + 1)
    kept = [pack_advert(a) for a in world.overlay.adverts()]
    assert MAX_BYTES_PER_OWNER - len(large("large 0")) - 2 < sum(map(len, kept)) <= MAX_BYTES_PER_OWNER
    assert len(kept) < MAX_ADVERTS_PER_OWNER
    assert MAX_BYTES_PER_OWNER * (MAX_ADVERTS // MAX_ADVERTS_PER_OWNER) == MAX_DIRECTORY_BYTES
    world.advance(0.1)
    route(world, Publish(pack_advert(advert("small", owner=b"n" * 32))), 9000)
    assert "small" in names(world.overlay.adverts())


def large(name: str) -> bytes:
    """A packed advert with fields of a later version: they are ignored, but they take room."""
    fields = cbor2.loads(encode_record(manifest(name, b"l" * 32)))
    return pack_advert(Advert(cbor2.dumps({**fields, 99: bytes(3000)}), 1, AppState.RUNNING, b"v" * 64, contact(1)))


def test_the_owner_does_not_keep_adverts_alive_by_asking_itself() -> None:
    world = SoloOverlay(OWNER_ID).start()
    world.overlay.publish(advert(), 0.0)
    world.advance(WAN.advert_lifetime_s + WAN.discover_s * 1.1 + 1)
    assert world.overlay.adverts() == ()


# Before joining


@pytest.mark.parametrize("seed", [1, 29, 53])
def test_what_is_published_before_joining_is_spread_afterwards(seed: int) -> None:
    world = fleet(20, seed=seed)
    late = world.add()
    late.overlay.publish(advert(), world.clock.now)
    world.start(late)
    world.run(5)
    assert all(names(m.overlay.adverts()) == ["app"] for m in world.alive())


def test_what_expires_before_joining_is_not_spread() -> None:
    world = SoloOverlay(5)
    world.overlay.publish(advert(), 0.0)
    world.overlay.discover(0.0)
    world.advance(400)
    assert world.overlay.adverts() == ()
    assert world.overlay.sizes()["unpublished"] == 0


@pytest.mark.parametrize("zone", [0, 7])
def test_adverts_of_other_zones_are_none_of_our_business(zone: int) -> None:
    world = owner()
    world.receive(FRIEND, Rumour(pack_advert(advert(scope=Scope.ZONE, zone=zone))))
    assert (names(world.overlay.adverts()) == ["app"]) == (zone == 0)
