"""Devices, fleets and certificates for tests."""

from __future__ import annotations

from edgefl.identity.admission import Admission
from edgefl.identity.certificate import DeviceClaim
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys


def claim_of(keys: DeviceKeys, site: str = "") -> DeviceClaim:
    return DeviceClaim(keys.public, keys.curve_public, keys.binding, site)


def member(fleet: FleetKey, *, uses: int = 0, site: str = "") -> Admission:
    """A device that has joined with a token of its own."""
    admission = Admission(DeviceKeys.generate())
    admission.join(fleet.invite((), uses=uses, site=site))
    return admission
