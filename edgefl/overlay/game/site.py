"""What the devices of one site carry together over the uplink that they share: the second resource of the game.

A site is the zone that an operator has named. Its uplink is crossed by the streams of children outside the site, and
the promises to those add up over all devices of the site and all applications. Nobody sees them all, so one device of
the site, the owner of the key `site_key(zone)`, keeps a register:

    parent     what it has promised to the outside has changed, or somebody outside asks for its price and its last look
               at the register is older than FRESH_S: SitePromise, routed inside the zone
    register   enters it, and answers with the sum of the others: SiteLoad
    parent     advertises A_g and L_g = the others' promises + its own of this moment

The register is soft state: a new owner of the key knows everything after one round, since every parent with children
outside is asked by them once a round. Adverts are one look old; what they hide, on purpose or not, ends up in the
residual of whoever advertised it. A site that overstates its load is avoided, as it asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.overlay.ids import site_key
from edgefl.wire.game import SiteLoad, SitePromise
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.overlay.device import Device
    from edgefl.overlay.game.ledger import Ledger
    from edgefl.overlay.routing import Router
    from edgefl.wire.contact import Contact
    from edgefl.wire.overlay import Route

FRESH_S = 10.0
"""A look at the register is good for so long: at most one message per parent and round of any length."""

LEASE_S = 3600.0
"""A promise that is not repeated is forgotten: longer than a round of a large model. Who is found dead goes at once."""

MAX_REPORTERS = 512
"""Devices of a site with children outside. One that reported longest ago makes room; 64 bytes each."""

MAX_PROMISED_BYTES = 1 << 48
"""Of one device: more than any uplink carries in a lease. Nothing overflows, whatever is claimed."""


class Site:
    """Both sides of it on one device: carrying, and keeping the register."""

    __slots__ = ("_asked_at", "_device", "_ledger", "_others_bytes", "_register", "_router", "_said_bytes")

    def __init__(self, device: Device, router: Router, ledger: Ledger) -> None:
        self._device = device
        self._router = router
        self._ledger = ledger
        self._said_bytes = self._others_bytes = 0
        self._asked_at = float("-inf")
        self._register: dict[int, tuple[int, float]] = {}

    def sizes(self) -> dict[str, int]:
        return {"site_reporters": len(self._register)}

    # As a parent

    @property
    def is_priced(self) -> bool:
        """We are at a site, and know what its uplink carries."""
        return self._ledger.price.site_s_per_byte > 0 and self._device.contact.zone != 0

    def load_bytes(self) -> int:
        """L_g: of all devices of the site, as far as we know; 0 where the uplink has no price."""
        return self._others_bytes + self._own_bytes() if self.is_priced else 0

    def advert(self, zone: int, now: float) -> tuple[float, int]:
        """A_g and L_g for a device of that zone; nothing for our own."""
        if not self.is_priced or zone == self._device.contact.zone:
            return 0.0, 0
        if now - self._asked_at >= FRESH_S:
            self._report(now)
        return self._ledger.price.site_s_per_byte, self.load_bytes()

    def on_change(self, now: float) -> None:
        """The ledger has changed."""
        if self.is_priced and self._own_bytes() != self._said_bytes:
            self._report(now)

    def on_zone_changed(self) -> None:
        """We are elsewhere: nothing that we knew of the old site holds, and its register is not ours."""
        self._register.clear()
        self._said_bytes = self._others_bytes = 0
        self._asked_at = float("-inf")

    def on_load(self, sender: Contact, message: SiteLoad, now: float) -> None:
        """The register's answer; what is not from our site means nothing."""
        if sender.zone == self._device.contact.zone:
            self._others_bytes = min(message.others_bytes, MAX_REPORTERS * MAX_PROMISED_BYTES)

    def _own_bytes(self) -> int:
        return self._ledger.outside_bytes(self._device.contact.zone)

    def _report(self, now: float) -> None:
        self._said_bytes, self._asked_at = self._own_bytes(), now
        key = site_key(self._device.contact.zone)
        self._router.route(key, SitePromise(self._said_bytes), now, scope=Scope.ZONE)

    # As the register

    def on_promise(self, route: Route, message: SitePromise, now: float) -> None:
        """A device of our site says what it carries, and asks what the others do."""
        zone, origin = self._device.contact.zone, route.origin
        if zone == 0 or route.key != site_key(zone) or origin.zone != zone:
            return
        self._register.pop(origin.node_id, None)
        if message.promised_bytes:
            self._register[origin.node_id] = (min(message.promised_bytes, MAX_PROMISED_BYTES), now + LEASE_S)
        while self._register and (len(self._register) > MAX_REPORTERS or self._oldest_until() <= now):
            del self._register[next(iter(self._register))]
        others = [promised for node_id, (promised, _) in self._register.items() if node_id != origin.node_id]
        self._device.send(origin, SiteLoad(sum(others), len(others)))

    def forget(self, node_id: int) -> None:
        """A device is known to be gone."""
        self._register.pop(node_id, None)

    def _oldest_until(self) -> float:
        return next(iter(self._register.values()))[1]
