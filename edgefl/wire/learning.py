"""Messages of a round, between neighbours in an application's tree.

A round is named by (epoch, round, attempt): the epoch fences off an earlier root (a counter, made unique by 16 bits of
the root's node id below it), the round counts models, the attempt counts retries of one round. Rounds are numbered from
1; model r is the result of round r, model 0 the initial one.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from edgefl.wire.blob import BLOB, BlobRef
from edgefl.wire.codec import Message, Record, message, nested, record
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, F64, U16, U32, U64, choice, many, optional, raw, text

MAX_CONTRIBUTORS = 4096
"""Devices named in one update, 9 bytes each. A larger subtree names none and is trusted with its count."""

MAX_HEADS = 64
"""Heads of zones that deliver straight to a root."""

MAX_METRICS = 16
MAX_RECORDS = 64
"""History rows in one message."""

MAX_STATE_BLOBS = 2
"""Vectors that a strategy remembers from round to round."""


@record
class Metric(Record):
    """A weighted sum on its way up: the mean is total / weight."""

    name: Annotated[str, 1, text(32)]
    total: Annotated[float, 2, F64]
    weight: Annotated[float, 3, F64]


@record
class RoundRecord(Record):
    """One row of an application's history. Metrics of model `round` are known once the next round has evaluated it."""

    round: Annotated[int, 1, U32]
    epoch: Annotated[int, 2, U64]
    participants: Annotated[int, 3, U32]
    samples: Annotated[int, 4, U64]
    seconds: Annotated[float, 5, F64]
    metrics: Annotated[tuple[Metric, ...], 6, many(nested(Metric), MAX_METRICS)] = ()
    bytes: Annotated[int, 7, U64] = 0
    attempts: Annotated[int, 8, U16] = 1
    members: Annotated[int, 9, U32] = 0
    """Devices of the application when the round began; 0: not said."""
    stalest: Annotated[int, 10, U32] = 0
    """The largest staleness of a delta in the round, in rounds; the mean is the metric `train_staleness`."""
    dropped: Annotated[int, 11, U32] = 0
    """Deltas that were too stale."""
    budget_s: Annotated[float, 12, F64] = 0.0


@record
class Best(Record):
    """The best model that has been evaluated so far, and what it was judged by: a mean over the devices."""

    round: Annotated[int, 1, U32]
    value: Annotated[float, 2, F64]
    model: Annotated[BlobRef, 3, BLOB]


@message(60)
class Standing(Message):
    """How far the sender has come: model `round` is held by `holder`. A new parent hears it from its children, so a new
    root knows where to go on; `busy` says that a dethroned root is still finishing a round and will report again. A
    holder of replicas names what it has beside the model: the strategy's `state` as of it, and the `best` model."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    model: Annotated[BlobRef, 4, BLOB]
    holder: Annotated[Contact, 5, CONTACT]
    busy: Annotated[bool, 6, BOOL] = False
    finished: Annotated[bool, 7, BOOL] = False
    records: Annotated[tuple[RoundRecord, ...], 8, many(nested(RoundRecord), MAX_RECORDS)] = ()
    state: Annotated[tuple[BlobRef, ...], 9, many(BLOB, MAX_STATE_BLOBS)] = ()
    best: Annotated[Best | None, 10, optional(nested(Best))] = None


class RoundKind(IntEnum):
    TRAIN = 0
    """Evaluate the model on held-back data, then train it."""
    EVALUATE = 1
    """Evaluate only: the last step of an application."""
    DONE = 2
    """Nothing to do but to keep the final model."""


EVERYBODY = 2**64 - 1
"""The threshold that leaves nobody out."""


@message(61)
class RoundStart(Message):
    """A round begins with `model` (the result of round - 1). Answer with an Update within `budget_s` seconds. Devices
    whose hash lies below `threshold` train (edgefl/learning/forest/selection.py); an older peer trains in any case. The
    part of a device itself is waited for during `own_s` seconds (0: `budget_s`). At the end (RoundKind.DONE) `best` is
    the best model that there was, if the application keeps it."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    attempt: Annotated[int, 4, U16]
    kind: Annotated[RoundKind, 5, choice(RoundKind)]
    model: Annotated[BlobRef, 6, BLOB]
    budget_s: Annotated[float, 7, F64]
    records: Annotated[tuple[RoundRecord, ...], 8, many(nested(RoundRecord), MAX_RECORDS)] = ()
    threshold: Annotated[int, 9, U64] = EVERYBODY
    own_s: Annotated[float, 10, F64] = 0.0
    best: Annotated[Best | None, 16, optional(nested(Best))] = None
    need: Annotated[float, 17, F64] = 0.0
    """Of applications that share a fleet (edgefl/learning/together.py): what this one needs, relative to the others. 0:
    not said."""
    root: Annotated[Contact | None, 18, optional(CONTACT)] = None
    """Where the heads of zones deliver (edgefl/learning/forest/direct.py); None: to their parents."""


CHUNK_PARAMETERS = 64 * 1024
"""float32 values in one chunk of an update: 256 KiB, for the reasons of wire/blob.py."""

MAX_MASK_BYTES = MAX_CONTRIBUTORS // 8

MAX_DURATIONS = 96
"""Buckets of a histogram of durations: a quarter of an octave each, from 1/16 s to twelve days."""


@record
class PaceReport(Record):
    """How long the devices of a subtree take for their part of a round (edgefl/learning/durations.py), and how old
    what they delivered was. Absent in applications that wait for everybody."""

    durations: Annotated[tuple[int, ...], 1, many(U32, MAX_DURATIONS)] = ()
    stalest: Annotated[int, 2, U32] = 0
    dropped: Annotated[int, 3, U32] = 0


@message(62)
class Update(Message):
    """What the sender's subtree has for this round. With `vector`, its weighted sum comes chunk by chunk (UpdateChunk),
    as far as the parent asks for it (UpdateGet); chunks before `first` went to an earlier parent. Sent when the first
    chunk is ready, again when more is known (`contributors` only grows), and with `final` when nothing will be added
    any more: only then `metrics` count. Without `vector` there is nothing to add up (evaluation only)."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    attempt: Annotated[int, 4, U16]
    contributors: Annotated[tuple[int, ...], 7, many(U64, MAX_CONTRIBUTORS)] = ()
    participants: Annotated[int, 8, U32] = 0
    metrics: Annotated[tuple[Metric, ...], 9, many(nested(Metric), MAX_METRICS)] = ()
    vector: Annotated[bool, 10, BOOL] = False
    first: Annotated[int, 11, U32] = 0
    final: Annotated[bool, 12, BOOL] = False
    report: Annotated[PaceReport | None, 13, optional(nested(PaceReport))] = None
    direct: Annotated[tuple[int, ...], 14, many(U64, MAX_HEADS)] = ()
    """Heads of zones in the sender's subtree that deliver straight to the root (edgefl/learning/forest/direct.py)."""


@message(66)
class UpdateGet(Message):
    """The parent has done with every chunk before `first` (added, or refused for good); send those before `until`, as
    they become ready, as far as they need no more than the first `names` contributors, which the parent knows. The
    credit that bounds what a parent holds."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    attempt: Annotated[int, 4, U16]
    first: Annotated[int, 5, U32]
    until: Annotated[int, 6, U32]
    names: Annotated[int, 7, U16] = 0


@message(67, bulk=True)
class UpdateChunk(Message):
    """Chunk `index` of the sender's sum: sum of n_i * delta_i over `participants` devices with `samples` = sum of n_i,
    encoded as the manifest says in the second frame (empty when nobody takes part in this chunk). Bit i of `mask`
    (little-endian) stands for name i of the Update's contributors; without one, the first `participants` names take
    part. Every chunk has its own weight, so a sender that dies between two chunks leaves every mean exact."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    attempt: Annotated[int, 4, U16]
    index: Annotated[int, 5, U32]
    samples: Annotated[int, 6, U64] = 0
    participants: Annotated[int, 7, U32] = 0
    mask: Annotated[bytes, 8, raw(MAX_MASK_BYTES)] = b""


class Verdict(IntEnum):
    ACCEPTED = 0
    LATE = 1
    DUPLICATE = 2
    INVALID = 3


@message(63)
class UpdateAck(Message):
    """What became of a whole update. Anything but ACCEPTED is final as well: do not send it again."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    attempt: Annotated[int, 4, U16]
    verdict: Annotated[Verdict, 5, choice(Verdict)]


@message(64)
class Replica(Message):
    """The root's state after a round, for its two runners-up: fetch the model, the vectors that the strategy remembers
    with it and the best model so far from the sender, keep them, acknowledge."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    model: Annotated[BlobRef, 4, BLOB]
    finished: Annotated[bool, 5, BOOL] = False
    records: Annotated[tuple[RoundRecord, ...], 6, many(nested(RoundRecord), MAX_RECORDS)] = ()
    state: Annotated[tuple[BlobRef, ...], 7, many(BLOB, MAX_STATE_BLOBS)] = ()
    best: Annotated[Best | None, 8, optional(nested(Best))] = None
    lacks: Annotated[int, 20, U32] = 0
    """The root has no record of round `lacks` - 1, and perhaps of earlier ones."""


@message(65)
class ReplicaAck(Message):
    """Held. `records` are some that the root lacks; `lacks`: as in Replica, of the sender."""

    app: Annotated[int, 1, U64]
    epoch: Annotated[int, 2, U64]
    round: Annotated[int, 3, U32]
    lacks: Annotated[int, 20, U32] = 0
    records: Annotated[tuple[RoundRecord, ...], 21, many(nested(RoundRecord), MAX_RECORDS)] = ()
