"""Small models that peers push with the word about them, so that nobody has to ask: a round trip less, each way.

The word (SampleTrain, SampleUpdate) and the model (SampledModel, one frame) may come through two connections, in any
order, and the model may be lost: who hears the word first waits for the model for a while, and then fetches it as it
would have done without. What comes before its word has one place for each device, MAX_PUSHED_BYTES in all; the oldest
gives way. Nothing is believed to be a blob before its content was hashed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, ref_of

if TYPE_CHECKING:
    from edgefl.wire import Contact

MAX_PUSHED_MODEL = CHUNK_BYTES
"""One frame. A larger model takes so long on its way that asking for it does not count, and is better fetched in
chunks, which can be resumed."""

MAX_PUSHED_BYTES = 16 * 1024 * 1024
"""Models that came before the word about them: 64 of the largest. What has no place is fetched."""

MAX_EXPECTED = 256
"""Models that are waited for: two samples, as many as a session takes, and a few tasks. Others are fetched."""

PATIENCE_S = 3.0
"""The wait for a model that is on its way, on top of twice the time that its sender's uplink needs."""


def patience_s(model_bytes: int, models: int, uplink: int) -> float:
    """How long to wait for a pushed model. `models`: what the sender sends at once; `uplink`: log2 of its bytes per
    second, 0 for unknown."""
    return PATIENCE_S + (2 * model_bytes * models / 2.0**uplink if uplink else 0.0)


@dataclass(frozen=True, slots=True)
class Place:
    """Somebody here waits for this blob from this device, until `due`."""

    token: tuple[Hashable, ...]
    blob: BlobRef
    sender: Contact
    due: float


class PushedModels:
    """Models of `model_bytes` that have come, or are on their way."""

    def __init__(self, model_bytes: int) -> None:
        self._model_bytes = model_bytes
        self._places = MAX_PUSHED_BYTES // max(1, model_bytes)
        self._here: OrderedDict[int, tuple[BlobRef, bytes]] = OrderedDict()
        self._expected: list[Place] = []

    @property
    def next_due(self) -> float | None:
        """When the first of those who wait have waited long enough."""
        return min((place.due for place in self._expected), default=None)

    def arrived(self, sender: int, blob: BlobRef, data: Any) -> tuple[Place, ...]:
        """A device has pushed this, a buffer that is only read now. Who has waited for it. Raises ValueError when the
        data are not what the blob's name says, or no model of this application."""
        if memoryview(data).nbytes != self._model_bytes or blob != ref_of(data):
            raise ValueError(f"{memoryview(data).nbytes} bytes are not the model {blob}")
        waiting = tuple(place for place in self._expected if place.sender.node_id == sender and place.blob == blob)
        if waiting:
            self._expected = [place for place in self._expected if place not in waiting]
            return waiting
        self._here.pop(sender, None)
        while self._here and len(self._here) >= self._places:
            self._here.popitem(last=False)
        self._here[sender] = (blob, bytes(data))
        return ()

    def take(self, sender: int, blob: BlobRef) -> bytes | None:
        """What this device has pushed, if it is this model."""
        known = self._here.get(sender)
        if known is None or known[0] != blob:
            return None
        del self._here[sender]
        return known[1]

    def expect(self, place: Place) -> bool:
        """Wait for a model. False when too many are waited for."""
        if len(self._expected) >= MAX_EXPECTED:
            return False
        self._expected.append(place)
        return True

    def overdue(self, now: float) -> list[Place]:
        """Those who have waited long enough, and wait no longer."""
        over = [place for place in self._expected if place.due <= now]
        self._expected = [place for place in self._expected if place.due > now]
        return over
