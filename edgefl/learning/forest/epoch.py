"""Epochs: which root's word counts. A counter in the upper bits, 16 bits of the root's node id below it.

Every root takes a number above all that it has heard of. The lower bits keep two roots apart that rise at the same time
in two parts of a divided fleet: their rounds never carry the same name (Lamport, Time, Clocks, and the Ordering of
Events in a Distributed System, 1978: ties are broken by the process).
"""

from __future__ import annotations

from collections.abc import Iterable

NODE_BITS = 16

MAX_LEAP = 1 << 20
"""How far an epoch may be above the newest that a device knows: a liar must not use up the 48 bits of the counter."""


def next_epoch(heard: Iterable[int], node_id: int) -> int:
    """An epoch of this device above all epochs that it has heard of."""
    counter = max((epoch >> NODE_BITS for epoch in heard), default=0) + 1
    return counter << NODE_BITS | node_id & ((1 << NODE_BITS) - 1)


def made_by(epoch: int, node_id: int) -> bool:
    """Whether this device can have been the root that took the epoch: all that 16 bits of its id tell."""
    return (epoch ^ node_id) & ((1 << NODE_BITS) - 1) == 0


def epoch_number(epoch: int) -> int:
    """The counter alone, as people read it."""
    return epoch >> NODE_BITS


def plausible(epoch: int, known: int) -> bool:
    """Whether a device that knows of the epoch `known` may believe in `epoch`."""
    return epoch >> NODE_BITS <= (known >> NODE_BITS) + MAX_LEAP
