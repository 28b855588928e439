"""Members that others report as dead: the tracker asks each itself, twice, before it believes that.

Whoever reports one is a member without a parent, and waits for the verdict: it is told at once whom to turn to. What
one device says of another can cost that one two pings, never its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgefl.declared import dataclass
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.wire.contact import Contact

MAX_ACCUSED, MAX_ACCUSERS = 64, 32
"""Members being asked, and those who wait for one verdict: twice the children of one parent."""


@dataclass(frozen=True, slots=True)
class Accuser:
    """A member that got no answer from another one."""

    app: int
    contact: Contact
    observer: bool


Verdict = Callable[[int, "Peer | None", list[Accuser], float], None]
"""The accused, what answered (None: it is dead), those who wait for the verdict, now."""


class Accused:
    """Those that are being asked, by node id."""

    __slots__ = ("_accusers", "_liveness", "_verdict")

    def __init__(self, liveness: Liveness, verdict: Verdict) -> None:
        self._liveness = liveness
        self._verdict = verdict
        self._accusers: dict[int, dict[tuple[int, int], Accuser]] = {}

    def accuse(self, member: Contact, accuser: Accuser, now: float) -> None:
        """Somebody got no answer from this member."""
        node_id = member.node_id
        accusers = self._accusers.get(node_id)
        if accusers is None:
            if len(self._accusers) >= MAX_ACCUSED:
                return
            accusers = self._accusers[node_id] = {}
            # Together they take the time of one: members without a parent are waiting for the verdict.
            half_s = self._liveness.timeout_s(node_id, now) / 2
            self._liveness.ping(member, now, partial(self._first_answer, member, half_s), timeout_s=half_s)
        if len(accusers) < MAX_ACCUSERS:
            accusers[accuser.app, accuser.contact.node_id] = accuser

    def _first_answer(self, member: Contact, half_s: float, peer: Peer | None, now: float) -> None:
        if peer is not None:
            self._answer(member.node_id, peer, now)
        else:
            self._liveness.ping(member, now, partial(self._answer, member.node_id), timeout_s=half_s)

    def _answer(self, node_id: int, peer: Peer | None, now: float) -> None:
        self._verdict(node_id, peer, list(self._accusers.pop(node_id).values()), now)
