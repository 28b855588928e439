"""Who may be whose parent: a total order of an application's devices that everybody computes alike.

U = hash(node id, application) in (0, 1), w the weight of the device's capacity class, rank = -log2(-ln U / w). Level j
(the rank rounded down) holds about m / 2^(j+1) of m members, so a chain of strictly rising ranks has at most
log2(m) + O(1) levels, and strong devices stand higher in proportion to their weight (overlay study 1.3).

Law: a parent outranks its child. Hence no cycle, whatever messages are lost; hence one root, the highest member, and
one head per zone, the highest of its zone, without an election. Devices that cannot be dialled stand below all that
can, observers below everybody, and neither is ever a parent. Between those that cannot be dialled and those that can
stand volunteers (volunteers.py): parents of the former, never above a member that has no need of them.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

from edgefl.wire.contact import Capacity, Contact, Role

Rank = tuple[int, float, int]
"""Tier (observer, not dialable, helper, dialable), rank within the tier, node id as the tie-break."""

WEIGHTS = {Capacity.CONSTRAINED: 1 / 16, Capacity.NORMAL: 1.0, Capacity.STRONG: 4.0, Capacity.GATEWAY: 16.0}

_OBSERVER, _UNDIALABLE, _HELPER, _PARENT = 0, 1, 2, 3
_TIERS = {Role.LEAF: _UNDIALABLE, Role.HELPER: _HELPER, Role.NODE: _PARENT}
_HASH_BITS = 52  # so that (hash + 1/2) / 2^52 is exact in a double: U is never 0 or 1


@lru_cache(maxsize=1 << 15)
def _value(node_id: int, capacity: int, app: int) -> float:
    data = node_id.to_bytes(8, "big") + app.to_bytes(8, "big")
    digest = hashlib.blake2b(data, digest_size=8, person=b"edgefl rank").digest()
    uniform = ((int.from_bytes(digest, "big") >> (64 - _HASH_BITS)) + 0.5) / (1 << _HASH_BITS)
    return -math.log2(-math.log(uniform) / WEIGHTS[Capacity(capacity)])


def rank(contact: Contact, app: int, observer: bool = False) -> Rank:
    """The place of a device in the order of an application; the higher tuple is the higher rank."""
    tier = _OBSERVER if observer else _TIERS[contact.role]
    return (tier, _value(contact.node_id, int(contact.capacity), app), contact.node_id)


def can_be_parent(standing: Rank) -> bool:
    """Only devices that can be dialled carry children."""
    return standing[0] >= _HELPER


def is_helper(standing: Rank) -> bool:
    """A volunteer, or a member that volunteers elsewhere."""
    return standing[0] == _HELPER


def level(standing: Rank) -> int:
    """The rank rounded down; parents are preferred from a higher level, which keeps trees shallow."""
    return math.floor(standing[1])
