"""The fleet's list of revocations on its way through the fleet: whoever learns something new cuts those who are on it,
and tells every peer but the one that it came from. Peers see at the Hello whose list is older (wire/link.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgefl.errors import EdgeflError
from edgefl.identity.admission import Admission
from edgefl.identity.revocation import RevocationList, pack_revocations
from edgefl.transport.counters import Counters
from edgefl.transport.penalties import Penalties
from edgefl.wire.codec import Message
from edgefl.wire.link import Revoked

log = logging.getLogger(__name__)


class Revoking:
    """`cut(node_id)` ends every connection with a peer, `tell(message, but=node_id)` sends to all the others."""

    def __init__(
        self,
        admission: Admission,
        penalties: Penalties,
        counters: Counters,
        cut: Callable[[int], None],
        tell: Callable[[Message, int | None], None],
    ) -> None:
        self._admission = admission
        self._penalties = penalties
        self._counters = counters
        self._cut = cut
        self._tell = tell
        self._came_from: int | None = None
        self._packed: tuple[RevocationList | None, bytes] = (None, b"")

    def packed(self) -> tuple[int, bytes]:
        """The version of our list, and the list as it travels."""
        known = self._admission.revocations
        if known is not self._packed[0]:
            self._packed = (known, b"" if known is None else pack_revocations(known))
        return 0 if known is None else known.version, self._packed[1]

    def on_received(self, node_id: int, data: bytes) -> None:
        """A peer has sent its list."""
        self._came_from = node_id
        try:
            self._admission.merge_revocations(data)
        except EdgeflError as error:
            log.debug("revocations from %016x: %s", node_id, error.cause)
            self._counters["dropped.revocations"] += 1
            self._penalties.garbage(node_id)
        finally:
            self._came_from = None

    def on_revoked(self, lost: frozenset[int]) -> None:
        """Our list has changed, and these were let in until now (Admission.on_revoked)."""
        revocations = self._admission.revocations
        if revocations is None:
            return
        for node_id in lost.union(revocations.nodes):
            self._cut(node_id)
        self._tell(Revoked(self.packed()[1]), self._came_from)
