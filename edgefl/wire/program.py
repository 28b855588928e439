"""Messages of a program's own tree (edgefl/api), between neighbours in it: small broadcasts down, small sums up.

Nothing here carries code: a payload is bytes, a sum is float32 values, and what they mean is the program's business.
"""

from __future__ import annotations

from typing import Annotated

from edgefl.wire.blob import FLOAT_BYTES
from edgefl.wire.codec import Message, message
from edgefl.wire.fields import BOOL, U32, U64, many, raw
from edgefl.wire.learning import MAX_CONTRIBUTORS

MAX_PAYLOAD_BYTES = 32 * 1024
"""One broadcast: half of a control message. What is larger is a model, and travels as a blob of an application."""

MAX_VALUES = 6 * 1024
"""float32 values in one sum: 24 KiB, which leaves room for the names of MAX_CONTRIBUTORS devices in one message."""

MAX_CLOSED = 16
"""Rounds that one Standing says are over."""


@message(95)
class ProgramPublish(Message):
    """On its way to the root, which numbers it: a broadcast of `origin`, whose serials only grow."""

    app: Annotated[int, 1, U64]
    origin: Annotated[int, 2, U64]
    serial: Annotated[int, 3, U64]
    payload: Annotated[bytes, 4, raw(MAX_PAYLOAD_BYTES)]


@message(96)
class ProgramBroadcast(Message):
    """Broadcast `sequence` of the root that took `epoch`. It follows (after_epoch, after_sequence) in the sender's log:
    who does not have that one misses something. Both are 0 in the oldest that the sender keeps."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    sequence: Annotated[int, 3, U32]
    after_epoch: Annotated[int, 4, U64]
    after_sequence: Annotated[int, 5, U32]
    origin: Annotated[int, 6, U64]
    serial: Annotated[int, 7, U64]
    payload: Annotated[bytes, 8, raw(MAX_PAYLOAD_BYTES)]


@message(97)
class ProgramStanding(Message):
    """The newest broadcast that the sender has (0, 0: none), and rounds that are over. With `ask`, it wants to know the
    same of the receiver."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64] = 0
    sequence: Annotated[int, 3, U32] = 0
    closed: Annotated[tuple[int, ...], 4, many(U64, MAX_CLOSED)] = ()
    ask: Annotated[bool, 5, BOOL] = False


@message(98)
class ProgramSum(Message):
    """A part of a round's sum: sum of weight_i * vector_i over `participants` devices with `weight` = sum of weight_i,
    as little-endian float32. `contributors` names them (none when there are more than can be named). Answered with a
    ProgramSumAck that repeats `batch`. With `again`, the same devices may have been counted over another way."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U64]
    batch: Annotated[int, 3, U32]
    weight: Annotated[int, 4, U64]
    participants: Annotated[int, 5, U32]
    contributors: Annotated[tuple[int, ...], 6, many(U64, MAX_CONTRIBUTORS)]
    values: Annotated[bytes, 7, raw(MAX_VALUES * FLOAT_BYTES)]
    again: Annotated[bool, 8, BOOL] = False
    age_ms: Annotated[int, 9, U32] = 0
    """How long the round has been open at the sender."""


@message(99)
class ProgramSumAck(Message):
    """The batch is with the parent, or counts already, or never will: do not send it to this parent again. `closed`:
    the round is over."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U64]
    batch: Annotated[int, 3, U32]
    closed: Annotated[bool, 4, BOOL] = False
