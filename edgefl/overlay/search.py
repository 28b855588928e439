"""Asking others for their contacts, and the iterative search that is made of such questions.

A search walks towards a key: ask the nearest device that is known and not asked yet, until nobody nearer than those who
answered turns up. It leaves no state on the way and needs no standing: it is how a device finds its place before
anybody knows it, looks after its place later, and (if it cannot be dialled) finds the owner of a key itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from edgefl.overlay.device import Device
from edgefl.overlay.ids import ID_BITS
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.requests import Requests
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import FindRows, Rows

MAX_COLLECTED = 512
"""Contacts that one search remembers: four full answers."""

MAX_ASKED = 32
"""Questions of one search: 6 hops at 10^6 nodes, and plenty of dead or unjoined devices on the way."""

PARALLEL = 3
"""Questions open at once: a dead device on the way costs no time-out."""

RowsThen = Callable[["Rows | None", float], None]
"""The answer, or None when there was none in time; and the time."""


class RowQueries:
    """FindRows sent, Rows received."""

    __slots__ = ("_device", "_liveness", "_requests", "remember", "unpack_zones")

    def __init__(self, device: Device, requests: Requests, liveness: Liveness) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self.unpack_zones: Callable[[bytes, float], None] = lambda data, now: None
        self.remember: Callable[[Iterable[Contact]], None] = lambda contacts: None

    def ask(self, contact: Contact, target: int, now: float, then: RowsThen, *, brief: bool = False) -> None:
        """Ask for the contacts near `target`, in our zone above all; without the upper rows if `brief`."""
        number = self._requests.number()
        timeout_s = self._liveness.timeout_s(contact.node_id, now)
        if self._requests.open(("rows", number), contact.node_id, now, timeout_s, partial(then, None), then):
            self._device.send(contact, FindRows(number, target, self._device.contact.zone, brief))
        else:
            then(None, now)

    def on_rows(self, sender: Contact, message: Rows, now: float) -> None:
        question = self._requests.take(("rows", message.request), sender.node_id)
        if question is None:
            return
        if message.joined:
            self._liveness.meet(sender, now - question.opened_at, now)
            self.unpack_zones(message.zones, now)
            self.remember(message.lost)
        question.then(message, now)


class Search:
    """One walk towards `target`; `within` a zone it asks devices of that zone alone, `brief` it collects no upper rows.

    `on_done(now)` ends it; then `nearest` is the nearest joined device that answered.
    """

    __slots__ = (
        "_asked",
        "_brief",
        "_device",
        "_nearest",
        "_on_done",
        "_open",
        "_over",
        "_queries",
        "_target",
        "_within",
        "collected",
        "nearest",
        "unjoined",
    )

    def __init__(
        self,
        device: Device,
        queries: RowQueries,
        target: int,
        seeds: Iterable[Contact],
        on_done: Callable[[float], None],
        *,
        within: int | None = None,
        brief: bool = False,
    ) -> None:
        self._brief = brief
        self._device = device
        self._queries = queries
        self._target = target
        self._within = within
        self._on_done = on_done
        self._asked: set[int] = set()
        self._open = 0
        self._nearest: int | None = None
        self._over = False
        self.collected: dict[int, Contact] = {}
        self.unjoined: list[int] = []
        self.nearest: Contact | None = None
        self._collect(seeds)

    def step(self, now: float) -> None:
        """Ask on; call once to begin."""
        while not self._over and self._open < PARALLEL and (contact := self._next()) is not None:
            self._asked.add(contact.node_id)
            self._open += 1
            self._queries.ask(contact, self._target, now, partial(self._answered, contact), brief=self._brief)
        if self._open == 0 and not self._over:
            self._over = True
            self._on_done(now)

    def abandon(self) -> None:
        """Ignore all further answers."""
        self._over = True

    def _answered(self, contact: Contact, rows: Rows | None, now: float) -> None:
        self._open -= 1
        if rows is not None and rows.joined:
            distance = contact.node_id ^ self._target
            if self._nearest is None or distance < self._nearest:
                self._nearest, self.nearest = distance, contact
            self._collect(rows.contacts)
        else:
            self.collected.pop(contact.node_id, None)
            if rows is not None:
                self.unjoined.append(contact.node_id)
        self.step(now)

    def _collect(self, contacts: Iterable[Contact]) -> None:
        own_id, asked, collected = self._device.node_id, self._asked, self.collected
        for contact in contacts:
            node_id = contact.node_id
            if node_id in collected or node_id in asked or node_id == own_id or not contact.dialable:
                continue
            if len(collected) >= MAX_COLLECTED:
                return
            collected[node_id] = contact

    def _next(self) -> Contact | None:
        if len(self._asked) >= MAX_ASKED:
            return None
        target, within, asked = self._target, self._within, self._asked
        nearer = self._nearest if self._nearest is not None else 1 << ID_BITS
        best = None
        for node_id, contact in self.collected.items():
            if node_id ^ target < nearer and node_id not in asked and within in (None, contact.zone):
                best, nearer = contact, node_id ^ target
        return best
