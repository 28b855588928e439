"""Applications that share one fleet's training, as it stands in a manifest and behind `--together`: NAME[:share=W].

Every device works for one of them at a time. Whose turn it is it decides itself: that of the one that has had least of
its time, divided by its need. A need is what the application's root says with each round (forest/need.py), or the
`share` that its owner has fixed. So each application has, at any moment, the part of the fleet that is its need over
that of all; when one of them ends, its devices go to the others at once. Nobody has to know all applications, or all
devices.

    a round of A opens, this device is idle, A has had least       it trains A's model; the round waits for it
    a round of A opens, this device trains for B                   no part in this round
    training for B has ended, A has had least                      A's newest model is trained; if its round is over
                                                                   meanwhile, the delta enters the next one
    the one that has had least waits for its next round            so does this device, for a while (HOLD)
    and the while is over                                          another one that has a model for it

Source: FedAST (Askin et al., Federated Asynchronous Simultaneous Training, UAI 2024). There a server keeps R_m requests
for model m under way, from clients at random, and closes a buffer when a fixed share of R_m has come; R_m is fixed by
hand (static) or follows how much the clients' updates differ (dynamic). Here `--pace buffered` is the buffer: it closes
when its `goal` of those who work for m should be in. (Virtual time by weight is as in turns.py.)
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from edgefl.declared import dataclass
from edgefl.errors import UsageError
from edgefl.learning.options import parse_options

MIN_NEED, MAX_NEED = 1 / 4, 4.0
"""Nobody, whatever he says, gets more than 16 times as much as another."""

HOLD = 0.25
"""An idle device waits for the next round of the application whose turn it is, as long as this share of its last
training: less than that, and devices would train old models; more, and they would stand idle."""

FIRST_HOLD_S = 5.0
"""The same before this device has trained anything for the group."""

MAX_NAME_BYTES = 32


@dataclass(frozen=True, slots=True)
class TogetherOptions:
    """`share`: a fixed need; 0: as the root finds it."""

    share: float = 0.0

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        if self.share == 0 or MIN_NEED <= self.share <= MAX_NEED:
            return None
        return f"share is {self.share:g}, but must be {MIN_NEED:g} to {MAX_NEED:g}, or 0 (by need)"


def parse_together(text: str) -> tuple[str, float] | None:
    """(name of the group, fixed share or 0); None for an empty text: it is by itself. Raises UsageError."""
    if not text:
        return None
    name, _, options = text.partition(":")
    if not name.strip() or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        raise UsageError(
            f"{name!r} cannot be a group's name",
            hint=f"readable text of at most {MAX_NAME_BYTES} bytes, NAME[:share=2]",
        )
    return name, parse_options(TogetherOptions, options, name).share


class Partner(Protocol):
    """One application of a group, on this device."""

    @property
    def id(self) -> int: ...

    @property
    def live(self) -> bool:
        """Whether it has rounds to come."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether a model is here, or on its way, that this device has not begun to train."""
        ...

    def begin(self, now: float) -> None:
        """Train it."""
        ...

    def wake(self, at: float) -> None:
        """See that `Together.on_hold_over` is called then."""
        ...


@dataclass(slots=True)
class _Part:
    partner: Partner
    lot: int
    need: float = 1.0
    had: float = 0.0
    passed: bool = False


class Together:
    """One group on one device. Pure; `had` is in seconds of training divided by need, as in Turns."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._parts: dict[int, _Part] = {}
        self.busy: int | None = None
        """The application that this device works for."""
        self._holds: int | None = None
        self._last_s = 0.0

    def __len__(self) -> int:
        return len(self._parts)

    def enter(self, partner: Partner) -> None:
        """An application of the group on this device. Where all are even, each device begins with another one."""
        both = self._node_id.to_bytes(8, "big") + partner.id.to_bytes(8, "big")
        lot = int.from_bytes(hashlib.blake2b(both, digest_size=8, person=b"edgefl together").digest(), "big")
        self._parts[partner.id] = _Part(partner, lot, had=self._least())

    def leave(self, app: int) -> None:
        """It is no more here. `on_idle` may follow."""
        self._parts.pop(app, None)
        self.free(app)

    def tell(self, app: int, need: float) -> None:
        """What an application needs, relative to others."""
        if app in self._parts:
            self._parts[app].need = min(max(need, MIN_NEED), MAX_NEED)

    def claims(self, app: int) -> bool:
        """A round of an application opens here: whether this device works for it (from now on, if it was idle)."""
        part = self._parts.get(app)
        if part is None:
            return False
        if part.passed:
            part.passed = False
            part.had = max(part.had, self._least(but=app))
        if self.busy is None and self._first() is part:
            self._take(part)
        return self.busy == app

    def charge(self, app: int, seconds: float) -> None:
        """This device has worked so long for an application, to the end."""
        self._last_s = seconds
        if app in self._parts:
            self._parts[app].had += seconds / self._parts[app].need

    def free(self, app: int) -> None:
        """This device does not work for that application any more. `on_idle` may follow."""
        if self.busy == app:
            self.busy = None
        if self._holds == app:
            self._holds = None

    def on_idle(self, now: float) -> None:
        """Take up the next one, if this device is idle."""
        if self.busy is not None or self._holds is not None:
            return
        first = self._first()
        if first is not None and not first.partner.fresh:
            self._holds = first.partner.id
            first.partner.wake(now + (HOLD * self._last_s if self._last_s else FIRST_HOLD_S))
        elif first is not None:
            self._begin(first, now)

    def on_hold_over(self, app: int, now: float) -> None:
        """The application has let this device wait too long: its turn is over until its next round."""
        if self._holds != app:
            return
        self._holds = None
        self._parts[app].passed = True
        ready = [part for part in self._parts.values() if part.partner.live and part.partner.fresh]
        if ready:
            self._begin(min(ready, key=_order), now)
        else:
            self.on_idle(now)

    def _begin(self, part: _Part, now: float) -> None:
        self._take(part)
        part.partner.begin(now)

    def _take(self, part: _Part) -> None:
        self.busy, self._holds = part.partner.id, None

    def _first(self) -> _Part | None:
        return min(
            (part for part in self._parts.values() if part.partner.live and not part.passed), key=_order, default=None
        )

    def _least(self, but: int | None = None) -> float:
        """Who comes, or comes back, starts where the others are."""
        others = [part.had for app, part in self._parts.items() if app != but and part.partner.live and not part.passed]
        return min(others, default=0.0)


def _order(part: _Part) -> tuple[float, int]:
    return part.had, part.lot
