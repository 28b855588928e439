"""A join token: one line of text that lets a device into a fleet.

    edgefl1-<base64url of: length (2 bytes), CBOR record, checksum (4 bytes)>

The length tells a paste that was cut off, the checksum a typing error; only then does the fleet's signature decide
whether the token is genuine. It carries the secret of an enrolment key: whoever has the text can join.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Annotated

from nacl.signing import SigningKey

from edgefl.errors import UsageError, WireError
from edgefl.identity.certificate import DeviceCertificate, DeviceClaim, Enrolment, sign_device, verify_enrolment
from edgefl.identity.keys import SECRET_KEY_BYTES, DeviceKeys
from edgefl.identity.reason import Reason, RefusedError
from edgefl.wire.codec import Record, decode_record, encode_record, nested, record
from edgefl.wire.contact import node_name
from edgefl.wire.fields import U16, U64, many, optional, raw, text

PREFIX = "edgefl1-"
MAX_BOOTSTRAPS = 8
"""Doors named in one token: any one of them that answers is enough."""

MAX_HOST_BYTES = 253
"""A host name (RFC 1035)."""

MAX_TOKEN_BYTES = 4096
"""About 350 bytes with one door, 2.5 kB with eight of the longest names."""

_CHECKSUM_BYTES = 4
_ASK_AGAIN = "copy the whole line again, from edgefl1- to its end"


@record
class Bootstrap(Record):
    """A door to knock at first: host name or address, port, and the node id expected there if known."""

    host: Annotated[str, 1, text(MAX_HOST_BYTES)]
    port: Annotated[int, 2, U16]
    node_id: Annotated[int | None, 3, optional(U64)] = None


@record
class _Body(Record):
    enrolment: Annotated[Enrolment, 1, nested(Enrolment)]
    secret: Annotated[bytes, 2, raw(SECRET_KEY_BYTES, exactly=True)]
    bootstrap: Annotated[tuple[Bootstrap, ...], 3, many(nested(Bootstrap), MAX_BOOTSTRAPS)] = ()


class Token:
    """An enrolment with its secret, and doors to knock at. Printing it shows no secret; `text` does."""

    __slots__ = ("_secret", "bootstrap", "enrolment")

    def __init__(self, enrolment: Enrolment, secret: bytes, bootstrap: tuple[Bootstrap, ...] = ()) -> None:
        if len(bootstrap) > MAX_BOOTSTRAPS:
            raise UsageError(f"a token names at most {MAX_BOOTSTRAPS} doors")
        self.enrolment = enrolment
        self.bootstrap = bootstrap
        self._secret = secret

    @property
    def fleet(self) -> bytes:
        """The fleet's public key."""
        return self.enrolment.fleet

    @property
    def text(self) -> str:
        """The token as it is handed on: secret."""
        body = encode_record(_Body(self.enrolment, self._secret, self.bootstrap))
        framed = len(body).to_bytes(2, "big") + body + _checksum(body)
        return PREFIX + base64.urlsafe_b64encode(framed).decode().rstrip("=")

    def certify(self, keys: DeviceKeys) -> DeviceCertificate:
        """The certificate that makes this device a member."""
        claim = DeviceClaim(keys.public, keys.curve_public, keys.binding)
        return sign_device(_Enroller(self._secret), claim, enrolment=self.enrolment)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.enrolment)

    def __repr__(self) -> str:
        return f"Token(fleet {fingerprint(self.fleet)}, serial {self.enrolment.serial.hex()})"


class _Enroller:
    def __init__(self, secret: bytes) -> None:
        self._signing = SigningKey(secret)
        self.public = bytes(self._signing.verify_key)

    def sign(self, data: bytes) -> bytes:
        return self._signing.sign(data).signature


def parse(text: str) -> Token:
    """The token in a line of text; white space, as from a wrapped paste, does not matter.

    Raises UsageError when the text is no token, was cut off or mistyped, and RefusedError (a NotAdmittedError) when it
    is complete but not signed by the fleet that it names.
    """
    line = re.sub(r"\s+", "", text)
    if not line.startswith(PREFIX):
        other = re.match(r"edgefl(\d+)-", line)
        if other:
            raise UsageError(f"a token of format {other[1]}: this edgefl reads format 1", hint="update edgefl")
        raise UsageError(
            "this is no join token: it does not begin with edgefl1-", hint="edgefl fleet invite prints one"
        )
    framed = _decode64(line[len(PREFIX) :])
    announced = 2 + int.from_bytes(framed[:2], "big") + _CHECKSUM_BYTES
    if len(framed) < max(announced, 2 + _CHECKSUM_BYTES):
        raise UsageError("the token is cut off", hint=_ASK_AGAIN)
    if len(framed) > announced:
        raise UsageError("the token is followed by something else, or mistyped", hint=_ASK_AGAIN)
    body, checksum = framed[2:-_CHECKSUM_BYTES], framed[-_CHECKSUM_BYTES:]
    if checksum != _checksum(body):
        raise UsageError("the token was mistyped: its checksum is wrong", hint=_ASK_AGAIN)
    try:
        fields = decode_record(_Body, body, limit=MAX_TOKEN_BYTES)
    except WireError as error:
        raise UsageError(f"this is no join token of this version: {error.cause}", hint="update edgefl") from None
    verify_enrolment(fields.enrolment)
    if _Enroller(fields.secret).public != fields.enrolment.key:
        raise RefusedError(Reason.BAD_SIGNATURE, "the token's secret does not belong to its certificate")
    return Token(fields.enrolment, fields.secret, fields.bootstrap)


def describe(token: Token) -> dict[str, object]:
    """What `edgefl token inspect` shows: everything but the secret."""
    return {
        "fleet": token.fleet.hex(),
        "fingerprint": fingerprint(token.fleet),
        "serial": token.enrolment.serial.hex(),
        "site": token.enrolment.site,
        "uses": token.enrolment.uses,
        "bootstrap": [
            {
                "host": door.host,
                "port": door.port,
                "node": None if door.node_id is None else node_name(door.node_id),
            }
            for door in token.bootstrap
        ],
    }


def fingerprint(public_key: bytes) -> str:
    """A key as people compare it: 16 hexadecimal digits of its hash, in groups of four."""
    digits = hashlib.blake2b(public_key, digest_size=8, person=b"edgefl key").hexdigest()
    return ":".join(digits[at : at + 4] for at in range(0, 16, 4))


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, person=b"edgefl token").digest()


def _decode64(line: str) -> bytes:
    if len(line) > 2 * MAX_TOKEN_BYTES:
        raise UsageError("the text is too long for a join token", hint=_ASK_AGAIN)
    if re.search(r"[^A-Za-z0-9_-]", line):
        raise UsageError("the token has characters that do not belong there", hint=_ASK_AGAIN)
    # A cut can leave one character over, which is no whole byte: drop it and let the length tell.
    line = line[: len(line) - 1] if len(line) % 4 == 1 else line
    try:
        return base64.urlsafe_b64decode(line + "=" * (-len(line) % 4))
    except binascii.Error:
        raise UsageError("the token has characters that do not belong there", hint=_ASK_AGAIN) from None
