"""Keeps this device's contact true: where it is, whether others can dial it, and of which capacity class it is.

It looks at its own addresses every few seconds, hears from doors where they saw it (transport/outside.py), and asks
peers now and then to dial it back (reachability.py). When its address, its role or its class has changed, it takes a
higher incarnation, tells its neighbours, and opens connections that began at a lost address anew. Hearsay of the old
contact then loses against the higher incarnation.

No clock is involved but the loop's own: a suspended device looks again when it wakes up, and a step of the wall clock
is not even noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgefl.config import split_address
from edgefl.daemon.addresses import LOOPBACK, AddressSource, Here, fixed_host, own_host
from edgefl.daemon.reachability import Announced, Answer, Reachability
from edgefl.errors import EdgeflError, StorageError
from edgefl.overlay import zone_of_site
from edgefl.telemetry.capacity import Hardware, capacity_of, measure, told
from edgefl.transport import DialBack, Knocked
from edgefl.wire import Capacity, Contact, Role, node_name

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon

log = logging.getLogger("edgefl.whereabouts")

LOOK_S = 5.0
"""How often the addresses are looked at: 16 millionths of a PC's processor, some ten times that of a small device's."""


class Whereabouts:
    """The contact of one daemon's device. `source` tells its addresses."""

    def __init__(self, daemon: Daemon, source: AddressSource, listening: tuple[str, int]) -> None:
        """`listening`: host and port of the door as the transport opened it. Raises UnreachableError."""
        settings = daemon.settings
        self._daemon = daemon
        self._source = source
        self._here = source.read()
        self._fixed = fixed_host(settings, listening[0])
        self._listening = listening[0]
        self._host = self._fixed or own_host(self._here, None, None, None)
        self._port = split_address(settings.advertise)[1] if settings.advertise else listening[1]
        self.willing = {"leaf": Role.LEAF, "helper": Role.HELPER}.get(settings.role, Role.NODE)
        """The role of this device while others reach it."""
        self._measured = measure()
        self.hardware: Callable[[], Hardware] = self._hardware
        """What this device is made of, and whether it is on mains now."""
        self._changing = asyncio.Lock()
        self.wake = asyncio.Event()
        """Set to look now instead of within seconds."""
        if self._fixed is None and self._host == LOOPBACK and self._here.route is None:
            log.warning("this device has no way out: telling others %s (next: give --advertise HOST:PORT)", self._host)

    def begin(self, incarnation: int) -> Contact:
        """The contact to start with."""
        daemon = self._daemon
        self.reachability = Reachability(lambda: daemon.effects.random.random(), daemon.loop.time())
        zone = zone_of_site(daemon.settings.site)
        return Contact(daemon.keys.node_id, self._host, self._port, zone, incarnation, self._capacity(), self.willing)

    async def run(self) -> None:
        """Never returns."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), LOOK_S)
            self.wake.clear()
            await self.look()

    async def look(self) -> None:
        """Compare what is announced with what is true, and ask peers if it is time."""
        here, before = self._source.read(), self._here
        if here != before:
            self._on_addresses(before, here)
        await self._announce()
        wanted = self.reachability.wanted(self._daemon.effects.now)
        asks = wanted and self._daemon.overlay.joined and self.willing is not Role.LEAF
        others = self._others() if asks else []
        if others:
            await self._ask_to_be_dialled(others, wanted)
            await self._announce()

    def _on_addresses(self, before: Here, here: Here) -> None:
        self._here = here
        if here.route is not None and before.route != here.route:
            log.info("this device has moved from %s to %s", before.route or "nowhere", here.route)
            self._daemon.transport.outside.clear()
            self.reachability.on_moved(self._daemon.effects.now)
        if before.all - here.all:
            self._daemon.transport.leave_lost_addresses(here.all)

    async def _announce(self) -> None:
        """Tell others what has changed, if something has."""
        contact = self._daemon.overlay.contact
        agreed, proven = self._daemon.transport.outside.agreed, self.reachability.proven
        host = self._fixed or own_host(self._here, contact.host, agreed, proven)
        role = contact.role
        if self.reachability.role is Role.LEAF or self._daemon.budget.spent:
            role = Role.LEAF
        elif role is Role.LEAF:
            role = self.willing
        capacity = self._capacity()
        if (host, role, capacity) != (contact.host, contact.role, contact.capacity):
            await self.change(host=host, role=role, capacity=capacity)

    def _hardware(self) -> Hardware:
        """Cores and memory stay; a plug does not, and the load is sampled anyway."""
        load = self._daemon.load
        return self._measured if load is None else replace(self._measured, on_mains=load.on_mains)

    def _capacity(self) -> Capacity:
        by_settings = told(self._daemon.settings.capacity)
        return capacity_of(self.hardware()) if by_settings is None else by_settings

    async def change(self, **changes: Any) -> None:
        """Announce our contact with these fields changed, at a higher incarnation. Not done if that cannot be made
        durable: it is tried again."""
        daemon = self._daemon
        async with self._changing:
            try:
                incarnation = await daemon.disk.run(lambda store: store.next_incarnation())
            except StorageError:
                return  # remembered and shown by the disk
            before = daemon.overlay.contact
            contact = replace(before, **changes, incarnation=max(incarnation, before.incarnation + 1))
            daemon.transport.set_contact(contact)
            daemon.guard(daemon.overlay.set_contact, contact, daemon.effects.now)
        if contact.host != before.host:
            log.info("this device is at %s now", contact)
            if contact.host != self.reachability.proven:
                self.reachability.on_moved(daemon.effects.now)
        if contact.capacity is not before.capacity:
            log.info("the capacity class of this device is %s now", contact.capacity.name.lower())
        if contact.role is not before.role:
            self._say_role(contact)

    def _say_role(self, contact: Contact) -> None:
        if self._daemon.budget.spent:
            log.warning("this device takes part as a leaf until it may transfer again")
        elif contact.dialable:
            log.info("this device takes part as a %s again", contact.role.name.lower())
        else:
            log.warning(
                "nobody reaches this device at %s: it takes part as a leaf, through its own connections "
                "(next: `edgefl doctor` tells which side blocks)",
                str(contact).partition("@")[2],
            )

    # Being dialled back

    @property
    def announced(self) -> Announced:
        contact = self._daemon.overlay.contact
        return Announced(contact.host, self._fixed is not None, self._daemon.transport.outside.agreed)

    async def on_knocked(self, knocked: Iterable[Knocked]) -> None:
        """Doors that let us in on our way into the fleet, and dialled us back meanwhile."""
        now = self._daemon.effects.now
        answers = [self._answer(one) for one in knocked if one.dial_back is not DialBack.NOT_TRIED]
        if answers:
            self.reachability.on_answers(answers, self.announced, len(answers), now)
            await self._announce()

    async def _ask_to_be_dialled(self, peers: list[Contact], count: int) -> None:
        found = await asyncio.gather(*[self._ask(peer) for peer in peers[:count]])
        answers = [answer for answer in found if answer is not None]
        self.reachability.on_answers(answers, self.announced, len(peers), self._daemon.effects.now)

    async def _ask(self, peer: Contact) -> Answer | None:
        try:
            knocked = await self._daemon.transport.knock(peer.host, peer.port, expect=peer.node_id, dial_back=True)
        except EdgeflError as error:
            log.debug("%s was not asked: %s", peer, error.cause)
            return None
        return self._answer(knocked)

    def _answer(self, knocked: Knocked) -> Answer:
        contact = self._daemon.overlay.contact
        return Answer(
            knocked.card.contact.node_id, knocked.seen, contact.port, knocked.dial_back, self._daemon.effects.now
        )

    def _others(self) -> list[Contact]:
        """Whom to ask, best first: who has not said no yet, and has no connection with us, which would prove less."""
        daemon = self._daemon
        peers = [contact for contact in daemon.overlay.contacts() if contact.dialable]
        daemon.effects.random.shuffle(peers)
        return sorted(
            peers,
            key=lambda peer: (
                self.reachability.asked_already(peer.node_id),
                daemon.transport.connected(peer.node_id),
            ),
        )

    # What people are told

    def problems(self) -> list[str]:
        """What is wrong, with the next step."""
        if self._fixed is not None and not self._daemon.settings.advertise and self._listening not in self._here.all:
            return [
                f"{self._listening}, where this device listens, is none of its addresses any more "
                "(next: restart it with another --listen)"
            ]
        return []

    def capacity_document(self) -> dict[str, Any]:
        """The announced class, whether it is `told` or `measured`, and what was measured."""
        return {
            "class": self._daemon.overlay.contact.capacity.name.lower(),
            "chosen": "told" if told(self._daemon.settings.capacity) is not None else "measured",
            **asdict(self.hardware()),
        }

    def document(self) -> dict[str, Any]:
        """As `edgefl status` and `edgefl doctor` show it."""
        now, contact = self._daemon.effects.now, self._daemon.overlay.contact
        return {
            "role": contact.role.name.lower(),
            "announced": {"host": contact.host, "port": contact.port, "fixed": self._fixed is not None},
            "observed": self._daemon.transport.outside.agreed,
            "local": self._here.route,
            "known": self.reachability.known,
            "next_check_s": round(max(0.0, self.reachability.due_at - now), 1),
            "dial_backs": [
                {
                    "peer": node_name(answer.peer),
                    "seen": answer.seen,
                    "port": answer.port,
                    "outcome": answer.outcome.name.lower(),
                    "ago_s": round(now - answer.at, 1),
                }
                for answer in self.reachability.history
            ],
        }
