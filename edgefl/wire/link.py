"""Messages that belong to the transport itself: greeting on a link, chunks of blobs, revocations."""

from __future__ import annotations

from typing import Annotated

from edgefl.wire.blob import HASH_BYTES, MAX_MARKS_BYTES
from edgefl.wire.codec import Message, message
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, U16, U32, U64, raw

PROTOCOL_VERSION = 1
"""The newest protocol that this release speaks. It interoperates with the one before."""

PROTOCOL_OLDEST = 1

MAX_REVOCATIONS_BYTES = 32 * 1024
"""The signed list of revoked devices and tokens: about 900 entries of 36 bytes."""

MAX_CHUNKS_PER_GET = 4
"""Chunks asked for at once: 1 MiB of credit keeps a 20 ms / 100 Mbit/s link busy and control replies below 90 ms."""


@message(70)
class Hello(Message):
    """First message on every link, and again when the sender's contact changes."""

    contact: Annotated[Contact, 1, CONTACT]
    oldest: Annotated[int, 2, U16] = PROTOCOL_OLDEST
    newest: Annotated[int, 3, U16] = PROTOCOL_VERSION
    reply: Annotated[bool, 4, BOOL] = False
    revocations: Annotated[int, 5, U32] = 0
    """Version of the sender's list of revocations: whoever has a newer one sends it."""
    bulk: Annotated[bool, 6, BOOL] = False
    """This connection is a second one, for what is large."""
    credit: Annotated[bool, 7, BOOL] = False
    """The sender says what it has taken of what is pushed to it (Taken)."""


@message(71)
class BlobGet(Message):
    """Send me `count` chunks of this blob from `first` on, and its header if `header`."""

    blob: Annotated[bytes, 1, raw(HASH_BYTES, exactly=True)]
    first: Annotated[int, 2, U32] = 0
    count: Annotated[int, 3, U16] = 0
    header: Annotated[bool, 4, BOOL] = False


@message(72, bulk=True)
class BlobHeader(Message):
    """Size of a blob; the second frame holds the hashes of its chunks.

    `sequence` counts the messages that a parent pushes for one application, so that a gap shows a loss. `late` says
    that chunks were pushed before this header: it is repeated for a child that has just subscribed. `known` marks the
    chunks that will not be pushed, because they were part of the blob before (bit i % 8 of byte i // 8 for chunk i)."""

    blob: Annotated[bytes, 1, raw(HASH_BYTES, exactly=True)]
    size: Annotated[int, 2, U64]
    sequence: Annotated[int, 3, U32] = 0
    late: Annotated[bool, 4, BOOL] = False
    known: Annotated[bytes, 5, raw(MAX_MARKS_BYTES)] = b""


@message(73, bulk=True)
class BlobChunk(Message):
    """Chunk `index` of a blob; the second frame holds its bytes. `sequence` as in BlobHeader."""

    blob: Annotated[bytes, 1, raw(HASH_BYTES, exactly=True)]
    index: Annotated[int, 2, U32]
    sequence: Annotated[int, 3, U32] = 0


@message(74)
class BlobMissing(Message):
    """I do not have this blob (any more, or yet). Pushed to children: the rest of it will not be pushed, ask for it."""

    blob: Annotated[bytes, 1, raw(HASH_BYTES, exactly=True)]


@message(75)
class Revoked(Message):
    """The fleet's signed list of revocations; passed on by everyone for whom it is news."""

    revocations: Annotated[bytes, 1, raw(MAX_REVOCATIONS_BYTES)]


@message(76)
class Bye(Message):
    """I close this link because it is idle; I am still here. Not a loss."""


@message(77)
class Taken(Message):
    """A child to its parent: I have taken this of what you push to me, and all before it. Said after every 4 MiB, and
    once a second while there is news."""

    app: Annotated[int, 1, U64]
    sequence: Annotated[int, 2, U32]
