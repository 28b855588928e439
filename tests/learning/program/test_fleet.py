"""Program trees above the shipped overlay, on a simulated network that loses messages, with devices that vanish."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from edgefl.effects import TimerKey
from edgefl.learning.program.broadcasts import Broadcast
from edgefl.learning.program.programs import Programs
from edgefl.learning.program.root_sum import Sum
from edgefl.learning.program.tree import ProgramTree
from edgefl.sim import World
from edgefl.sim.network import SimNode
from edgefl.sim.world import Member
from edgefl.wire import Contact, Message


class Program:
    """One device's program: handler of its messages and timers, listener of its overlay and of its tree."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.programs = Programs(member.overlay, member.node, self)
        self.tree: ProgramTree | None = None
        self.heard: list[Broadcast] = []
        self.sums: list[Sum] = []
        member.log.listeners.append(self)  # type: ignore[arg-type]

    def begin(self) -> ProgramTree:
        self.tree = self.programs.create("fleet", values=2, deadline_s=20.0)
        self.tree.join(self.member.now)
        return self.tree

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        return self.programs.on_message(sender, message, now)

    def on_timer(self, key: TimerKey, now: float) -> bool:
        return self.programs.on_timer(key, now)

    def on_root(self, app: int, now: float) -> None:
        self.programs.on_root(app, now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        self.programs.on_parent(app, parent, now)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        self.programs.on_child(app, child, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        self.programs.on_child_gone(app, child, now)

    def on_broadcast(self, tree: int, broadcast: Broadcast) -> None:
        self.heard.append(broadcast)

    def on_published(self, tree: int, serial: int, *, delivered: bool) -> None: ...

    def on_sum(self, tree: int, result: Sum) -> None:
        self.sums.append(result)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):  # what else an overlay tells
            return lambda *arguments: None
        raise AttributeError(name)


def fleet(devices: int, seed: int) -> tuple[World, dict[int, Program]]:
    programs: dict[int, Program] = {}

    def equip(member: Member) -> list[Program]:
        programs[member.node_id] = Program(member)
        return [programs[member.node_id]]

    world = World(devices=devices, seed=seed, wire=True, equip=equip)
    world.grow(devices, 15.0)
    world.run(20.0)
    for program in programs.values():
        program.begin()
    world.run(60.0)
    return world, programs


def give(world: World, programs: dict[int, Program], round_: int) -> list[Member]:
    alive = world.alive()
    for member in alive:
        tree = programs[member.node_id].tree
        assert tree is not None
        assert tree.give(round_, np.array([member.node_id % 97, 1], np.float32), 1 + member.node_id % 5, member.now)
    return alive


def check(result: Sum, members: list[Member]) -> None:
    weights = [1 + member.node_id % 5 for member in members]
    expected = np.average([member.node_id % 97 for member in members], weights=weights)
    assert (result.participants, result.weight) == (len(members), sum(weights))
    np.testing.assert_allclose(result.mean, [expected, 1], rtol=1e-4)


def results(programs: dict[int, Program], round_: int) -> list[Sum]:
    return [one for program in programs.values() for one in program.sums if one.round == round_]


def test_a_quiet_fleet_adds_up_everybody_and_all_hear_the_same() -> None:
    world, programs = fleet(40, seed=4)
    members = give(world, programs, 1)
    world.run(5.0)
    (result,) = results(programs, 1)
    check(result, members)
    tree = programs[members[7].node_id].tree
    assert tree is not None
    sent: Counter[str] = Counter()
    carry = world.network.send

    def counted(origin: SimNode, to: Contact, message: Message) -> None:
        sent[type(message).__name__] += 1
        carry(origin, to, message)

    world.network.send = counted  # type: ignore[method-assign]
    tree.publish(b"hello", members[7].now, 30.0)
    world.run(5.0)
    assert all([one.payload for one in program.heard] == [b"hello"] for program in programs.values())
    assert sent["ProgramBroadcast"] == len(members) - 1  # each device is sent it once
    assert sent["ProgramPublish"] == members[7].overlay.tree(tree.id).depth


def test_a_bad_network_and_devices_that_vanish_in_the_middle() -> None:
    """Five per cent of the messages are lost; in a round the root and an inner device lose their power. Who is alive
    hears every broadcast, in one order; and with a good network the next round is exact again."""
    world, programs = fleet(40, seed=6)
    world.network.faults.loss = 0.05
    app = next(program.tree.id for program in programs.values() if program.tree)
    views = {member: member.overlay.tree(app) for member in world.alive()}
    root = next(member for member, view in views.items() if view and view.is_root)
    inner = next(member for member, view in views.items() if view and view.parent and view.children)
    speaker = next(member for member in world.alive() if member not in (root, inner))
    tree = programs[speaker.node_id].tree
    assert tree is not None
    give(world, programs, 1)
    tree.publish(b"before", speaker.now, 120.0)
    world.run(0.05)
    world.kill([root, inner])
    tree.publish(b"while they die", speaker.now, 120.0)
    world.run(120.0)
    tree.publish(b"after", speaker.now, 120.0)
    world.run(30.0)
    for member in world.alive():
        heard = [one.payload for one in programs[member.node_id].heard]
        assert heard == [b"before", b"while they die", b"after"]
    (first,) = results(programs, 1)
    assert 1 <= first.participants <= 40
    world.network.faults.loss = 0.0
    world.run(60.0)
    members = give(world, programs, 2)
    world.run(40.0)
    (second,) = results(programs, 2)
    check(second, members)


def test_the_same_seed_gives_the_same_run() -> None:
    digests = []
    for _ in range(2):
        world, programs = fleet(20, seed=8)
        give(world, programs, 1)
        world.run(10.0)
        digests.append(world.network.digest)
    assert digests[0] == digests[1]
