"""Messages of the topology `sampled` (MoDeST, Plexus): views of who takes part, pings, models to and from a sample.

A task is named by (attempt, round); the larger one is the newer one. The attempt is raised only when everything has
come to a standstill. The task of round k trains model k - 1; the sample of round k does it, and an aggregator out of
the sample of round k + 1 makes model k from the results. The last but one task only evaluates the final model
(RoundKind.EVALUATE), the last one hands it out (RoundKind.DONE).
"""

from __future__ import annotations

from typing import Annotated

from edgefl.wire.blob import BLOB, BlobRef
from edgefl.wire.codec import Message, Record, message, nested, record
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, U8, U16, U32, U64, choice, many
from edgefl.wire.learning import MAX_METRICS, MAX_RECORDS, Metric, RoundKind, RoundRecord

MAX_ENTRIES = 512
"""Entries of a view in one message: about 45 bytes each, 23 kB, well below the largest message. What does not fit
waits for the next exchange."""


DUTY_ROUNDS = 5
"""After it has aggregated, a device's uplink counts half for this many rounds. Who that is travels with the model, so
that all trainers of a round choose the same aggregator."""


@record
class Entry(Record):
    """One line of a view. `active` is the last round in which the device was seen; `counter` is raised by the device
    alone, with every join and leave; `uplink` is log2 of its bytes per second, 0 for unknown."""

    contact: Annotated[Contact, 1, CONTACT]
    active: Annotated[int, 2, U32]
    counter: Annotated[int, 3, U32]
    left: Annotated[bool, 4, BOOL] = False
    uplink: Annotated[int, 5, U8] = 0


@record
class View(Record):
    """What has changed since the last exchange, and a digest of who is in the sender's whole view."""

    entries: Annotated[tuple[Entry, ...], 1, many(nested(Entry), MAX_ENTRIES)]
    digest: Annotated[int, 2, U64]


VIEW = nested(View)


@message(81)
class SamplePing(Message):
    """Are you there for round `round`? The answer carries the same request number. `aggregate`: the sender trains in
    this round and looks for its aggregator, so whoever answers may soon need the next sample."""

    app: Annotated[int, 1, U64]
    request: Annotated[int, 2, U32]
    round: Annotated[int, 3, U32]
    me: Annotated[Entry, 4, nested(Entry)]
    attempt: Annotated[int, 5, U32] = 0
    aggregate: Annotated[bool, 6, BOOL] = False


@message(82)
class SamplePong(Message):
    """`round` and `attempt`: the newest task that the sender knows of; `holds`: the round of the model that it has;
    `training_ms`: what its last training took, 0 before the first."""

    app: Annotated[int, 1, U64]
    request: Annotated[int, 2, U32]
    round: Annotated[int, 3, U32]
    attempt: Annotated[int, 4, U32]
    me: Annotated[Entry, 5, nested(Entry)]
    holds: Annotated[int, 6, U32] = 0
    training_ms: Annotated[int, 7, U32] = 0


@message(83)
class SampleTrain(Message):
    """An aggregator gives its sample the model to train, evaluate or keep, which is that of `model_round`. `sampled`:
    how many devices got it; `records`: the newest of the history; `pushed`: the model is on its way (SampledModel)."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U32]
    attempt: Annotated[int, 3, U32]
    model: Annotated[BlobRef, 4, BLOB]
    view: Annotated[View, 5, VIEW]
    kind: Annotated[RoundKind, 6, choice(RoundKind)] = RoundKind.TRAIN
    sampled: Annotated[int, 7, U16] = 0
    served: Annotated[tuple[int, ...], 8, many(U64, DUTY_ROUNDS)] = ()
    model_round: Annotated[int, 9, U32] = 0
    records: Annotated[tuple[RoundRecord, ...], 10, many(nested(RoundRecord), MAX_RECORDS)] = ()
    pushed: Annotated[bool, 11, BOOL] = False


@message(84)
class SampleUpdate(Message):
    """A trainer offers its trained model to the aggregator, which fetches it (`pushed`: it is on its way); or, when it
    was only to evaluate, the model that it was given, with 0 samples."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U32]
    attempt: Annotated[int, 3, U32]
    model: Annotated[BlobRef, 4, BLOB]
    samples: Annotated[int, 5, U32]
    view: Annotated[View, 6, VIEW]
    sampled: Annotated[int, 7, U16] = 0
    served: Annotated[tuple[int, ...], 8, many(U64, DUTY_ROUNDS)] = ()
    kind: Annotated[RoundKind, 9, choice(RoundKind)] = RoundKind.TRAIN
    metrics: Annotated[tuple[Metric, ...], 10, many(nested(Metric), MAX_METRICS)] = ()
    pushed: Annotated[bool, 11, BOOL] = False


@message(85)
class SampleAck(Message):
    """The aggregator no longer needs the update: `ok` when the next model exists, else look for another aggregator."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U32]
    attempt: Annotated[int, 3, U32]
    ok: Annotated[bool, 4, BOOL]


@message(86)
class SampleMembership(Message):
    """The sender joins or leaves."""

    app: Annotated[int, 1, U64]
    me: Annotated[Entry, 2, nested(Entry)]


@message(87)
class ViewGet(Message):
    """Digests differ: send me your view from `after` (a node id) on."""

    app: Annotated[int, 1, U64]
    after: Annotated[int, 2, U64]


@message(88)
class ViewPart(Message):
    """A part of the view, by rising node id; `more` when there is something after the last one."""

    app: Annotated[int, 1, U64]
    view: Annotated[View, 2, VIEW]
    more: Annotated[bool, 3, BOOL]


@message(89)
class SampleNews(Message):
    """Model `round` of `attempt` exists, and `holder` has it: spread along the application's tree, to members and
    observers alike. `finished`: it is the final one."""

    app: Annotated[int, 1, U64]
    round: Annotated[int, 2, U32]
    attempt: Annotated[int, 3, U32]
    model: Annotated[BlobRef, 4, BLOB]
    holder: Annotated[Contact, 5, CONTACT]
    finished: Annotated[bool, 6, BOOL] = False
    records: Annotated[tuple[RoundRecord, ...], 7, many(nested(RoundRecord), MAX_RECORDS)] = ()


@message(90, bulk=True)
class SampledModel(Message):
    """A small model that a SampleTrain or SampleUpdate names, unasked: it is the second frame. When it does not come,
    it is fetched."""

    app: Annotated[int, 1, U64]
    model: Annotated[BlobRef, 2, BLOB]
