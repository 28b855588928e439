"""What a running daemon tells `edgefl doctor`: how it stands in the network, and which side of a silent pair is deaf.

A peer whose door does not open to us is looked up in the overlay. Its own answer, which comes to us by other ways,
shows that it lives and that others reach it: then the way between the two of us is blocked, or it lets only some in.
If somebody else answers in its place, nobody reaches it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from edgefl.errors import EdgeflError
from edgefl.identity.token import fingerprint
from edgefl.wire import Contact, node_name

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon

MAX_LOOKED_UP = 4
"""Silent peers that are looked up."""

LOOKUP_S = 6.0
"""For each: one attempt of the overlay, and a bit."""


async def examination(daemon: Daemon, serial: str) -> dict[str, Any]:
    """The document. `serial` is that of a token in hexadecimal digits, or empty."""
    fleet, revocations = daemon.admission.fleet, daemon.admission.revocations
    silent = list(daemon.transport.shut_doors().values())[-MAX_LOOKED_UP:]
    alive = await asyncio.gather(*[_answers_others(daemon, contact) for contact, _ in silent])
    return {
        "joined": daemon.overlay.joined,
        "fleet": None if fleet is None else fingerprint(fleet),
        "ports": list(daemon.transport.ports),
        "connections": daemon.transport.connections,
        "contacts": len(daemon.overlay.contacts()),
        "capacity": daemon.whereabouts.capacity_document(),
        "reachability": daemon.whereabouts.document(),
        "limits": daemon.budget.document(daemon.effects.now),
        "silent_peers": [
            {
                "node": node_name(contact.node_id),
                "address": str(contact).partition("@")[2],
                "cause": cause,
                "others_reach_it": others,
            }
            for (contact, cause), others in zip(silent, alive, strict=True)
        ],
        "clocks_ahead_s": [round(ahead_s, 1) for ahead_s in daemon.transport.outside.clocks_ahead_s],
        "token_revoked": bool(serial and revocations is not None and bytes.fromhex(serial) in revocations.serials),
        "mdns": daemon.discovery.active,
        "problems": daemon.status()["problems"],
    }


async def _answers_others(daemon: Daemon, contact: Contact) -> bool | None:
    """Whether others reach this device; None if nobody knows."""
    if not daemon.overlay.joined:
        return None
    try:
        owner, _ = await daemon.lookup(contact.node_id, LOOKUP_S)
    except EdgeflError:
        return None
    return owner.node_id == contact.node_id
