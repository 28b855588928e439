"""This device's own update on its way to the parent: sealed chunk by chunk, encoded in place, sent as far as asked for.

A chunk is sealed as soon as this device's own part and every child that is waited for are in it, so the first chunks
are with the parent while the last are still coming from below (pipelined reduction): a tree of depth d costs d chunk
times more than one level, not d updates. A sealed chunk is encoded over its own memory and never changes again, so that
ZeroMQ sends it from there: on its way through this device a byte is read once and written once, by the addition.

`acked` is how far a parent has got, whoever it was: a new parent gets the rest, never a chunk a second time. A chunk
that a parent took and did not pass on before it died is lost, with its weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.forest.direct import upstream
from edgefl.learning.forest.round import OpenRound, RoundState
from edgefl.wire.learning import MAX_CONTRIBUTORS, Metric, PaceReport, Update, UpdateChunk, UpdateGet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.encoding import Encoded
    from edgefl.learning.forest.application import ForestApplication

RESEND_S, RESEND_MAX_S = 3.0, 60.0
"""An update that the parent has neither asked for nor acknowledged is offered again, then after twice as long."""

RESEND_GAPS = 4
"""A wait that is so many times longer than the last one between two credits is silence."""

SILENCES = 2
"""In a row, before chunks are sent a second time."""

ENCODING_METRIC, REQUANTISING_METRIC = "train_encoding_error", "train_requantising_error"
"""Squared error over squared norm, of what devices encode of their own, and of sums that are encoded again above."""


class Outflow:
    """What this device has to deliver in one round, and how far it is."""

    def __init__(self, app: ForestApplication, round_: OpenRound) -> None:
        self.app = app
        self.round = round_
        self.ready: list[Encoded | None] = []
        self.acked = 0
        self._sent = 0
        self._until = 0
        self._known = 0  # how many names the parent has
        self._offered_names = -1
        self._resend_s = RESEND_S
        self._progress = False
        self._silences = 0
        self._moved_at: float | None = None
        self._behind_since: float | None = None
        self._waited_s = 0.0
        self.sent_bytes = 0

    # Sealing

    def seal(self, ready: int, now: float) -> bool:
        """Seal what can be sealed of the first `ready` chunks, some at a time; False when more is left to do."""
        sum_ = self.round.sum
        for _ in range(sum_.AT_ONCE):
            if sum_.sealed >= ready:
                break
            index = sum_.sealed
            values = sum_.seal_mean() if self.round.mine else sum_.seal()
            if values is None or self.round.mine:
                self.ready.append(None)
            else:
                self.ready.append(self._encode(index, values))
        if self.ready and not self.round.mine:
            if self._behind_since is None:
                self._behind_since = now
            # With the last chunk of a closed round comes the final word, which says it all.
            if sum_.sealed < sum_.chunks or self.round.state is not RoundState.SEALING:
                self._offer_if_news(now)
            self._pump()
        return sum_.sealed >= ready

    def _encode(self, index: int, values: NDArray[np.float32]) -> Encoded:
        app = self.app
        encoded = app.encoding.encode(values, self.round.tag, index, app.feedback.chunk(index), app.effects.random)
        if encoded.norm > 0:
            name = REQUANTISING_METRIC if self.round.streams else ENCODING_METRIC
            self.round.add_metrics(Metric(name, encoded.error, encoded.norm))
        return encoded

    # Delivering

    def offer(self, now: float) -> None:
        """Tell the parent what there is, from where it goes on; again later if nothing comes back."""
        round_, parent = self.round, upstream(self.app, self.round)
        if parent is None or round_.state is RoundState.CLOSED:
            return
        names = round_.sum.names
        final = round_.state is RoundState.SENDING
        vector = bool(self.ready)
        crowd = len(names) >= MAX_CONTRIBUTORS
        participants = round_.evaluated
        if vector:
            participants = max((round_.sum.weight(index)[1] for index in range(len(self.ready))), default=0)
        epoch, number, attempt = round_.tag
        update = Update(
            self.app.id,
            epoch,
            number,
            attempt,
            tuple(names) if vector and not crowd else (),
            MAX_CONTRIBUTORS + max(1, participants) if vector and crowd else participants,
            round_.sum.metrics if final else (),
            vector,
            self.acked if vector else 0,
            final,
            round_.report if final and round_.report != PaceReport() else None,
            tuple(sorted(round_.direct)) if final else (),
        )
        self._offered_names = len(names)
        self.app.effects.send(parent, update)
        self.app.set_timer("resend", now + self._resend_s)

    def _offer_if_news(self, now: float) -> None:
        if len(self.round.sum.names) != self._offered_names:
            self.offer(now)

    def on_parent(self, now: float) -> None:
        """Another parent, or the same one again: it hears where to go on."""
        self._restart()
        self._known = 0
        self._resend_s, self._silences = RESEND_S, 0
        if self.ready or self.round.state is RoundState.SENDING:
            self.offer(now)

    def on_resend(self, now: float) -> None:
        """Nothing was taken for a while. The parent is told again what there is, which costs little; chunks are sent
        again only when that has changed nothing either: on a slow link they are still on their way, and would fill it
        twice."""
        if self._progress:
            self._progress = False
            self.app.set_timer("resend", now + self._resend_s)
            return
        self._silences += 1
        if self._silences >= SILENCES:
            self._restart()
        self._resend_s = min(2 * self._resend_s, RESEND_MAX_S)
        self.offer(now)

    def waited_s(self, now: float) -> float:
        """How long chunks were ready that the parent had not taken yet: what this parent has cost us."""
        return self._waited_s + (0.0 if self._behind_since is None else now - self._behind_since)

    def on_get(self, message: UpdateGet, now: float) -> None:
        """The parent gives credit."""
        chunks = self.round.sum.chunks
        if not message.first <= message.until <= chunks or message.first > len(self.ready):
            self.app.count("get_invalid")
            return
        if message.first > self.acked or self._until == 0:
            gap_s = 0.0 if self._moved_at is None else now - self._moved_at
            self._resend_s = min(max(RESEND_S, RESEND_GAPS * gap_s), RESEND_MAX_S)
            self._progress, self._silences, self._moved_at = True, 0, now
        self.acked = max(self.acked, message.first)
        if self.acked == len(self.ready):
            self._waited_s, self._behind_since = self.waited_s(now), None
        self._sent = max(self._sent, self.acked)
        self._until, self._known = message.until, message.names
        self._pump()

    def _restart(self) -> None:
        self._sent = self.acked
        self._until = 0

    def _pump(self) -> None:
        parent = upstream(self.app, self.round)
        if parent is None:
            return
        epoch, number, attempt = self.round.tag
        crowd = len(self.round.sum.names) >= MAX_CONTRIBUTORS
        while self._sent < min(self._until, len(self.ready)):
            index = self._sent
            encoded = self.ready[index]
            samples, participants, mask = self.round.sum.weight(index)
            if not crowd and mask.bit_length() > self._known:
                return  # the Update that names them is on its way, and is answered
            chunk = UpdateChunk(
                self.app.id, epoch, number, attempt, index, samples, participants, self._mask(participants, mask)
            )
            self._sent += 1
            self.sent_bytes += 0 if encoded is None else len(encoded.data)
            self.app.effects.send_bulk(self.app.id, parent, chunk, b"" if encoded is None else encoded.data)

    def _mask(self, participants: int, mask: int) -> bytes:
        """Left out where it says no more than the number does."""
        if mask == (1 << participants) - 1 or len(self.round.sum.names) >= MAX_CONTRIBUTORS:
            return b""
        return mask.to_bytes(-(-mask.bit_length() // 8), "little")
