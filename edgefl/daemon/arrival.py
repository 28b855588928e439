"""The way into the fleet, and back into it.

--first                    joined at once, alone: others come to this device
no door known, or none     look around on the local network (discovery.py), knock at what is found there
answers
otherwise                  knock at the doors of --bootstrap, of the token and of remembered contacts, until a device
                           that has joined lets us in; then the overlay takes over (rows, rings, announcement)

no certificate             the door notes our request; knock again until the fleet's owner has approved it
refused for good           every door that answered refused a device that has never been a member: the daemon ends
                           with exit code 77 and the door's reason. A device that is or was a member goes on trying:
                           who answers at an old address may be a stranger, or a device that was revoked.
nobody answers             go on for ever, with back-off: the others may only be switched on later
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from edgefl.config import split_address
from edgefl.daemon.neighbourhood import Neighbour
from edgefl.daemon.reachability import ASKED
from edgefl.errors import EdgeflError, UnreachableError, WireError
from edgefl.identity.reason import HostRevokedError, Reason, RefusedError
from edgefl.transport import Knocked
from edgefl.wire import Contact

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon

log = logging.getLogger("edgefl.arrival")

PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 30.0
"""Between two rounds of knocking; doubles up to the maximum."""

APPROVAL_PAUSE_MAX_S = 5.0
"""While a person is about to approve us, they should not wait long to see it work."""

JOIN_S = 5.0
"""How long the overlay gets after a door has opened, before other doors are tried as well."""

MAX_DOORS = 16
"""Doors knocked at in one round; the others have their turn in the next."""

TEMPORARY = frozenset({Reason.PENDING, Reason.BUSY, Reason.NO_FLEET})
"""Refusals that may be different next time."""


class Arrival:
    """Brings one daemon into the fleet, again after every isolation."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._said = ""
        self._found: list[Neighbour] = []

    async def run(self, first: bool) -> None:
        """Never returns; raises the refusal when there is no hope."""
        daemon = self._daemon
        if not first and not await self._doors():
            self._found = await daemon.discovery.find()
        alone = not await self._doors() and self._may_be_the_first()
        daemon.overlay.remember(await self._remembered())
        daemon.overlay.start(daemon.effects.now, first=first or alone)
        while True:
            pause_s = PAUSE_MIN_S
            while not daemon.overlay.joined:
                contacts = await self._knock()
                if contacts:
                    daemon.guard(daemon.overlay.bootstrap, contacts, daemon.effects.now)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(daemon.joined.wait(), JOIN_S)
                    continue
                if daemon.admission.fleet is not None or not daemon.settings.bootstrap:
                    # Not a device that was told where to ask for admission: it means that fleet, not any.
                    self._found = await daemon.discovery.find() or self._found
                await asyncio.sleep(pause_s * daemon.effects.random.uniform(0.8, 1.2))
                waiting = daemon.admission.certificate is None
                pause_s = min(2 * pause_s, APPROVAL_PAUSE_MAX_S if waiting else PAUSE_MAX_S)
            await daemon.isolated.wait()

    def _may_be_the_first(self) -> bool:
        """A member that knows nobody is the fleet, until others come. Not one that was invited and may still find who
        invited it: it would found an island beside the fleet."""
        certificate = self._daemon.admission.certificate
        invited = certificate is not None and certificate.enrolment is not None
        return certificate is not None and not (invited and self._daemon.discovery.active)

    async def _knock(self) -> list[Contact]:
        """Knock at all known doors at once; the devices that let us in."""
        doors = await self._doors()
        if not doors and not self._said:
            self._said = "no doors"
            log.warning("no device of a fleet is known (next: give --bootstrap HOST:PORT, or wait for one to appear)")
        # The first of them dial us back, so that we arrive in the right role.
        knocks = [self._knock_at(*door, dial_back=at < ASKED) for at, door in enumerate(doors)]
        answers = await asyncio.gather(*knocks, return_exceptions=True)
        knocked = [answer for answer in answers if isinstance(answer, Knocked)]
        await self._daemon.whereabouts.on_knocked(knocked)
        contacts = [one.card.contact for one in knocked]
        errors = [answer for answer in answers if isinstance(answer, EdgeflError)]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, EdgeflError):
                raise answer
        if not contacts and errors:
            self._judge(errors)
        return contacts

    def _judge(self, errors: list[EdgeflError]) -> None:
        """Say once what keeps us out, and give up when it is final."""
        refusals = [error for error in errors if isinstance(error, RefusedError)]
        ours = [error for error in refusals if not isinstance(error, HostRevokedError)]
        final = [error for error in ours if error.reason not in TEMPORARY]
        spoke = [error for error in errors if not isinstance(error, UnreachableError)]
        worst = (final or ours or spoke or errors)[0]
        if f"{worst.cause} {worst.hint}" != self._said:
            self._said = f"{worst.cause} {worst.hint}"
            log.warning("not in the fleet yet: %s (next: %s)", worst.cause, worst.hint)
            self._daemon.supervisor.notify(STATUS=f"not in the fleet yet: {worst.cause}")
        if final and len(final) == len(spoke) and not self._daemon.was_member:
            raise final[0]
        versions = [error for error in errors if isinstance(error, WireError)]
        if versions and len(versions) == len(spoke) and not self._daemon.was_member:
            raise versions[0]

    async def _knock_at(self, host: str, port: int, expect: int | None, *, dial_back: bool) -> Knocked:
        return await self._daemon.transport.knock(host, port, expect=expect, dial_back=dial_back)

    async def _remembered(self) -> list[Contact]:
        """Who we knew before our last start, those included that had fallen silent: it may be us who is cut off."""
        return await self._daemon.disk.run(lambda store: store.contacts() + store.lost_contacts())

    async def _doors(self) -> list[tuple[str, int, int | None]]:
        """(host, port, expected node id): given addresses first, then what was found around us, then remembered
        contacts in random order."""
        daemon = self._daemon
        given: list[tuple[str, int, int | None]] = [(*split_address(text), None) for text in daemon.settings.bootstrap]
        contacts = await self._remembered()
        daemon.effects.random.shuffle(contacts)
        given += [(found.host, found.port, found.node_id) for found in self._found]
        known = {(host, port) for host, port, _ in given}
        remembered = [(c.host, c.port, c.node_id) for c in contacts if (c.host, c.port) not in known]
        return (given + remembered)[:MAX_DOORS]
