"""Messages of the topology `consensus` (P2PL, D-PSGD, gossip), between neighbours."""

from __future__ import annotations

from typing import Annotated

from edgefl.wire.blob import BLOB, BlobRef
from edgefl.wire.codec import Message, message, nested
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, F64, U8, U16, U32, U64, many, optional
from edgefl.wire.learning import MAX_RECORDS, RoundRecord

MAX_PEERS = 16
"""Devices that a parent introduces to one child: all other children, in any tree, and its own parent."""


@message(91)
class NormShare(Message):
    """The start with the largest norm that the sender knows of: its seed is enough to make it."""

    app: Annotated[int, 1, U64]
    norm: Annotated[float, 2, F64]
    seed: Annotated[int, 3, U64]
    waiting: Annotated[bool, 4, BOOL] = False
    """The sender has not begun: who has answers with its model, who waits as well does nothing."""


@message(92)
class NeighbourModel(Message):
    """The sender's model in consensus step `step` of `round`, for the neighbour to fetch."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U32]
    step: Annotated[int, 3, U8]
    model: Annotated[BlobRef, 4, BLOB]
    samples: Annotated[int, 5, U32]
    degree: Annotated[int, 6, U16]
    waiting: Annotated[bool, 7, BOOL] = False
    """Not for the first time, and the sender waits for the receiver: who is as far as this says so again."""


@message(93)
class Mass(Message):
    """Push-sum. Without `mass` a claim: the sender holds the receiver's model of (round, step). With it the answer: so
    much was taken off the sender's mass for this receiver, 0 if it has gone on."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U32]
    step: Annotated[int, 3, U8]
    mass: Annotated[float | None, 4, optional(F64)] = None


@message(94)
class Introduction(Message):
    """A parent in the application's tree tells a child with whom else it is to exchange models: other children, who are
    told of it in turn; a child tells its parent of its own first child. Observers hear how far the application is:
    `round`, and the newest `records`."""

    app: Annotated[int, 1, U64]
    peers: Annotated[tuple[Contact, ...], 2, many(CONTACT, MAX_PEERS)] = ()
    round: Annotated[int, 3, U32] = 0
    records: Annotated[tuple[RoundRecord, ...], 4, many(nested(RoundRecord), MAX_RECORDS)] = ()
