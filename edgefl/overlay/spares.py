"""Spare parents: a few that are known to be alive and would do, so that a device that loses its parent needs nobody's
help to find the next one.

They are kept fresh only while a round is open (watch.py): each has spoken to us within the last seconds and its RTT is
known, so one that has died since costs a short time-out and not the time to dial. At other times the tracker has time
to help.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgefl.overlay.candidates import CandidatePool
from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness, Peer

if TYPE_CHECKING:
    from edgefl.wire.contact import Contact

SPARES = 3
"""When one device of twenty dies at once, all three are dead with probability 10^-4 (overlay study 1.7)."""


class Spares:
    """The spare parents of one device in one tree."""

    __slots__ = ("_asking", "_chosen", "_device", "_liveness", "_pool")

    def __init__(self, device: Device, liveness: Liveness, pool: CandidatePool) -> None:
        self._device = device
        self._liveness = liveness
        self._pool = pool
        self._chosen: list[int] = []
        self._asking: set[int] = set()

    def refresh(self, parent: int | None, now: float) -> bool:
        """Replace those that would no longer do, ask those that have been silent for long. False when there are too
        few to choose from."""
        fit = {c.node_id: c for c in self._pool.fallbacks(now) if c.node_id != parent}
        kept = [i for i in self._chosen if i in fit and not self._liveness.is_suspect(i)]
        others = [c for i, c in fit.items() if i not in kept and not self._liveness.is_suspect(i)]
        self._device.random.shuffle(others)  # all children of one parent must not have the same spares
        others.sort(key=lambda contact: contact.zone != self._device.contact.zone)
        self._chosen = kept + [c.node_id for c in others[: SPARES - len(kept)]]
        for node_id in self._chosen:
            if node_id not in self._asking and not self._is_fresh(node_id, now):
                self._asking.add(node_id)
                self._liveness.ping(fit[node_id], now, partial(self._answered, fit[node_id]))
        return len(self._chosen) == SPARES

    def _answered(self, contact: Contact, peer: Peer | None, now: float) -> None:
        self._asking.discard(contact.node_id)
        if peer is None:
            self._liveness.suspect(contact.node_id, now)
            self._pool.report(contact, now, silent=True)

    def _is_fresh(self, node_id: int, now: float) -> bool:
        peer = self._liveness.peers.get(node_id)
        return peer is not None and peer.rtt_s is not None and now - peer.heard_at < self._device.profile.spare_fresh_s

    def ready(self, now: float) -> set[int]:
        """Those that can be asked at once, by node id."""
        fresh_s = 2 * self._device.profile.spare_fresh_s  # the next refresh may be on its way
        return {
            node_id
            for node_id in self._chosen
            if (peer := self._liveness.peers.get(node_id)) is not None
            and not peer.suspect
            and now - peer.heard_at < fresh_s
        }
