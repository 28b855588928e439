"""The vectorised model beside the event simulator: one fleet, the same requests, the same memberships.

The shipped overlay runs under virtual time (`edgefl/sim/world.py`); its devices are then handed to the model as they
are: ids, places, zones. Lookups really travel, and a tap on every device notes their way.

What agrees how well (1,000 devices, seed 1; tests hold 300): filled slots and leaf sets exactly, hops within 2 %,
stretch within 4 % with 5 candidates ten minutes after the last join (shipped tables keep getting nearer), depth of
trees within 15 % (3.3 here, 3.9 there): the model is shallower.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from edgefl.overlay.ids import digit, shared_digits
from edgefl.sim.fleet import app_id
from edgefl.sim.scale.applications import enrol
from edgefl.sim.scale.routes import follow
from edgefl.sim.scale.tables import all_contacts, table_sizes
from edgefl.sim.scale.tree_study import judge
from edgefl.sim.scale.trees import grow
from edgefl.sim.scale.world import Devices, Floats, Ids, Ints, arrange, city_matrix, generator
from edgefl.sim.world import Member, World
from edgefl.wire import Contact, Message
from edgefl.wire.overlay import Route

JOIN_S, IDLE_S, ATTACH_S, SETTLE_S, ANSWER_S = 60.0, 600.0, 20.0, 120.0, 15.0
CANDIDATES = 5
MOST_DEVICES = 5000
"""More would take the event simulator too long: 3,000 take minutes."""

APPS, MOST_MEMBERS = 4, 300
DRAWS = 3
"""The model's trees are drawn so many times, and averaged."""

Report = Callable[[str, float], None]


class _Tap:
    """Notes which devices a lookup comes to; takes nothing."""

    def __init__(self, node_id: int, ways: dict[int, list[int]]) -> None:
        self._node_id = node_id
        self._ways = ways

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        if isinstance(message, Route):
            self._ways[message.key].append(self._node_id)
        return False

    def on_timer(self, key: object, now: float) -> bool:
        return False


def snapshot(world: World) -> Devices:
    """The live devices of an event simulation, as arrays."""
    members = world.alive()
    places = [member.node.place for member in members]
    contacts = [member.overlay.contact for member in members]
    return arrange(
        ids=np.array([contact.node_id for contact in contacts], np.uint64),
        city=np.array([place.city for place in places]),
        site=np.array([place.site for place in places]),
        site_leg_s=np.array([place.site_leg_s for place in places]),
        device_leg_s=np.array([place.device_leg_s for place in places]),
        zone=np.unique([contact.zone for contact in contacts], return_inverse=True)[1],
        capacity=np.array([int(contact.capacity) for contact in contacts]),
        city_rtt_s=city_matrix(world.model),
    )


def cross_check(
    *,
    nodes: int = 300,
    lookups: int = 2000,
    idle_s: float = IDLE_S,
    candidates: int = CANDIDATES,
    seed: int = 1,
    report: Report = lambda what, share: None,
) -> dict[str, Any]:
    """{"event": {...}, "model": {...}} with the same keys: hops, stretch, right, slots, leaves, contacts, depth."""
    report("joining", 0.0)
    world = World(devices=nodes, seed=seed)
    world.grow(nodes, JOIN_S)
    report("tables settle", 0.1)
    world.run(idle_s)
    devices = snapshot(world)
    members = [world.members[int(node_id)] for node_id in devices.ids]
    random = generator(seed, 9, nodes)
    start = random.integers(0, nodes, lookups)
    keys = random.integers(0, 1 << 64, lookups, dtype=np.uint64)
    owner = np.array([int(np.argmin(devices.ids ^ key)) for key in keys])
    report("lookups", 0.6)
    hops, length_s, end = _travel(world, members, devices, start, keys)
    routes = follow(devices, start, keys, candidates=candidates)
    event = _figures(devices, start, owner, hops, length_s, end) | _tables(members)
    model = _figures(devices, start, owner, routes.hops, routes.length_s, routes.end)
    sizes = table_sizes(devices)
    model["slots"], model["leaves"] = float(sizes.slots.mean()), float(sizes.leaves.mean())
    model["contacts"] = len(all_contacts(devices, np.arange(nodes), candidates)[0]) / nodes
    report("trees", 0.8)
    depth = _trees(world, members, devices, seed)
    event["depth"], model["depth"] = depth["event"], depth["model"]
    return {
        "nodes": nodes,
        "seed": seed,
        "candidates": candidates,
        "idle_s": idle_s,
        "event": {name: round(value, 3) for name, value in event.items()},
        "model": {name: round(value, 3) for name, value in model.items()},
    }


def _travel(world: World, members: list[Member], devices: Devices, start: Ints, keys: Ids) -> tuple[Ints, Floats, Ints]:
    """Hops, length and end of every lookup that is really sent; -1 where no answer came."""
    ways: dict[int, list[int]] = defaultdict(list)
    for member in members:
        member.node.handlers.insert(0, _Tap(member.node_id, ways))
    now = world.clock.now
    asked = []
    for number, (origin, key) in enumerate(zip(start, keys, strict=True)):
        world.clock.run(now + 10.0 * number / len(keys))
        member = members[int(origin)]
        asked.append((member, member.overlay.lookup(int(key), world.clock.now)))
    world.run(ANSWER_S)
    position = {int(node_id): at for at, node_id in enumerate(devices.ids)}
    hops, end, length_s = np.zeros(len(keys), np.int64), np.full(len(keys), -1), np.zeros(len(keys))
    for number, (member, request) in enumerate(asked):
        found, _ = member.log.lookups.get(request, (None, 0))
        way = [int(start[number]), *(position[node_id] for node_id in ways[int(keys[number])])]
        hops[number] = len(way) - 1
        length_s[number] = devices.rtt_s(np.array(way[:-1], np.int64), np.array(way[1:], np.int64)).sum()
        end[number] = -1 if found is None else position[found.node_id]
    return hops, length_s, end


def _figures(devices: Devices, start: Ints, owner: Ints, hops: Ints, length_s: Floats, end: Ints) -> dict[str, float]:
    away = start != owner
    direct_s = devices.rtt_s(start[away], owner[away])
    return {
        "right": float((end == owner).mean()),
        "hops": float(hops.mean()),
        "hops_p99": float(np.percentile(hops, 99, method="inverted_cdf")),
        "stretch": float((length_s[away] / direct_s).mean()),
        "stretch_of_totals": float(length_s[away].sum() / direct_s.sum()),
    }


def _tables(members: list[Member]) -> dict[str, float]:
    """Filled slots, leaf sets and all contacts of the shipped tables, on average."""
    slots, leaves, contacts = 0, 0, 0
    for member in members:
        overlay, own_id = member.overlay, member.node_id
        rows = [(shared_digits(own_id, contact.node_id), contact.node_id) for contact in overlay.contacts()]
        slots += len({(row, digit(node_id, row)) for row, node_id in rows})
        leaves += len(overlay.zone_leaves()) + len(overlay.global_leaves())
        contacts += len(overlay.contacts())
    count = len(members)
    return {"slots": slots / count, "leaves": leaves / count, "contacts": contacts / count}


def _trees(world: World, members: list[Member], devices: Devices, seed: int) -> dict[str, float]:
    """The mean depth of the same applications, grown by messages and by the model."""
    size = min(MOST_MEMBERS, len(members))
    random = generator(seed, 10)
    groups = [
        (app_id(number, seed), np.sort(random.choice(len(members), size, replace=False))) for number in range(APPS)
    ]
    joins = [(app, int(at)) for app, group in groups for at in group]
    now = world.clock.now
    for number, which in enumerate(random.permutation(len(joins))):
        world.clock.run(now + ATTACH_S * number / len(joins))
        app, at = joins[which]
        members[at].overlay.join_tree(app, world.clock.now)
    world.run(SETTLE_S)
    depths = [depth for app, _ in groups for depth in world.tree(app).depths]
    memberships = enrol(devices, groups)
    drawn = [judge(devices, grow(devices, memberships, generator(seed, 11, draw))) for draw in range(DRAWS)]
    return {
        "event": sum(depths) / max(1, len(depths)),
        "model": sum(document["depth"]["mean"] for document in drawn) / DRAWS,
    }
