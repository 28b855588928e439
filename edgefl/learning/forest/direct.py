"""Sums of zones that reach the root apart from each other: what the strategy `trimmed-zones` cuts the ends off.

In the tree, a zone hangs below a device of another one, and its sum would become a part of that one's. So the head of a
zone (a device whose parent is in another zone) delivers to the root itself, whose address comes with the round:

    a head is told of the round    it tells its parent at once that nothing will come, and who delivers to the root
                                   (`direct`); these names are passed on with what devices deliver, and heads, too
    the zone's sum is whole        offered to the root, which takes it as if from a child: chunks, credit, repetition
    the root                       waits for its children, and for the heads that it has been told of; puts each into
                                   the sum of its zone (groups.py), its own children and itself into that of its own

A device is of one zone in a round: the first thing that it says decides. So k liars, wherever they are and whatever
they say, spoil the sums of k zones at most. (Where they are in the way, they can keep the word of a round from zones
below them.) A head that was announced and that dies is waited for until the round's deadline. What crosses between
zones is one update for each head, as ever; the root takes them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.wire.learning import MAX_HEADS, RoundKind, Update

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.round import OpenRound
    from edgefl.wire import Contact


def upstream(app: ForestApplication, round_: OpenRound) -> Contact | None:
    """To whom this device delivers in a round: its parent, or, from the head of a zone, the root."""
    return round_.root if delivers_to_root(app, round_) else app.parent


def delivers_to_root(app: ForestApplication, round_: OpenRound) -> bool:
    """Whether this device is the head of a zone that delivers past its parent."""
    parent, root = app.parent, round_.root
    if parent is None or root is None or round_.mine or app.observer:
        return False
    return parent.zone != app.me.zone and root.node_id not in (parent.node_id, app.me.node_id)


def excuse(app: ForestApplication, round_: OpenRound) -> None:
    """Tell the parent that nothing will come, and why."""
    if app.parent is not None:
        epoch, number, attempt = round_.tag
        app.effects.send(app.parent, Update(app.id, epoch, number, attempt, final=True, direct=(app.me.node_id,)))


def admit_guest(app: ForestApplication, round_: OpenRound, sender: Contact) -> bool:
    """Whether the root takes in what a device delivers that is no child: a head of another zone. At most MAX_HEADS of
    them: their chunks share INFLOW_BYTES (inflow.py) with those of children, and MAX_GROUPS (groups.py) bounds what is
    held of them."""
    if not round_.mine or round_.root is None or round_.kind is not RoundKind.TRAIN:
        return False
    if sender.node_id in round_.guests or sender.node_id in round_.delivered:
        return True  # a child that has delivered and moved on is acknowledged once more, and not waited for
    if sender.zone == app.me.zone or len(round_.guests) >= MAX_HEADS:
        return False
    round_.guests.add(sender.node_id)
    round_.waiting.add(sender.node_id)
    return True
