"""Who has been a member goes on knocking, whatever answers; what keeps a device out is told as what it is."""

from __future__ import annotations

from typing import Any

import pytest

from edgefl.daemon.arrival import Arrival
from edgefl.errors import UnreachableError
from edgefl.identity.reason import HostRevokedError, Reason, RefusedError
from edgefl.identity.revocation import pack_revocations
from edgefl.transport import Knocked
from tests.daemon.fleet import Daemons, with_daemons


@with_daemons
async def test_a_member_of_an_hour_outlives_the_only_other_device_being_revoked(fleet: Daemons) -> None:
    """Its door still opens for a moment: that it is revoked says nothing about the device that knocks there."""
    survivor, guest = await fleet.start("a"), await fleet.start("b")
    door = guest.transport.door_port
    await fleet.until(lambda: survivor.overlay.contacts() and survivor._last_contacts, "the guest's address is kept")
    guest.fail = lambda error: None  # type: ignore[method-assign]
    revoked = pack_revocations(fleet.key.revoke(None, nodes=[guest.keys.node_id]))
    survivor.admission.merge_revocations(revoked)
    with pytest.raises(HostRevokedError):
        await survivor.transport.knock("127.0.0.1", door, expect=guest.keys.node_id)
    await fleet.until(lambda: not survivor.overlay.joined, "nobody is left")
    await fleet.until(lambda: survivor.transport.counters["knocks"] > 4, "it knocks on")
    assert not fleet.running[survivor].done()


@with_daemons
async def test_a_stranger_at_the_only_known_address_does_not_end_a_device_in_its_first_hour(fleet: Daemons) -> None:
    survivor, guest = await fleet.start("a"), await fleet.start("b")
    await fleet.until(lambda: survivor._last_contacts, "the guest's address is kept")
    knocks = []

    async def stranger(host: str, port: int, **options: Any) -> Knocked:
        knocks.append((host, port))
        raise RefusedError(Reason.OTHER_DEVICE)

    survivor.transport.knock = stranger  # type: ignore[method-assign]
    guest.stop()
    await fleet.until(lambda: len(knocks) > 2, "it knocks on")
    assert not fleet.running[survivor].done()


@with_daemons
async def test_a_device_that_was_never_let_in_ends_with_what_the_doors_say(fleet: Daemons) -> None:
    daemon = await fleet.start("a")
    arrival = Arrival(daemon)
    daemon.was_member = False
    arrival._judge([UnreachableError("nobody there"), HostRevokedError()])
    arrival._judge([RefusedError(Reason.PENDING)])
    with pytest.raises(RefusedError, match="wrong fleet"):
        arrival._judge([UnreachableError("nobody there"), RefusedError(Reason.WRONG_FLEET)])
