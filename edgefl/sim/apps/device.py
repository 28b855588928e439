"""A simulated device that takes part in several applications: one uplink, one downlink, one processor for all of them.

The learning layer is the shipped one. Models are relayed chunk by chunk while they arrive, as the transport does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgefl.learning.effects import Progress, Token, TrainJob
from edgefl.overlay.game.ledger import Price
from edgefl.sim.apps.links import Deliver, Downlink, Uplink
from edgefl.sim.apps.processor import Processor
from edgefl.sim.training import FETCH_PATIENCE_S, FETCH_RETRY_S, LearningDevice, Transfers
from edgefl.wire import Contact, Message
from edgefl.wire.blob import CHUNK_BYTES, BlobRef
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from edgefl.sim.train.traces import Trace
    from edgefl.sim.world import Member

EVALUATION_STEPS = 1
"""Looking at data held back takes as long as a step."""


class Push:
    """A blob on its way to one receiver: a flow whose chunks are ready as its source has them."""

    def __init__(self, source: AppDevice, receiver: AppDevice, blob: BlobRef, data: bytes) -> None:
        self.data = data
        self.arrived = 0
        self.waiting: list[tuple[int, Token]] = []
        self._source, self._receiver, self._blob = source, receiver, blob
        self._chunks = max(1, -(-blob.size // CHUNK_BYTES))
        self._taken = 0

    @property
    def ended(self) -> bool:
        return self._taken == self._chunks

    @property
    def complete(self) -> bool:
        return self.arrived == self._chunks

    def take(self) -> tuple[int, Deliver] | None:
        if self.ended or self._taken >= self._source.chunks_of(self._blob, self._chunks):
            return None
        size = min(CHUNK_BYTES, self._blob.size - self._taken * CHUNK_BYTES)
        self._taken += 1
        delay_s = self._source.delay_to(self._receiver)
        return size, lambda: self._receiver.downlink.receive(size, delay_s, self._on_chunk)

    def _on_chunk(self) -> None:
        self.arrived += 1
        self._receiver.on_chunk(self._blob, self)


class AppDevice(LearningDevice):
    """`ended` is told of the first device that saves an application as finished: its root."""

    def __init__(
        self,
        member: Member,
        devices: dict[int, LearningDevice],
        transfers: Transfers,
        trace: Trace,
        *,
        steps: int,
        ended: Callable[[int, float], None],
    ) -> None:
        super().__init__(member, devices, transfers)
        clock = member.world.clock
        self.uplink = Uplink(clock, trace.uplink_bytes_s)
        self.downlink = Downlink(clock, trace.downlink_bytes_s)
        self.processor = Processor(clock, trace.step_s)
        self._steps = steps
        self._ended = ended
        self._incoming: dict[bytes, Push] = {}
        member.overlay.set_price(Price(1 / trace.uplink_bytes_s))

    @property
    def contact(self) -> Contact:
        return self.member.overlay.contact

    def delay_to(self, other: AppDevice) -> float:
        return self.member.world.model.rtt_s(self.member.node.place, other.member.node.place) / 2

    def chunks_of(self, blob: BlobRef, chunks: int) -> int:
        """How many of its chunks this device can pass on. What has been complete once can be sent to its end."""
        push = self._incoming.get(blob.id)
        return chunks if push is None else push.arrived

    # Effects

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        receiver = self._devices.get(to.node_id)
        if not isinstance(receiver, AppDevice):
            return
        payload, sender = bytes(data), self.member.overlay.contact
        size, delay_s = max(1, len(payload)), self.delay_to(receiver)
        self._transfers.count += 1
        self._transfers.bytes += len(payload)

        def arrive() -> None:
            receiver.learning.on_bulk(sender, message, payload, receiver.member.now)
            receiver._watch()

        self.uplink.send(("up", app, to.node_id), size, lambda: receiver.downlink.receive(size, delay_s, arrive))

    def _try_to_fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], give_up: float, now: float
    ) -> None:
        if blob.id in self._blobs:
            self.learning.on_fetched(app, token, blob, self._blobs[blob.id], now)
            return
        incoming = self._incoming.get(blob.id)
        if incoming is not None:
            incoming.waiting.append((app, token))
            return
        for source in sources:
            holder = self._devices.get(source.node_id)
            if isinstance(holder, AppDevice) and (data := holder.content(blob)) is not None:
                push = self._incoming[blob.id] = Push(holder, self, blob, data)
                push.waiting.append((app, token))
                holder.uplink.add(("down", blob.id, self.member.node_id), push)
                return
        if now < give_up:
            self._later(FETCH_RETRY_S, self._try_to_fetch, app, token, blob, sources, give_up)
        else:
            self.learning.on_fetched(app, token, blob, None, now)

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        give_up = self.member.now + FETCH_PATIENCE_S
        self._later(0.0, self._try_to_fetch, app, token, blob, sources, give_up)

    def content(self, blob: BlobRef) -> bytes | None:
        """A blob that this device has, or is getting."""
        incoming = self._incoming.get(blob.id)
        return incoming.data if incoming is not None else self._blobs.get(blob.id)

    def on_chunk(self, blob: BlobRef, push: Push) -> None:
        """One more chunk is here: others below may wait for it."""
        self._transfers.bytes += min(CHUNK_BYTES, blob.size)
        if push.complete:
            del self._incoming[blob.id]
            self._transfers.count += 1
            self._blobs[blob.id] = push.data
            for app, token in push.waiting:
                self.learning.on_fetched(app, token, blob, push.data, self.member.now)
            self._watch()
        self.uplink.poke()

    def train(self, app: int, job: TrainJob) -> None:
        model = self._blobs[job.model.id]
        steps = EVALUATION_STEPS + (self._steps if job.kind is RoundKind.TRAIN else 0)

        def ended(done: bool) -> None:
            result = self.result(app, model, job) if done else None
            self.learning.on_trained(app, job.tag, result, self.member.now)
            self._watch()

        self.processor.submit(app, steps, job.deadline, ended)

    def save(self, app: int, progress: Progress) -> None:
        super().save(app, progress)
        if progress.finished:
            self._ended(app, self.member.now)
