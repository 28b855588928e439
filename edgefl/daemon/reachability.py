"""Can others reach this device? A state machine fed with what peers found when they dialled us back.

    UNKNOWN ---somebody reached us---> NODE        UNKNOWN ---nobody of those asked did---> LEAF
    NODE    ---one peer did not, nor did two others---> LEAF
    LEAF    ---somebody reached us---> NODE
    any     ---our address has changed---> asked again at once; the role stays until there is an answer

Two peers are asked at first, one now and then while they reach us, two at growing intervals while they do not. One
peer's "no" never makes us a leaf unless it is the only peer there is; a "yes" counts only if the peer was really seen
at our door (transport.py), so nobody can talk us into either role.

What an answer is worth depends on the address that was dialled, which is always the one that the peer saw us at:

    reached where we announce ourselves, or where peers agree to see us     yes
    reached anywhere else                                                   nothing: others will not dial that address
    not reached                                                             no
    not reached, but the operator told us to announce another address       nothing: it was not tried
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgefl.declared import dataclass
from edgefl.transport import DialBack
from edgefl.wire import Role

ASKED = 2
"""Peers asked at a time, and peers whose "no" it takes."""

FIRST_S = 1.0
"""After joining, and after a change of address: let the links settle."""

CHECK_S = 1800.0
"""One peer is asked again this often while others reach us: two exchanges, 7 kB, are 4 B/s."""

RETRY_S = 15.0
"""When nobody could be asked, or an answer was missing."""

RECHECK_S, RECHECK_MAX_S = 60.0, 3600.0
"""While nobody reaches us: at first after a minute (a firewall may just be being opened), then doubled."""

MAX_HISTORY = 8
"""Newest answers that are kept for `edgefl doctor`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one peer found: it saw us at `seen` and dialled `port` there. `at` is monotonic, in seconds."""

    peer: int
    seen: str
    port: int
    outcome: DialBack
    at: float


@dataclass(frozen=True, slots=True)
class Announced:
    """Where we say that we are: `fixed` if the operator said so, `agreed` where peers agree to see us."""

    host: str
    fixed: bool
    agreed: str | None


def weigh(answer: Answer, announced: Announced) -> bool | None:
    """Is it a yes, a no, or nothing?"""
    if answer.outcome is DialBack.REACHED:
        return True if announced.fixed or answer.seen in (announced.host, announced.agreed) else None
    if answer.outcome.failed and (not announced.fixed or answer.seen == announced.host):
        return False
    return None


class Reachability:
    """`role` is what the answers make of us, NODE until they say otherwise. `draw()` is a number from 0 to 1."""

    def __init__(self, draw: Callable[[], float], now: float) -> None:
        self.role = Role.NODE
        self.known = False
        """Whether anything is known at all."""
        self.proven: str | None = None
        """The last address that somebody reached us at."""
        self.history: list[Answer] = []
        self.due_at = now + FIRST_S
        self._draw = draw
        self._noes: set[int] = set()
        self._rechecks = 0

    def wanted(self, now: float) -> int:
        """How many peers to ask now."""
        if now < self.due_at:
            return 0
        return 1 if self.known and self.role is Role.NODE and not self._noes else ASKED

    def asked_already(self, peer: int) -> bool:
        """It has said no in this series: ask somebody else, if there is somebody."""
        return peer in self._noes

    def on_answers(self, answers: Sequence[Answer], announced: Announced, others: int, now: float) -> None:
        """What came back. `others`: how many peers there are that can be asked at all."""
        self.history = [*self.history, *answers][-MAX_HISTORY:]
        found = [(answer, weigh(answer, announced)) for answer in answers]
        yes = [answer for answer, verdict in found if verdict]
        self._noes |= {answer.peer for answer, verdict in found if verdict is False}
        if yes:
            self.proven = yes[-1].seen
            self._decide(Role.NODE)
            self._rechecks = 0
            self._wait(CHECK_S, now)
        elif self._noes and len(self._noes) >= min(ASKED, others):
            enough = len(self._noes) >= ASKED
            self._decide(Role.LEAF)
            # On the word of one, there being no other: there may be others soon.
            first_s = RECHECK_S if enough else RETRY_S
            self._wait(min(RECHECK_MAX_S, first_s * 2.0**self._rechecks), now)
            self._rechecks = min(self._rechecks + 1, 16)
        elif any(verdict is False for _, verdict in found):
            self.due_at = now  # one no: others are to say what they find
        else:
            self._wait(RETRY_S, now)

    def on_moved(self, now: float) -> None:
        """Our address has changed: nothing that was found is true of the new one."""
        self.proven = None
        self._noes.clear()
        self._rechecks = 0
        self.due_at = now + FIRST_S

    def _decide(self, role: Role) -> None:
        self.role, self.known = role, True
        self._noes.clear()

    def _wait(self, seconds: float, now: float) -> None:
        # Spread: devices that were started together shall not ask together.
        self.due_at = now + seconds * (0.75 + 0.5 * self._draw())
