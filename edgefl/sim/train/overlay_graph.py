"""Who exchanges with whom, found by the shipped overlay: its event simulation, then the shipped rule.

The devices join a simulated fleet (`edgefl.sim.world`: cities, zones, a network with delays) one after the other, find
each other, and build the application's tree by messages, as real ones do. Then everybody introduces its neighbours to
each other (learning/consensus/tree_neighbours.py). What is taken over is the graph: under virtual time, training begins
when the tree is whole, and the graph stays as it is.

The fleet's delays are those of its own cities, not of the traces: a device keeps its id and its class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.consensus.graph import Fixed
from edgefl.learning.consensus.tree_neighbours import TreeNeighbours
from edgefl.sim.world import World as Fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgefl.overlay import TreeView
    from edgefl.sim.world import Member
    from edgefl.wire import Contact

JOIN_S, IDLE_S, ATTACH_S = 60.0, 60.0, 20.0
"""Devices start over the first, look around in the second, join the tree over the third."""

LOOK_S = 5.0
LIMIT_S = 600.0
"""A tree that is not whole by then never will be."""


def overlay_graph(contacts: Sequence[Contact], app: int, degree: int, seed: int) -> Fixed:
    """The neighbours of each device, by its place in `contacts`; `degree` is what a manifest asks for. Raises
    RuntimeError when the devices do not come together."""
    fleet = Fleet(devices=len(contacts), seed=seed)
    coming = iter(contacts)
    fleet.grow(len(contacts), JOIN_S, lambda random: _identity(next(coming)))
    fleet.run(IDLE_S)
    members = [fleet.members[contact.node_id] for contact in contacts]
    start = fleet.clock.now
    for index, member in enumerate(members):
        fleet.clock.run(start + ATTACH_S * index / len(members))
        member.overlay.join_tree(app, fleet.clock.now)
    while True:
        fleet.run(LOOK_S)
        report = fleet.tree(app)
        if report.whole and report.members == report.counted == len(members):
            return _introduced(members, app, degree)
        if fleet.clock.now - start > LIMIT_S:
            raise RuntimeError(f"the overlay's tree is not whole after {LIMIT_S:.0f} s: {report.as_dict()}")


def _identity(contact: Contact) -> dict[str, object]:
    return {"node_id": contact.node_id, "capacity": contact.capacity}


def _introduced(members: list[Member], app: int, degree: int) -> Fixed:
    """Everybody tells its neighbours in the tree whom they are to know."""

    def near(member: Member) -> TreeNeighbours:
        def tree() -> TreeView | None:
            return member.overlay.tree(app)

        return TreeNeighbours(tree, member.node_id, degree)

    machines = {member.node_id: near(member) for member in members}
    for member in members:
        for contact, _, peers in machines[member.node_id].introductions():
            machines[contact.node_id].on_introduction(member.overlay.contact, peers)
    place = {member.node_id: index for index, member in enumerate(members)}
    return Fixed(
        tuple(
            tuple(sorted(place[contact.node_id] for contact in machines[member.node_id].outgoing(0)))
            for member in members
        )
    )
