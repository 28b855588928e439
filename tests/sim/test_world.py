"""The onlooker's judgement: owners, trees, cycles; and further layers on top of the overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.overlay import LAN
from edgefl.sim.fleet import app_id
from edgefl.sim.world import Member, World
from edgefl.wire import Contact, Message
from edgefl.wire.learning import Standing

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

APP = app_id(0, 0)


class Layer:
    """Something on top: takes what the overlay declines, hears its events."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.timers: list[TimerKey] = []
        self.joined = 0

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        self.messages.append(message)
        return True

    def on_timer(self, key: TimerKey, now: float) -> bool:
        self.timers.append(key)
        return True

    def on_joined(self, now: float) -> None:
        self.joined += 1

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: None


def test_further_layers_share_the_network_and_hear_the_overlay() -> None:
    layers: dict[int, Layer] = {}

    def equip(member: Member) -> list[Layer]:
        layer = layers[member.node_id] = Layer()
        member.log.listeners.append(layer)
        return [layer]

    world = World(devices=5, equip=equip)
    world.grow(5, 5)
    world.run(20)
    a, b = world.alive()[:2]
    standing = Standing.__new__(Standing)
    b.node.receive(a.overlay.contact, standing)
    a.node.set_timer(("learning", "deadline"), world.clock.now + 1)
    world.run(2)
    assert layers[b.node_id].messages == [standing]
    assert layers[a.node_id].timers == [("learning", "deadline")]
    assert all(layer.joined == 1 for layer in layers.values())


def test_a_tree_is_whole_only_if_both_ends_of_every_edge_agree() -> None:
    world = World(devices=12, profile=LAN, wire=True)
    world.grow(12, 5)
    world.run(10)
    for member in world.alive():
        member.overlay.join_tree(APP, world.clock.now)
    world.run(10)
    report = world.tree(APP)
    assert report.whole
    assert report.as_dict()["attached"] == 12
    root = next(m for m in world.alive() if m.overlay.tree(APP).is_root)  # type: ignore[union-attr]
    children = root.overlay._forest.trees[APP].children
    children.remove(next(iter(children)).contact.node_id)
    assert not world.tree(APP).whole
    assert world.tree(APP ^ 1).as_dict()["depth"] == {"mean": 0.0, "max": 0}


def test_a_cycle_would_be_seen() -> None:
    world = World(devices=3)
    world.grow(3, 3)
    world.run(10)
    a, b, c = world.alive()
    for member, parent in ((a, b), (b, c), (c, a)):
        member.overlay.join_tree(APP, world.clock.now)
        member.overlay._forest.trees[APP].parent = parent.overlay.contact
    a.log.on_parent(APP, b.overlay.contact, world.clock.now)
    assert world.cycles == 1


def test_zones_are_regions_or_nothing() -> None:
    assert len({World(devices=100).add().overlay.contact.zone for _ in range(3)} - {0}) >= 1
    assert World(devices=100, zones=False).add().overlay.contact.zone == 0
    given = Contact(5, "10.1.1.1", 7000, zone=9)
    assert World().add(given).overlay.contact is given
    assert World().add(zone=4).overlay.contact.zone == 4
