"""The exchange at a device's door, as bytes in and bytes out: no sockets, no clock, no policy.

    visitor -> host   KNOCK   magic, protocol range, ephemeral key                              64 bytes, in the clear
    host -> visitor   WELCOME magic, protocol range, status, ephemeral key | sealed: who I am   1,024 bytes
    visitor -> host   INTRODUCTION  sealed: who I am and where, or why I go away                1,024 bytes
    host -> visitor   ANSWER  sealed: the verdict, where I am, what you should know             1,024 bytes
    host -> visitor   the fleet's revocations, sealed, only if they are news              a multiple of 1,024 bytes

A SIGMA-like key exchange (Krawczyk 2003): fresh X25519 keys on both sides, everything after them sealed with
XSalsa20-Poly1305 under the shared key, each side signing the transcript so far together with what it says, inside the
seal. So both prove who they are, neither shows its identity to an onlooker, the visitor only shows its own to a host
that has proved its own first, and nothing can be replayed or moved to another exchange.

Every frame has a fixed size: a stranger can never make us read, or allocate, more than that.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, TypeVar

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from edgefl.errors import WireError
from edgefl.identity.certificate import DeviceCertificate, DeviceClaim
from edgefl.identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, DeviceKeys, node_id_of, signed_by
from edgefl.identity.reason import Reason, RefusedError
from edgefl.wire.codec import Record, decode_record, encode_record, nested, record
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, U8, U16, U32, U64, choice, optional, raw, text
from edgefl.wire.link import MAX_REVOCATIONS_BYTES, PROTOCOL_OLDEST, PROTOCOL_VERSION

MAGIC = b"edgefl door\0"
KNOCK_BYTES = 64
FRAME_BYTES = 1024
"""A certificate with the longest site names takes 660 bytes; a frame fits one network packet."""

_HEAD = struct.Struct(">12sHHB32s")
_HEAD_BYTES = 64
_SEAL_BYTES = 16
_KEY = raw(PUBLIC_KEY_BYTES, exactly=True)

T = TypeVar("T")


class DialBack(IntEnum):
    """What came of dialling a visitor back at its own door. Numbers are part of the protocol."""

    NOT_TRIED = 0
    REACHED = 1
    SILENT = 2
    REFUSED = 3
    OTHER = 4

    @property
    def failed(self) -> bool:
        """It was tried, and the visitor was not there."""
        return self in (DialBack.SILENT, DialBack.REFUSED, DialBack.OTHER)


@record
class _Signed(Record):
    body: Annotated[bytes, 1, raw(FRAME_BYTES)]
    signature: Annotated[bytes, 2, raw(SIGNATURE_BYTES, exactly=True)]


@record
class Welcome(Record):
    """The host: its key, and its certificate if it is in a fleet."""

    device: Annotated[bytes, 1, _KEY]
    certificate: Annotated[DeviceCertificate | None, 2, optional(nested(DeviceCertificate))] = None


@record
class Introduction(Record):
    """The visitor: its keys, where it can be reached, and its certificate if it has one.

    With `goes_away` it only says why it will not come in; the rest is then of no interest.
    """

    device: Annotated[bytes, 1, _KEY]
    curve: Annotated[bytes, 2, _KEY]
    binding: Annotated[bytes, 3, raw(SIGNATURE_BYTES, exactly=True)]
    contact: Annotated[Contact, 4, CONTACT]
    link_port: Annotated[int, 5, U16]
    broadcast_port: Annotated[int, 6, U16]
    certificate: Annotated[DeviceCertificate | None, 7, optional(nested(DeviceCertificate))] = None
    site: Annotated[str, 8, text(64)] = ""
    revocations: Annotated[int, 9, U32] = 0
    dial_back: Annotated[bool, 10, BOOL] = False
    goes_away: Annotated[Reason, 11, choice(Reason)] = Reason.ADMITTED

    def claim(self) -> DeviceClaim:
        return DeviceClaim(self.device, self.curve, self.binding, self.site)


@record
class Answer(Record):
    """The verdict, and to whoever is admitted: the host's contact and ports. `seen` is the visitor's address from here;
    `approval` its certificate, fresh from the fleet's owner; `reachable` what dialling back gave (a DialBack);
    `revocations` the length in bytes of the list that follows; `clock` the host's wall clock in seconds since 1970,
    which decides nothing and is only shown to people (`edgefl doctor`)."""

    reason: Annotated[Reason, 1, choice(Reason)]
    seen: Annotated[str, 2, text(45)]
    contact: Annotated[Contact | None, 3, optional(CONTACT)] = None
    link_port: Annotated[int, 4, U16] = 0
    broadcast_port: Annotated[int, 5, U16] = 0
    approval: Annotated[DeviceCertificate | None, 6, optional(nested(DeviceCertificate))] = None
    reachable: Annotated[int, 7, U8] = DialBack.NOT_TRIED
    revocations: Annotated[int, 8, U16] = 0
    clock: Annotated[int, 9, U64] = 0

    @property
    def dial_back(self) -> DialBack:
        """`reachable` as this release knows it; a failure of a kind that it does not know is silence."""
        return DialBack(self.reachable) if self.reachable in tuple(DialBack) else DialBack.SILENT


class _Channel:
    """The sealed channel of one exchange: a key, and a counter for each direction."""

    def __init__(self, own: PrivateKey, theirs: bytes, *, host: bool) -> None:
        try:
            self._box = Box(own, PublicKey(theirs))
        except (CryptoError, RuntimeError) as error:  # a point of low order gives no shared secret
            raise WireError(f"not an ephemeral key: {error}") from None
        self._own, self._peer = (b"host", b"visitor") if host else (b"visitor", b"host")
        self._sent = self._received = 0

    def seal(self, content: bytes, size: int) -> bytes:
        """`content`, padded and sealed to `size` bytes."""
        room = size - _SEAL_BYTES - 2
        if len(content) > room:
            raise WireError(f"{len(content)} bytes do not fit a door frame of {size}")
        plain = len(content).to_bytes(2, "big") + content + bytes(room - len(content))
        self._sent += 1
        return bytes(self._box.encrypt(plain, _nonce(self._own, self._sent)).ciphertext)

    def open(self, frame: bytes) -> bytes:
        """The content of a sealed frame. Raises WireError."""
        self._received += 1
        try:
            plain = self._box.decrypt(frame, _nonce(self._peer, self._received))
        except CryptoError:
            raise WireError("a door frame that does not belong to this exchange") from None
        length = int.from_bytes(plain[:2], "big")
        if length > len(plain) - 2:
            raise WireError("a door frame with a wrong length")
        return plain[2 : 2 + length]


def _nonce(direction: bytes, count: int) -> bytes:
    # The key is fresh for each exchange, so a counter can never repeat under one key.
    return direction.ljust(20, b"\0") + count.to_bytes(4, "big")


class _Exchange:
    _own_domain: bytes
    _peer_domain: bytes

    def __init__(self, keys: DeviceKeys) -> None:
        self._keys = keys
        self._ephemeral = PrivateKey.generate()
        self._transcript = hashlib.blake2b(digest_size=32, person=b"edgefl door 1")
        self._channel: _Channel | None = None

    @property
    def _sealed(self) -> _Channel:
        if self._channel is None:
            raise RuntimeError("the exchange was used out of order")
        return self._channel

    def _seal_signed(self, value: Record, size: int) -> bytes:
        body = encode_record(value)
        signature = self._keys.sign(self._own_domain + self._transcript.digest() + body)
        frame = self._sealed.seal(encode_record(_Signed(body, signature)), size)
        self._transcript.update(frame)
        return frame

    def _open_signed(self, frame: bytes, cls: type[T], device_of: Callable[[T], bytes]) -> T:
        signed = decode_record(_Signed, self._sealed.open(frame), limit=FRAME_BYTES)
        value = decode_record(cls, signed.body, limit=FRAME_BYTES)
        if not signed_by(
            device_of(value), self._peer_domain + self._transcript.digest() + signed.body, signed.signature
        ):
            raise RefusedError(Reason.BAD_SIGNATURE, "at the door")
        self._transcript.update(frame)
        return value


class VisitorExchange(_Exchange):
    """The visitor's side. Call the methods in the order of the exchange; each raises WireError or RefusedError."""

    _own_domain = b"edgefl visitor\0"
    _peer_domain = b"edgefl host\0"

    def knock(self) -> bytes:
        """The first frame."""
        head = _HEAD.pack(MAGIC, PROTOCOL_OLDEST, PROTOCOL_VERSION, 0, bytes(self._ephemeral.public_key))
        frame = head.ljust(KNOCK_BYTES, b"\0")
        self._transcript.update(frame)
        return frame

    def read_welcome(self, frame: bytes, *, expect: int | None) -> Welcome:
        """The host, proved. `expect` is the node id that must answer."""
        magic, oldest, newest, status, theirs = _HEAD.unpack_from(frame)
        if magic != MAGIC:
            raise WireError("what answers there is no edgefl device", hint="check the host and the port")
        if status == Reason.PROTOCOL_VERSION:
            ours = f"{PROTOCOL_OLDEST}-{PROTOCOL_VERSION}"
            raise RefusedError(Reason.PROTOCOL_VERSION, f"it speaks {oldest}-{newest}, this device {ours}")
        if status == Reason.BUSY:
            raise RefusedError(Reason.BUSY)
        if status != Reason.ADMITTED:
            raise WireError("an unknown status from the door")
        self._channel = _Channel(self._ephemeral, theirs, host=False)
        self._transcript.update(frame[:_HEAD_BYTES])
        welcome = self._open_signed(frame[_HEAD_BYTES:], Welcome, lambda value: value.device)
        if expect is not None and node_id_of(welcome.device) != expect:
            raise RefusedError(Reason.OTHER_DEVICE)
        if welcome.certificate is not None and welcome.certificate.device != welcome.device:
            raise RefusedError(Reason.BAD_SIGNATURE, "the host shows another device's certificate")
        return welcome

    def introduce(self, introduction: Introduction) -> bytes:
        """The third frame."""
        return self._seal_signed(introduction, FRAME_BYTES)

    def read_answer(self, frame: bytes) -> Answer:
        return decode_record(Answer, self._sealed.open(frame), limit=FRAME_BYTES)

    def read_revocations(self, frame: bytes) -> bytes:
        return self._sealed.open(frame)


class HostExchange(_Exchange):
    """The host's side. Call the methods in the order of the exchange; each raises WireError or RefusedError."""

    _own_domain = b"edgefl host\0"
    _peer_domain = b"edgefl visitor\0"

    def read_knock(self, frame: bytes) -> None:
        """Check the first frame. RefusedError(PROTOCOL_VERSION) calls for `refuse`."""
        magic, oldest, newest, _, theirs = _HEAD.unpack_from(frame)
        if magic != MAGIC:
            raise WireError("not a knock")
        if oldest > PROTOCOL_VERSION or newest < PROTOCOL_OLDEST:
            raise RefusedError(Reason.PROTOCOL_VERSION, f"{oldest}-{newest}")
        self._channel = _Channel(self._ephemeral, theirs, host=True)
        self._transcript.update(frame)

    def welcome(self, certificate: DeviceCertificate | None) -> bytes:
        """The second frame."""
        head = _HEAD.pack(MAGIC, PROTOCOL_OLDEST, PROTOCOL_VERSION, Reason.ADMITTED, bytes(self._ephemeral.public_key))
        head = head.ljust(_HEAD_BYTES, b"\0")
        self._transcript.update(head)
        return head + self._seal_signed(Welcome(self._keys.public, certificate), FRAME_BYTES - _HEAD_BYTES)

    def read_introduction(self, frame: bytes) -> Introduction:
        """The visitor, proved to own the device key that it names."""
        introduction = self._open_signed(frame, Introduction, lambda value: value.device)
        if introduction.contact.node_id != node_id_of(introduction.device):
            raise RefusedError(Reason.BAD_SIGNATURE, "the visitor names another device's contact")
        return introduction

    def answer(self, answer: Answer) -> bytes:
        """The fourth frame."""
        return self._sealed.seal(encode_record(answer), FRAME_BYTES)

    def revocations(self, data: bytes) -> bytes:
        """What follows the fourth frame when the answer announces it."""
        return self._sealed.seal(data, revocation_frame_bytes(len(data)))


def refusal(reason: Reason) -> bytes:
    """The second frame for a visitor whom the host will not listen to: in the clear, and nothing secret in it."""
    return _HEAD.pack(MAGIC, PROTOCOL_OLDEST, PROTOCOL_VERSION, reason, bytes(32)).ljust(FRAME_BYTES, b"\0")


def revocation_frame_bytes(length: int) -> int:
    """Size of the frame that carries `length` bytes of revocations. Raises WireError beyond the limit."""
    if length > MAX_REVOCATIONS_BYTES:
        raise WireError(f"{length} bytes of revocations, more than {MAX_REVOCATIONS_BYTES}")
    return -(-(length + _SEAL_BYTES + 2) // FRAME_BYTES) * FRAME_BYTES
