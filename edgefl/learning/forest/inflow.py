"""Children's updates on their way into the sum: one stream per child, chunk after chunk, each added as it arrives.

    Update     ->        a stream begins, or more is known about it
              <- UpdateGet      credit: everything before `first` is done with, send on before `until`
    UpdateChunk ->       in any order within the credit (a peer may have two connections); after a loss the child starts
                         again where the credit says, and what is in already is dropped
              <- UpdateAck      all chunks and the final Update are here (or too late, or refused)

A stream outlives its child's connection: whoever comes back goes on where it stopped, and nothing counts twice. What a
child can make a parent hold is its credit alone; all children share INFLOW_BYTES.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.learning.aggregate import DuplicateError
from edgefl.learning.forest.durations import merge_reports
from edgefl.learning.forest.round import REMIND_S, OpenRound, RoundState
from edgefl.wire import Contact
from edgefl.wire.learning import (
    MAX_CONTRIBUTORS,
    MAX_HEADS,
    RoundKind,
    Update,
    UpdateAck,
    UpdateChunk,
    UpdateGet,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgefl.learning.forest.application import ForestApplication

INFLOW_BYTES = 8 * 1024 * 1024
"""Chunks under way from all children together: a tenth of a second at 100 MB/s. Each child may have one, whatever their
number; the tree's fan-out bounds that."""

MAX_CREDIT = 8
"""Chunks under way from one child, however small: adding them holds up the loop for as long."""

CREDIT_BYTES = 1024 * 1024
"""The same in bytes: keeps a 20 ms / 100 Mbit/s link busy and control replies below 90 ms."""


@dataclass(slots=True)
class Stream:
    """One child's update. Every chunk before `next` is done with, and those in `ahead`; `until` is the end of the
    credit given, `taken` how many chunks are in the sum. `group`: which sum it belongs to where a root keeps several.
    `bits` are this device's bits for the child's names."""

    sender: Contact
    next: int
    group: int = 0
    until: int = 0
    taken: int = 0
    ahead: set[int] = field(default_factory=set)
    update: Update | None = None
    names: tuple[int, ...] = ()
    bits: list[int] = field(default_factory=list)
    _masks: dict[tuple[int, bytes], int] = field(default_factory=dict)

    def done(self, index: int) -> None:
        """This chunk will not be wanted again."""
        self.ahead.add(index)
        self.skip(self.next)

    def skip(self, first: int) -> None:
        """Chunks before `first` have gone elsewhere."""
        self.next = max(self.next, first)
        self.ahead = {index for index in self.ahead if index >= self.next}
        while self.next in self.ahead:
            self.ahead.remove(self.next)
            self.next += 1

    @property
    def anonymous(self) -> bool:
        """A subtree too large to name everybody: trusted with its count."""
        return not self.names and self.update is not None and self.update.participants > MAX_CONTRIBUTORS

    def mask(self, chunk: UpdateChunk) -> int | None:
        """This device's bits for those in a chunk; None while their names are not known here. Raises WireError."""
        if self.anonymous:
            return 0
        key = (chunk.participants, chunk.mask)
        known = self._masks.get(key)
        if known is None:
            if not chunk.mask:
                chosen = self.bits[: chunk.participants]
            else:
                members = int.from_bytes(chunk.mask, "little")
                if members.bit_length() > len(self.bits):
                    return None
                chosen = [bit for at, bit in enumerate(self.bits) if members >> at & 1]
            if len(chosen) != chunk.participants:
                if chunk.mask:
                    raise WireError(f"names {len(chosen)} contributors for {chunk.participants} devices")
                return None
            known = 0
            for bit in chosen:
                known |= bit
            self._masks = {key: known}  # chunk after chunk the same, as a rule
        return known


class Inflow:
    """Takes in what children send for the open round. `advance(round, now)` is called when more may be ready."""

    def __init__(self, app: ForestApplication, advance: Callable[[OpenRound, float], None]) -> None:
        self.app = app
        self._advance = advance

    def on_update(self, round_: OpenRound, sender: Contact, message: Update, now: float) -> None:
        """A child has something for this round, or says more about it."""
        if round_.kind is RoundKind.DONE:
            round_.waiting.discard(sender.node_id)
            self._advance(round_, now)
        elif sender.node_id in round_.delivered:
            self.acknowledge(sender, message, Verdict.ACCEPTED)
        elif round_.state is not RoundState.COLLECTING:
            self.acknowledge(sender, message, Verdict.LATE)
        elif message.vector:
            self._on_stream(round_, sender, message, now)
        else:
            if round_.kind is RoundKind.EVALUATE:
                round_.evaluated += message.participants
                round_.add_metrics(*message.metrics)
            self._delivered(round_, sender, message, now)

    def _on_stream(self, round_: OpenRound, sender: Contact, message: Update, now: float) -> None:
        if round_.kind is not RoundKind.TRAIN or message.first > round_.sum.chunks:
            self._refuse(round_, sender, message, Verdict.INVALID, now)
            return
        stream = round_.streams.get(sender.node_id)
        if stream is None:
            group = sender.zone if round_.root is not None else sender.node_id
            stream = round_.streams[sender.node_id] = Stream(sender, round_.sum.sealed, group)
        if message.contributors[: len(stream.names)] != stream.names or len(set(message.contributors)) != len(
            message.contributors
        ):
            self._refuse(round_, sender, message, Verdict.INVALID, now)
            return
        if len(message.contributors) > len(stream.names):
            stream.names = message.contributors
            stream.bits = round_.sum.bits(message.contributors)
        stream.sender = sender
        if message.final or stream.update is None or not stream.update.final:
            stream.update = message  # else it was overtaken by the final word, which says it all
        stream.skip(message.first)
        stream.until = 0  # it starts again where the credit says
        if not self._finish_if_whole(round_, stream, now):
            self._ask(round_, stream)
            self._advance(round_, now)

    def on_chunk(self, round_: OpenRound, sender: Contact, message: UpdateChunk, data: Any, now: float) -> None:
        """A chunk of a child's sum; `data` is a buffer that is only read, and only now."""
        stream = round_.streams.get(sender.node_id)
        if stream is None or stream.update is None:
            self.app.count("chunk_unasked")
            return
        if round_.state is not RoundState.COLLECTING:
            return
        if message.index < stream.next or message.index in stream.ahead:
            self.app.count("chunk_repeated")
            return
        if message.index >= stream.until:
            self.app.count("chunk_unasked")
            return
        if message.index < round_.sum.sealed:
            self.app.count("chunk_late")  # the round had stopped waiting for this child
        elif message.participants:
            try:
                mask = stream.mask(message)
                if mask is None:
                    self.app.count("chunk_unnamed")  # the Update that names them was lost: it comes again
                    return
                size = round_.sum.chunk_size(message.index)
                values = self.app.encoding.decode(data, size, round_.tag, message.index)
                part = (message.samples, message.participants, mask, stream.group)
                round_.sum.add_chunk(message.index, values, *part)
                stream.taken += 1
            except DuplicateError:
                self.app.count("chunk_duplicate")
            except WireError:
                self._refuse(round_, sender, stream.update, Verdict.INVALID, now)
                return
        round_.received_bytes += len(data)
        whole = not stream.ahead
        stream.done(message.index)
        if whole and stream.ahead:
            # Chunks come in order: those before it went with a connection that has ended, unless they come through
            # another one, slowly.
            self.app.set_timer("remind", now + REMIND_S)
        if not self._finish_if_whole(round_, stream, now):
            self._ask(round_, stream)
            self._advance(round_, now)

    def _finish_if_whole(self, round_: OpenRound, stream: Stream, now: float) -> bool:
        update = stream.update
        if update is None or not update.final or stream.next < round_.sum.chunks:
            return False
        if stream.taken:
            round_.add_metrics(*update.metrics)
        if stream.taken or update.first >= round_.sum.chunks:
            self._delivered(round_, stream.sender, update, now)
        else:
            self._refuse(round_, stream.sender, update, Verdict.DUPLICATE, now)
        return True

    def _ask(self, round_: OpenRound, stream: Stream) -> None:
        """Give credit, in halves: one message for several chunks."""
        size = self.app.encoding.chunk_bytes
        share = INFLOW_BYTES // max(1, len(round_.streams))
        credit = max(1, min(MAX_CREDIT, CREDIT_BYTES // size, share // size))
        until = min(round_.sum.chunks, stream.next + credit)
        if stream.until - stream.next > credit // 2 or stream.next < stream.until == until:
            return
        stream.until = until
        epoch, number, attempt = round_.tag
        self.app.effects.send(
            stream.sender, UpdateGet(self.app.id, epoch, number, attempt, stream.next, until, len(stream.names))
        )

    def _delivered(self, round_: OpenRound, sender: Contact, message: Update, now: float) -> None:
        round_.delivered.add(sender.node_id)
        round_.waiting.discard(sender.node_id)
        round_.direct.update(message.direct[: MAX_HEADS - len(round_.direct)])
        self._take_report(round_, sender, message)
        self.acknowledge(sender, message, Verdict.ACCEPTED)
        self._advance(round_, now)

    def _take_report(self, round_: OpenRound, sender: Contact, message: Update) -> None:
        """How long the child's devices take; not of more devices than it has."""
        report = message.report
        measured = self.app.worker.local.pace.measured and round_.kind is RoundKind.TRAIN
        if report is None or not measured:
            return
        members = max((c.members for c in self.app.children() if c.contact.node_id == sender.node_id), default=0)
        if sum(report.durations) > max(members, message.participants):
            self.app.count("report_invalid")
        else:
            round_.report = merge_reports(round_.report, report)

    def _refuse(self, round_: OpenRound, sender: Contact, message: Update, verdict: Verdict, now: float) -> None:
        """Nothing more of this child; what is in the sum already stays, with its weight."""
        round_.waiting.discard(sender.node_id)
        stream = round_.streams.get(sender.node_id)
        if stream is not None:
            stream.update = None
        self.acknowledge(sender, message, verdict)
        self._advance(round_, now)

    def acknowledge(self, sender: Contact, message: Update | UpdateChunk, verdict: Verdict) -> None:
        if verdict is not Verdict.ACCEPTED:
            self.app.count(f"update_{verdict.name.lower()}")
        ack = UpdateAck(self.app.id, message.epoch, message.round, message.attempt, verdict)
        self.app.effects.send(sender, ack)
