"""How models come to a device: out of what was pushed, or by asking for them (pushed.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.learning.sampled.pushed import MAX_PUSHED_MODEL, Place, PushedModels, patience_s
from edgefl.wire.sampled import SampledModel

if TYPE_CHECKING:
    from edgefl.learning.effects import Token
    from edgefl.learning.sampled.device import SampledDevice
    from edgefl.wire import Contact
    from edgefl.wire.blob import BlobRef

FLOAT_BYTES = 4


class Arrivals:
    """One device's models from others, and how it sends its own."""

    TIMERS = ("pushed",)

    def __init__(self, device: SampledDevice) -> None:
        self.device = device
        self._bytes = FLOAT_BYTES * device.manifest.parameters
        self._pushed = PushedModels(self._bytes)
        self._named: tuple[Token, bytes] | None = None
        """The model of the newest task, while it is made a blob of."""

    @property
    def are_small(self) -> bool:
        """Whether models are pushed at all."""
        return self._bytes <= MAX_PUSHED_MODEL

    def push(self, to: Contact, blob: BlobRef, data: Any) -> None:
        """Send a model that the peer has just been told of."""
        self.device.effects.send_bulk(self.device.app, to, SampledModel(self.device.app, blob), data)

    def get(
        self, token: Token, blob: BlobRef, source: Contact | None, now: float, *, pushed: bool = False, models: int = 1
    ) -> None:
        """Have a model: `device.on_fetched` gets it. `source`: who has it, None for this device; `pushed`: it is on its
        way from there, among so many `models`."""
        device = self.device
        if source is None or not pushed or not self.are_small:
            device.effects.fetch(device.app, token, blob, () if source is None else (source,))
            return
        data = self._pushed.take(source.node_id, blob)
        if data is not None:
            self._deliver(token, blob, data, now)
            return
        entry = device.registry.get(source.node_id)
        wait_s = patience_s(self._bytes, models, 0 if entry is None else entry.uplink)
        if self._pushed.expect(Place(token, blob, source, now + wait_s)):
            self._wait()
        else:
            device.effects.fetch(device.app, token, blob, (source,))

    def on_model(self, sender: Contact, message: SampledModel, data: Any, now: float) -> None:
        """A model was pushed; `data` is only read, and only now."""
        device = self.device
        if device.registry.get(sender.node_id) is None:
            return device.count("not_a_member")
        if not self.are_small:
            return device.count("implausible")
        try:
            waiting = self._pushed.arrived(sender.node_id, message.model, data)
        except ValueError:
            return device.count("implausible")
        self._wait()
        for place in waiting:
            self._deliver(place.token, place.blob, data, now)
        return None

    def on_timer(self, now: float) -> None:
        """Ask for what has not come."""
        for place in self._pushed.overdue(now):
            self.device.count("pushed_lost")
            self.device.effects.fetch(self.device.app, place.token, place.blob, (place.sender,))
        self._wait()

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        """The pushed model of a task is a blob here."""
        named = self._named
        if named is not None and named[0] == token:
            self._named = None
            self.device.on_fetched(token, blob, named[1], now)
        elif not self.device.needs(blob):
            self.device.effects.discard(self.device.app, blob)

    def _deliver(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        """What is trained must be held as a blob; what is averaged is only read."""
        if token[0] == "task":
            self._named = (token, bytes(data))
            self.device.effects.keep(self.device.app, token, self._named[1])
        else:
            self.device.on_fetched(token, blob, data, now)

    def _wait(self) -> None:
        due = self._pushed.next_due
        if due is None:
            self.device.effects.cancel_timer(("learning", self.device.app, "pushed"))
        else:
            self.device.set_timer("pushed", due)
