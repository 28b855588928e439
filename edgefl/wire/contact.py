"""A contact: everything needed to find a device, in 21 bytes (33 with IPv6).

A contact is hearsay until the device itself has proved it at its door: the node id is the hash of its key, so a wrong
address cannot impersonate anybody, it only fails to connect. The incarnation is a counter that the device raises at
every start and at every change of address, zone or class; the higher one is the newer one. No clock is involved.
"""

from __future__ import annotations

import ipaddress
import struct
from enum import IntEnum
from functools import lru_cache
from typing import Any

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.wire.fields import Codec

NODE_ID_BITS = 64


class Capacity(IntEnum):
    """Measured class of a device; weights how many children it serves (w = 1/16, 1, 4, 16)."""

    NORMAL = 0
    CONSTRAINED = 1
    STRONG = 2
    GATEWAY = 3


class Role(IntEnum):
    """`LEAF` cannot be dialled from outside; a `HELPER` volunteers to carry models of others' applications."""

    NODE = 0
    LEAF = 1
    HELPER = 2


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a device is. `host` is an IP literal, `port` that of its door, `zone` 16 bits, all counters unsigned."""

    node_id: int
    host: str
    port: int
    zone: int = 0
    incarnation: int = 0
    capacity: Capacity = Capacity.NORMAL
    role: Role = Role.NODE

    @property
    def dialable(self) -> bool:
        return self.role is not Role.LEAF

    def __hash__(self) -> int:
        """Ids are hashes already; that of all fields would cost as much as packing them."""
        return hash(self.node_id)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{node_name(self.node_id)}@{host}:{self.port}"


def node_name(node_id: int) -> str:
    """A node id as people read it: 16 hexadecimal digits."""
    return f"{node_id:016x}"


def parse_node_name(name: str) -> int:
    """The node id that `node_name` printed. Raises ValueError."""
    value = int(name, 16)
    if len(name) != NODE_ID_BITS // 4 or value < 0:
        raise ValueError(f"{name!r} is not a node id of 16 hexadecimal digits")
    return value


_HEAD = struct.Struct(">QHIBH")
_ROLES = len(Role)


@lru_cache(maxsize=4096)
def pack_contact(contact: Contact) -> bytes:
    """21 bytes, or 33 for an IPv6 address."""
    kind = contact.capacity * _ROLES + contact.role
    head = _HEAD.pack(contact.node_id, contact.zone, contact.incarnation, kind, contact.port)
    return head + ipaddress.ip_address(contact.host).packed


def unpack_contact(data: Any) -> Contact:
    """The contact in `data`. Raises WireError."""
    if type(data) is not bytes or len(data) not in (_HEAD.size + 4, _HEAD.size + 16):
        raise WireError("not a packed contact")
    return _unpack(data)


@lru_cache(maxsize=4096)  # the same contacts arrive again and again; one object each also saves memory
def _unpack(data: bytes) -> Contact:
    node_id, zone, incarnation, kind, port = _HEAD.unpack_from(data)
    if kind >= len(Capacity) * _ROLES or port == 0:
        raise WireError("not a packed contact: unknown kind or port 0")
    host = str(ipaddress.ip_address(data[_HEAD.size :]))
    return Contact(node_id, host, port, zone, incarnation, Capacity(kind // _ROLES), Role(kind % _ROLES))


CONTACT = Codec("contact", pack_contact, unpack_contact)
