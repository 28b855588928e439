"""Devices that stand still for a while (SIGSTOP, a suspended laptop, a card that hangs) are back at once."""

from __future__ import annotations

import pytest
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.profile import WAN
from edgefl.overlay.stall import Stall
from edgefl.sim.fleet import app_id
from edgefl.sim.network import SimNode
from edgefl.sim.world import Member, World
from edgefl.wire import Contact, Message
from edgefl.wire.overlay import Announce

APP = app_id(0, 0)
DEVICES = 8


def fleet_in_a_round(seed: int) -> World:
    world = World(devices=DEVICES, seed=seed, zones=False)
    world.grow(DEVICES, 20)
    world.run(30)
    for member in world.alive():
        member.overlay.join_tree(APP, world.clock.now)
    world.run(30)
    assert world.tree(APP).whole
    for member in world.alive():
        member.overlay.watch_tree(APP, world.clock.now + 600, world.clock.now)
    world.run(5)
    return world


def devices(world: World) -> dict[str, Member]:
    """One of each kind, where there is one."""
    views = {member: view for member in world.alive() if (view := member.overlay.tree(APP)) is not None}
    kinds = {
        "root": lambda m: views[m].is_root,
        "rendezvous": lambda m: m.node_id == world.owner(APP),
        "interior": lambda m: views[m].children and not views[m].is_root,
        "leaf": lambda m: not views[m].children and not views[m].is_root,
    }
    return {kind: member for kind, fits in kinds.items() for member in views if fits(member)}


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("stopped_s", [5.0, 20.0, 60.0])
@pytest.mark.parametrize("kind", ["root", "rendezvous", "interior", "leaf"])
def test_a_stopped_device_is_back_in_the_one_tree_within_seconds(kind: str, stopped_s: float, seed: int) -> None:
    """It took up to 33 s: roots waited for their next renewal, and who had missed its parent shunned it for 20 s."""
    world = fleet_in_a_round(seed)
    stopped = devices(world).get(kind)
    if stopped is None:
        pytest.skip("this tree has none")
    stopped.node.asleep_until = world.clock.now + stopped_s
    world.run(stopped_s + 2.0)
    report = world.tree(APP)
    assert (report.whole, report.counted) == (True, DEVICES)
    assert stopped.overlay.counters["stalls"] == 1
    assert world.cycles == 0
    world.run(60)
    assert world.tree(APP).whole
    assert stopped.overlay.counters["stalls"] == 1


@pytest.mark.parametrize("seed", range(1, 5))
def test_what_a_device_says_first_may_be_lost(seed: int) -> None:
    """Others have closed their links to it. Before it knows, a quarter of a second of its messages goes nowhere."""
    world = fleet_in_a_round(seed)
    stopped = devices(world)["leaf"]
    stopped.node.asleep_until = wakes_at = world.clock.now + 20
    send = world.network.send

    def deaf(origin: SimNode, to: Contact, message: Message) -> None:
        if origin is not stopped.node or not wakes_at <= world.clock.now < wakes_at + 0.25:
            send(origin, to, message)

    world.network.send = deaf  # type: ignore[method-assign]
    world.run(20 + 4)
    report = world.tree(APP)
    assert (report.whole, report.counted) == (True, DEVICES)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_fleet_that_stands_still_as_a_whole_goes_on(seed: int) -> None:
    world = fleet_in_a_round(seed)
    for member in world.alive():
        member.node.asleep_until = world.clock.now + 20 + world.random.random()
    world.run(25)
    assert world.tree(APP).whole
    assert sum(member.overlay.counters["deaths"] for member in world.alive()) == 0


def test_a_device_that_has_stood_still_says_so_once_and_asks_for_its_places() -> None:
    peer = contact((1 << 63) + 10)
    world = SoloOverlay(1 << 63).start(peer)
    world.overlay.join_tree(APP, world.now)
    world.advance(30)
    world.take(Announce)
    world.now += 10.0
    world.advance(1)
    assert world.take(Announce, peer) == [Announce()]
    world.advance(WAN.watch_s)
    assert world.take(Announce, peer) == [Announce()], "the first one may have gone into a dead link"
    world.advance(5)
    assert world.take(Announce, peer) == []
    assert world.overlay.counters["stalls"] == 1
    assert world.overlay.tree(APP) is not None


def test_many_late_timers_are_one_stall_and_a_second_stall_is_another() -> None:
    stall = Stall(WAN)
    assert not stall.is_news(10.0, 12.0)
    assert stall.is_news(10.0, 20.0)
    assert not stall.is_news(11.0, 20.1)
    assert not stall.is_news(19.0, 25.0)
    assert stall.is_news(21.0, 30.0)
