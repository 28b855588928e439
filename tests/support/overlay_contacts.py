"""Contacts, peers and adverts for tests of the overlay."""

from __future__ import annotations

from typing import Any

from edgefl.overlay.liveness import Peer
from edgefl.wire import Contact
from edgefl.wire.application import Advert, AppState, Manifest
from edgefl.wire.codec import encode_record
from edgefl.wire.overlay import Scope


def contact(node_id: int, **changes: Any) -> Contact:
    """A contact with an address of its own."""
    fields = {"host": f"10.{node_id >> 56}.{node_id & 255}.{node_id >> 8 & 255}", "port": 7000}
    return Contact(**{"node_id": node_id, **fields, **changes})


def peer(node_id: int, *, rtt_s: float | None = None, heard_at: float = 0.0, **changes: Any) -> Peer:
    return Peer(contact(node_id, **changes), heard_at, rtt_s)


OWNER = b"o" * 32


def manifest(name: str = "app", owner: bytes = OWNER, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {"salt": b"s" * 16, "artifacts": (), "data": "digits", "parameters": 10, "rounds": 3}
    return Manifest(**{"name": name, "owner": owner, **fields, **changes})


def advert(
    name: str = "app",
    *,
    version: int = 1,
    state: AppState = AppState.RUNNING,
    owner: bytes = OWNER,
    scope: Scope = Scope.GLOBAL,
    zone: int = 0,
    holder: int = 1,
    valid: bool = True,
) -> Advert:
    """An advert whose signature `is_valid` accepts, or not."""
    data = encode_record(manifest(name, owner, scope=scope, zone=zone))
    return Advert(data, version, state, (b"v" if valid else b"x") * 64, contact(holder))


def is_valid(candidate: Advert) -> bool:
    return candidate.signature == b"v" * 64
