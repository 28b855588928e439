"""How far what is sent to peers has come, by the word of their kernels.

What ZeroMQ has written may still be here: the kernel takes up to 4 MiB of a connection at once (tcp_wmem), however slow
the line. A small update would seem to be delivered at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Callable

from edgefl.declared import dataclass
from edgefl.transport.tcp_info import counts


@dataclass(slots=True)
class _Peer:
    """What is under way to a peer through one connection, in bytes, and what that had acknowledged at the last look."""

    descriptor: int
    acknowledged: int
    under_way: int = 0


class Deliveries:
    """`carrier(node_id)`: the descriptor of the connection through which bulk goes to a peer now; -1 without one."""

    def __init__(self, carrier: Callable[[int], int]) -> None:
        self._carrier = carrier
        self._peers: dict[int, _Peer] = {}
        self._delivered = 0

    def begin(self, node_id: int) -> None:
        """Something is about to be given to ZeroMQ for a peer."""
        peer, descriptor = self._peers.get(node_id), self._carrier(node_id)
        if peer is None or peer.descriptor != descriptor:
            known = counts(descriptor) if descriptor >= 0 else None
            if known is None:  # nothing is measured
                self._peers.pop(node_id, None)
            else:
                self._peers[node_id] = _Peer(descriptor, known.acknowledged)

    def sent(self, node_id: int, size: int) -> None:
        """So many bytes were given to it."""
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.under_way += size

    def look(self, _: float) -> tuple[int, int]:
        """Bytes that peers have acknowledged in all, and how many of them have not acknowledged all of theirs."""
        for node_id, peer in list(self._peers.items()):
            known = counts(peer.descriptor) if peer.descriptor == self._carrier(node_id) else None
            if known is None or known.acknowledged < peer.acknowledged:
                del self._peers[node_id]  # the connection has gone, and what was on it
                continue
            # Framing and small messages are acknowledged as well, and were never counted as sent.
            progress = min(known.acknowledged - peer.acknowledged, peer.under_way)
            self._delivered += progress
            peer.acknowledged, peer.under_way = known.acknowledged, peer.under_way - progress
            if not peer.under_way:
                del self._peers[node_id]
        return self._delivered, len(self._peers)
