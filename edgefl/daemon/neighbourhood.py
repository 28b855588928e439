"""Who is found on the local network: when it is looked for, and what a record of it must look like. No sockets here.

A device announces the service `_edgefl._tcp` (DNS-SD over multicast DNS, RFC 6762 and 6763) with the port of its door
and three texts: `v` (version of this record, 1), `id` (its node id) and `fleet` (eight digits of the fleet key's
fingerprint, enough to tell fleets apart and no more). Whoever reads it knocks at that door like at any other: what is
found opens nothing, certificates and tokens decide as always. Anybody on the network can announce anything, so records
are checked strictly, and few are kept.

    mdns = "auto"   on private networks (RFC 1918, RFC 4193, link-local), if the zeroconf package is installed
    mdns = "on"     everywhere; without the package the daemon does not start
    mdns = "off"    never
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from edgefl.declared import dataclass
from edgefl.identity.token import fingerprint
from edgefl.wire import node_name, parse_node_name

SERVICE = "_edgefl._tcp.local."

RECORD_VERSION = b"1"

MAX_FOUND = 32
"""Devices remembered of one search: any one of them that answers is enough."""

MAX_ADDRESSES = 4
"""Addresses of one record that are looked at."""

FLEET_DIGITS = 9
"""Of the fingerprint as it is written: eight digits and a colon."""

_PRIVATE = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
]
_FLEET = re.compile(rb"[0-9a-f]{4}:[0-9a-f]{4}")
_NODE = re.compile(rb"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A device that was announced on this network. `fleet` is the short fingerprint."""

    host: str
    port: int
    node_id: int
    fleet: str


def is_private(host: str | None) -> bool:
    """Whether an IP literal belongs to a network that is nobody else's business."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return any(address.version == network.version and address in network for network in _PRIVATE)


def _is_somewhere(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast)


def allowed(mode: str, host: str | None) -> bool:
    """Whether a device with this address looks around and shows itself."""
    return mode == "on" or (mode == "auto" and is_private(host))


def short_fleet(public_key: bytes) -> str:
    return fingerprint(public_key)[:FLEET_DIGITS]


def texts(node_id: int, fleet: bytes) -> dict[str, str]:
    """The texts of our own record. `fleet` is the fleet's public key."""
    return {"v": RECORD_VERSION.decode(), "id": node_name(node_id), "fleet": short_fleet(fleet)}


def read_record(
    properties: Mapping[bytes, bytes | None], addresses: Iterable[str], port: int | None, *, anywhere: bool
) -> Neighbour | None:
    """What a record says, or None if it is not one of ours. Only private addresses count, unless `anywhere`: nobody on
    the network shall make us knock at doors elsewhere."""
    node, fleet = properties.get(b"id") or b"", properties.get(b"fleet") or b""
    if properties.get(b"v") != RECORD_VERSION or not _NODE.fullmatch(node) or not _FLEET.fullmatch(fleet):
        return None
    if port is None or not 1 <= port <= 65535:
        return None
    for address in list(addresses)[:MAX_ADDRESSES]:
        host = address.partition("%")[0]
        if is_private(host) or (anywhere and _is_somewhere(host)):
            return Neighbour(host, port, parse_node_name(node.decode()), fleet.decode())
    return None


def doors_of(found: Iterable[Neighbour], own_id: int, fleet: bytes | None) -> tuple[list[Neighbour], frozenset[str]]:
    """The doors to knock at, and the fleets that there are. A device that knows its fleet goes to that one alone; one
    that knows none goes nowhere if there are several: it is not ours to choose."""
    others = [neighbour for neighbour in found if neighbour.node_id != own_id]
    fleets = frozenset(neighbour.fleet for neighbour in others)
    if fleet is not None:
        return [neighbour for neighbour in others if neighbour.fleet == short_fleet(fleet)], fleets
    return (others if len(fleets) == 1 else []), fleets
