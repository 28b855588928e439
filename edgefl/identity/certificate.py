"""Certificates: the chain from a fleet's key to a device, verifiable offline by any peer.

    fleet key ──signs──> Enrolment (a join token's public half) ──its key signs──> DeviceCertificate
    fleet key ──────────────────────signs (approval)───────────────────────────> DeviceCertificate

A device certificate also carries the device's own signature over its CURVE key. There are no dates: devices have no
clock worth trusting, so a certificate lives until it is revoked (revocation.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Protocol

from edgefl.declared import dataclass
from edgefl.identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, curve_bound, node_id_of, signed_by
from edgefl.identity.reason import Reason, RefusedError
from edgefl.wire.codec import Record, encode_record, nested, record
from edgefl.wire.fields import U32, optional, raw, text

SERIAL_BYTES = 16
MAX_SITE_BYTES = 64

_UNSIGNED = bytes(SIGNATURE_BYTES)
_KEY = raw(PUBLIC_KEY_BYTES, exactly=True)
_SIGNATURE = raw(SIGNATURE_BYTES, exactly=True)


class Signer(Protocol):
    """Whoever can sign: a device, a fleet, an enrolment."""

    @property
    def public(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes: ...


@record
class Enrolment(Record):
    """The fleet lets the holder of `key` certify devices: at most `uses` of them (0 = any number), all at `site`."""

    fleet: Annotated[bytes, 1, _KEY]
    key: Annotated[bytes, 2, _KEY]
    serial: Annotated[bytes, 3, raw(SERIAL_BYTES, exactly=True)]
    signature: Annotated[bytes, 4, _SIGNATURE]
    site: Annotated[str, 5, text(MAX_SITE_BYTES)] = ""
    uses: Annotated[int, 6, U32] = 0

    def signed_bytes(self) -> bytes:
        """What the fleet's signature covers: every other field."""
        return b"edgefl enrolment\0" + encode_record(replace(self, signature=_UNSIGNED))


@record
class DeviceCertificate(Record):
    """This device, with this CURVE key, belongs to the fleet. Signed by an enrolment's key, or by the fleet's own."""

    fleet: Annotated[bytes, 1, _KEY]
    device: Annotated[bytes, 2, _KEY]
    curve: Annotated[bytes, 3, _KEY]
    binding: Annotated[bytes, 4, _SIGNATURE]
    signature: Annotated[bytes, 5, _SIGNATURE]
    enrolment: Annotated[Enrolment | None, 6, optional(nested(Enrolment))] = None
    site: Annotated[str, 7, text(MAX_SITE_BYTES)] = ""

    @property
    def node_id(self) -> int:
        return node_id_of(self.device)

    def signed_bytes(self) -> bytes:
        """What the issuer's signature covers: every other field."""
        return b"edgefl device\0" + encode_record(replace(self, signature=_UNSIGNED))


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """What a device says of itself: its keys, and where it stands. Worthless without a certificate."""

    device: bytes
    curve: bytes
    binding: bytes
    site: str = ""

    @property
    def node_id(self) -> int:
        return node_id_of(self.device)


def sign_enrolment(fleet: Signer, key: bytes, serial: bytes, *, site: str = "", uses: int = 0) -> Enrolment:
    """The fleet certifies an enrolment key."""
    unsigned = Enrolment(fleet.public, key, serial, _UNSIGNED, site, uses)
    return replace(unsigned, signature=fleet.sign(unsigned.signed_bytes()))


def sign_device(issuer: Signer, claim: DeviceClaim, *, enrolment: Enrolment | None = None) -> DeviceCertificate:
    """Certify a device: by the fleet's key (approval), or by the key of `enrolment`, whose site it then gets."""
    unsigned = DeviceCertificate(
        fleet=issuer.public if enrolment is None else enrolment.fleet,
        device=claim.device,
        curve=claim.curve,
        binding=claim.binding,
        signature=_UNSIGNED,
        enrolment=enrolment,
        site=claim.site if enrolment is None else enrolment.site,
    )
    return replace(unsigned, signature=issuer.sign(unsigned.signed_bytes()))


def verify_enrolment(enrolment: Enrolment) -> None:
    """Check the fleet's signature. Raises RefusedError (a NotAdmittedError)."""
    if not signed_by(enrolment.fleet, enrolment.signed_bytes(), enrolment.signature):
        raise RefusedError(Reason.BAD_SIGNATURE, "the token is not signed by its fleet")


def verify(certificate: DeviceCertificate, *, fleet: bytes | None = None) -> None:
    """Check the whole chain, offline. With `fleet`, also that it is that fleet's. Raises RefusedError.

    Revocation and the number of uses are policy, not proof: admission.py looks after them.
    """
    if fleet is not None and certificate.fleet != fleet:
        raise RefusedError(Reason.WRONG_FLEET)
    issuer = certificate.fleet
    enrolment = certificate.enrolment
    if enrolment is not None:
        if enrolment.fleet != certificate.fleet:
            raise RefusedError(Reason.WRONG_FLEET, "the device was enrolled by another fleet")
        if enrolment.site != certificate.site:
            raise RefusedError(Reason.BAD_SIGNATURE, "the token is for another site")
        verify_enrolment(enrolment)
        issuer = enrolment.key
    if not signed_by(issuer, certificate.signed_bytes(), certificate.signature):
        raise RefusedError(Reason.BAD_SIGNATURE, "the certificate is not signed by its issuer")
    if not curve_bound(certificate.device, certificate.curve, certificate.binding):
        raise RefusedError(Reason.BAD_SIGNATURE, "the device has not signed its transport key")
