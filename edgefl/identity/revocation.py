"""The fleet's list of what it has revoked: signed, gossiped, only ever growing.

A higher version replaces a lower one; nothing else does. A revoked serial revokes every device that enrolled with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Protocol

from edgefl.errors import UsageError
from edgefl.identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, signed_by
from edgefl.identity.reason import Reason, RefusedError
from edgefl.wire.codec import Record, decode_record, encode_record, record
from edgefl.wire.fields import U32, U64, many, raw
from edgefl.wire.link import MAX_REVOCATIONS_BYTES

MAX_REVOKED_NODES = 2048
MAX_REVOKED_SERIALS = 640
"""2,048 x 9 + 640 x 17 bytes: just below the 32 KiB of one message. A fleet that needs more starts a new key."""

_UNSIGNED = bytes(SIGNATURE_BYTES)


class _Signer(Protocol):
    def sign(self, data: bytes) -> bytes: ...


@record
class RevocationList(Record):
    """Node ids and token serials that the fleet no longer admits."""

    fleet: Annotated[bytes, 1, raw(PUBLIC_KEY_BYTES, exactly=True)]
    version: Annotated[int, 2, U32]
    signature: Annotated[bytes, 3, raw(SIGNATURE_BYTES, exactly=True)]
    nodes: Annotated[tuple[int, ...], 4, many(U64, MAX_REVOKED_NODES)] = ()
    serials: Annotated[tuple[bytes, ...], 5, many(raw(16, exactly=True), MAX_REVOKED_SERIALS)] = ()

    def signed_bytes(self) -> bytes:
        """What the fleet's signature covers: every other field."""
        return b"edgefl revocations\0" + encode_record(replace(self, signature=_UNSIGNED))


def sign_revocations(fleet: _Signer, unsigned: RevocationList) -> RevocationList:
    """`unsigned` with the fleet's signature. Raises UsageError when it holds too many entries."""
    if len(unsigned.nodes) > MAX_REVOKED_NODES or len(unsigned.serials) > MAX_REVOKED_SERIALS:
        raise UsageError(
            f"the list of revocations is full ({MAX_REVOKED_NODES} devices, {MAX_REVOKED_SERIALS} tokens)",
            hint="start a new fleet key and let the devices join again; then the old ones need no revoking",
        )
    return replace(unsigned, signature=fleet.sign(unsigned.signed_bytes()))


def pack_revocations(revocations: RevocationList) -> bytes:
    return encode_record(revocations)


def unpack_revocations(data: bytes, *, fleet: bytes, after: int = -1) -> RevocationList | None:
    """The list in `data`, verified; None if its version is not above `after` (then nothing was verified).

    Raises WireError, or RefusedError when it is not this fleet's.
    """
    revocations = decode_record(RevocationList, data, limit=MAX_REVOCATIONS_BYTES)
    if revocations.fleet != fleet:
        raise RefusedError(Reason.WRONG_FLEET, "a list of revocations")
    if revocations.version <= after:
        return None
    if not signed_by(fleet, revocations.signed_bytes(), revocations.signature):
        raise RefusedError(Reason.BAD_SIGNATURE, "a list of revocations")
    return revocations
