"""What a device has promised to carry, in bytes per round over all applications, and whether it takes more.

One ledger per device: a device that serves many applications has one uplink. Questions are answered one after the other
with the ledger of that moment, and what is accepted is entered at once, before the child moves: so devices that decide
at the same time, by the same old advert, do not all come (overlay study, 2.2). What is reserved and not used lapses.
"""

from __future__ import annotations

from edgefl.declared import dataclass
from edgefl.overlay.game.model import cost_s

MAX_PROMISES = 128 * 12
"""Every application of the device with every child that it may have (forest.py, children.py)."""

RESERVED_S = 120.0
"""A child moves at the boundary of its round, which may be minutes away; then its place is free again."""


@dataclass(frozen=True, slots=True)
class Price:
    """What this device advertises about itself: seconds per byte, a penalty in seconds, whether it takes nobody, and
    seconds per byte of the uplink of its site (0: not known, or it has no site)."""

    s_per_byte: float = 0.0
    penalty_s: float = 0.0
    closed: bool = False
    site_s_per_byte: float = 0.0


@dataclass(slots=True)
class _Promise:
    size_bytes: int
    zone: int
    until: float | None


class Ledger:
    """Promises by (application, child)."""

    __slots__ = ("_promises", "load_bytes", "price")

    def __init__(self) -> None:
        self._promises: dict[tuple[int, int], _Promise] = {}
        self.load_bytes = 0
        self.price = Price()

    def __len__(self) -> int:
        return len(self._promises)

    def promise(self, app: int, child: int, size_bytes: int, *, zone: int = 0, until: float | None = None) -> None:
        """Enter what a child of that zone sends per round; without `until` as long as it is our child."""
        self.release(app, child)
        if len(self._promises) >= MAX_PROMISES:
            return
        self._promises[app, child] = _Promise(size_bytes, zone, until)
        self.load_bytes += size_bytes

    def release(self, app: int, child: int) -> None:
        """The child has left, or never came."""
        promise = self._promises.pop((app, child), None)
        if promise is not None:
            self.load_bytes -= promise.size_bytes

    def release_app(self, app: int) -> None:
        for key in [key for key in self._promises if key[0] == app]:
            self.release(*key)

    def resize(self, app: int, size_bytes: int) -> None:
        """The children in this tree send so much per round from now on."""
        for (of, child), promise in list(self._promises.items()):
            if of == app and promise.until is None:
                self.promise(app, child, size_bytes, zone=promise.zone)

    def outside_bytes(self, zone: int) -> int:
        """Promised to devices of other zones than this one."""
        return sum(promise.size_bytes for promise in self._promises.values() if promise.zone != zone)

    def expire(self, now: float) -> None:
        """Reservations that were not used."""
        for key in [k for k, promise in self._promises.items() if promise.until is not None and promise.until <= now]:
            self.release(*key)

    def admit(self, app: int, child: int, size_bytes: int, budget_s: float, now: float, *, zone: int = 0) -> bool:
        """Does the child still gain here? `budget_s` is what this device may cost it at most: its present cost less the
        margin, the RTT, the residual and the delay, which it knows itself. If so, the place is its own for a while."""
        self.expire(now)
        if self.price.closed or len(self._promises) >= MAX_PROMISES:
            return False
        known = self._promises.get((app, child))
        load = self.load_bytes - (known.size_bytes if known else 0) + size_bytes
        if self.cost_s(load) >= budget_s:
            return False
        self.promise(app, child, size_bytes, zone=zone, until=now + RESERVED_S)
        return True

    def cost_s(self, load_bytes: float) -> float:
        """b + a L: the part of a child's cost that this device decides."""
        cost: float = cost_s(
            rtt_s=0.0,
            penalty_s=self.price.penalty_s,
            s_per_byte=self.price.s_per_byte,
            load_bytes=load_bytes,
            delay_s=0.0,
            delay_weight=0.0,
        )
        return cost
