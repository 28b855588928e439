"""Finding a fleet on the local network, and being found there, for one daemon.

It looks when a device knows no door that answers, and shows the device from when it has joined until it stops, at the
address that it announces elsewhere too. Where multicast does not work, nothing is lost: it is said once, and doors are
found by their addresses as before.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from edgefl.daemon.addresses import LocalAddresses, own_host
from edgefl.daemon.mdns import BROWSE_S, Mdns, is_installed
from edgefl.daemon.neighbourhood import Neighbour, allowed, doors_of

if TYPE_CHECKING:
    from edgefl.config import Settings
    from edgefl.daemon.daemon import Daemon
    from edgefl.wire import Contact

log = logging.getLogger("edgefl.discovery")

RENEW_S = 10.0
"""How often to see whether we have moved, and should be found elsewhere."""

GOODBYE_S = 2.0
"""For the last words of a stopping daemon on the local network."""


def possible(settings: Settings) -> bool:
    """Whether a device with these settings can look for a fleet around it."""
    return is_installed() and allowed(settings.mdns, own_host(LocalAddresses(settings).read(), None, None, None))


class Discovery:
    """The local network, as one daemon finds others and is found."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._said: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether it may be used here and now."""
        host = self._daemon.overlay.contact.host
        return is_installed() and allowed(self._daemon.settings.mdns, host)

    async def find(self) -> list[Neighbour]:
        """The doors of our fleet (or of the only fleet) on this network, after a few seconds."""
        if not self.active:
            return []
        try:
            mdns = Mdns(self._daemon.overlay.contact.host)
            try:
                found = await mdns.browse(BROWSE_S, anywhere=self._daemon.settings.mdns == "on")
            finally:
                await mdns.close()
        except Exception as error:  # zeroconf raises errors of many kinds, and a network may forbid it altogether
            self._say_once(f"cannot look for devices on this network: {error!r}", "give --bootstrap HOST:PORT")
            return []
        daemon = self._daemon
        doors, fleets = doors_of(found, daemon.keys.node_id, daemon.admission.fleet)
        if not doors and len(fleets) > 1 and daemon.admission.fleet is None:
            self._say_once(
                f"several fleets are on this network: {', '.join(sorted(fleets))}", "give --token or --bootstrap"
            )
        if doors:
            log.info("found on this network: %s", ", ".join(f"{door.host}:{door.port}" for door in doors))
        return doors

    async def run(self) -> None:
        """Be found from when we have joined; follow our own address. Never returns."""
        shown: tuple[str, int] | None = None
        mdns: Mdns | None = None
        try:
            while True:
                await self._daemon.joined.wait()
                contact, fleet = self._daemon.overlay.contact, self._daemon.admission.fleet
                place = (contact.host, contact.port) if self.active and contact.dialable else None
                if place != shown:
                    shown = place
                    await _close(mdns)
                    mdns = None if place is None or fleet is None else await self._show(contact, fleet)
                await asyncio.sleep(RENEW_S)
        finally:
            await _close(mdns)

    async def _show(self, contact: Contact, fleet: bytes) -> Mdns | None:
        mdns: Mdns | None = None
        try:
            mdns = Mdns(contact.host)
            await mdns.announce(contact, fleet)
        except Exception as error:  # as above: nothing about it may end the daemon
            self._say_once(f"cannot be found on this network: {error!r}", "others need this device's address")
            await _close(mdns)
            return None
        log.info("shown on this network as %s", contact)
        return mdns

    def _say_once(self, what: str, then: str) -> None:
        if what not in self._said and len(self._said) < 16:
            self._said.add(what)
            log.warning("%s (next: %s)", what, then)


async def _close(mdns: Mdns | None) -> None:
    if mdns is not None:
        try:
            await asyncio.wait_for(mdns.close(), GOODBYE_S)
        except Exception as error:  # the network has gone: so be it
            log.debug("last words on the local network: %r", error)
