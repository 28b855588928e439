"""What the state of the protocols costs in memory, measured: the Python objects, and the same facts packed.

`object_bytes` walks everything that an overlay refers to and adds up the sizes that the interpreter reports. What is
not the protocol's own (the simulated network, the clock, classes, functions, the generator) is left out; an object that
several devices share, such as a contact that was sent around, counts once among the devices that are looked at.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from random import Random
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from edgefl.overlay import Overlay, Profile
from edgefl.overlay.coordinates import COORDINATE_BYTES
from edgefl.wire.contact import pack_contact

if TYPE_CHECKING:
    from edgefl.sim.world import Member

SAMPLE = 64
"""Devices that are looked at: few share contacts among so few, so the mean is on the safe side."""

PEER_BYTES = COORDINATE_BYTES + 2 + 4
"""Of a known device beside its contact: its coordinate, an RTT in 0.1 ms, when it was heard."""

_NOT_OURS = (type, FunctionType, BuiltinFunctionType, ModuleType, Random, Enum, Profile)


def objects(overlays: Sequence[Overlay], not_ours: Iterable[Any]) -> Iterator[Any]:
    """All objects that these overlays consist of, beside `not_ours` and what only they refer to; each once."""
    seen = {id(thing) for thing in not_ours}
    waiting: list[Any] = list(overlays)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _NOT_OURS):
            continue
        seen.add(id(thing))
        yield thing
        waiting += gc.get_referents(thing)


def object_bytes(overlays: Sequence[Overlay], not_ours: Iterable[Any]) -> int:
    """Bytes of all objects that these overlays consist of, beside those of `not_ours`. Their classes have slots: the
    interpreter does not count the attributes of others until somebody looks at their dictionary."""
    return sum(map(sys.getsizeof, objects(overlays, not_ours)))


def packed_bytes(overlay: Overlay) -> int:
    """What the contacts in the tables and leaf sets of one device take, packed, with what is measured of each."""
    return sum(len(pack_contact(contact)) + PEER_BYTES for contact in overlay.contacts())


def footprint(members: Sequence[Member]) -> dict[str, int]:
    """Means over a sample of the devices, in bytes."""
    sample = members[:: max(1, len(members) // SAMPLE)]
    overlays = [member.overlay for member in sample]
    world = [thing for member in sample for thing in (member, member.node, member.log, member.world)]
    return {
        "objects_bytes": object_bytes(overlays, world) // len(sample),
        "packed_bytes": sum(map(packed_bytes, overlays)) // len(sample),
    }
