"""The watchdog: when everybody who worked on a round is gone, those who are left start it again.

No newer task was heard of for `watch_s`, drawn out by up to 2 so that devices do not all act at once: ask a sample of
the others. Somebody knows of progress, or holds a newer model: leave it to them. Else go on from
the newest model that can be had, with a higher attempt; but only where a quorum is there, which is looked for again
about every `AGAIN_S`.

A device that first hears how quick the rounds are (`watch_s` follows them) looks that much sooner.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgefl.learning.sampled.options import AGAIN_S
from edgefl.wire import Contact
from edgefl.wire.application import AppState
from edgefl.wire.blob import BlobRef
from edgefl.wire.sampled import Entry

if TYPE_CHECKING:
    from edgefl.learning.sampled.device import SampledDevice, Task


class Watchdog:
    """Looks for a standstill of one application, at one device."""

    TIMERS = ("watch", "look")

    def __init__(self, device: SampledDevice) -> None:
        self.device = device
        self._looked: Task | None = None
        self._ahead = False
        self._paused = False
        self._known: tuple[int, BlobRef, Contact] | None = None
        self._spread = 1.0
        self._due = math.inf

    def start(self, now: float) -> None:
        self._spread = 1 + self.device.effects.random.random()
        self._set(now)

    def _set(self, since: float) -> None:
        self._due = since + self.device.watch_s * self._spread
        self.device.set_timer("watch", self._due)

    def on_progress(self, now: float) -> None:
        """There is a newer task, and perhaps news of how long rounds take."""
        if now + self.device.watch_s * self._spread < self._due < math.inf:
            self._set(now)

    def on_news(self, round_: int, model: BlobRef, holder: Contact) -> None:
        """Somebody holds this model."""
        if self._known is None or round_ >= self._known[0]:
            self._known = (round_, model, holder)

    def on_answer(self, holds: int) -> None:
        """Who was asked holds the model of this round."""
        self._ahead |= self.device.holds < holds <= self.device.manifest.rounds

    def on_watch(self, now: float) -> None:
        device = self.device
        paused, self._paused = self._paused, device.around.state is AppState.PAUSED
        if device.began is None or paused or self._paused:  # what is paused, or was a moment ago, does not stand still
            device.began = None if device.began is None else now
            self._set(now)
            return
        if device.too_few is None and now < device.began + device.watch_s * self._spread:
            self._set(device.began)
            return
        self.start(now)
        self._looked, self._ahead = device.newest, False
        others = [one for one in device.registry.candidates(device.newest[1]) if one.contact != device.me]
        device.effects.random.shuffle(others)
        device.searches.start("look", others, device.options.sample, self._seen, now)

    def _seen(self, chosen: list[Entry], now: float) -> None:
        device, known = self.device, self._known
        if self._looked != device.newest or self._ahead or device.model is None:
            return
        if not device.enough(1 + len(chosen)):
            self._due = now + AGAIN_S * (0.5 + device.effects.random.random())
            device.set_timer("watch", self._due)
            return
        if known is not None and known[0] > device.holds and known[1] != device.model:
            self._known = None
            device.effects.fetch(device.app, ("catch up", known[0]), known[1], (known[2],))
        else:
            self._restart(now)

    def on_fetched(self, round_: int, model: BlobRef, data: Any, now: float) -> None:
        """The newest known model is here, or nobody has it any more."""
        device = self.device
        if data is not None:
            device.hold(round_, model)
        if self._looked == device.newest:
            self._restart(now)

    def _restart(self, now: float) -> None:
        device = self.device
        if device.model is not None:
            device.count("restarts")
            device.aggregator.hand_out((device.newest[0] + 1, device.holds + 1), device.model, device.holds, now)
