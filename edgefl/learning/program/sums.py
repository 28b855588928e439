"""Sums of one tree: each member gives a vector for a round, the root hears their weighted mean.

A round opens at a device with its own vector or the first of a child, and is:

    COLLECTING  until the whole subtree has delivered, or its share of the deadline is over
    sealed      the sum goes to the parent as one batch, until it is acknowledged; what comes later follows as it is
    closed      the root has handed it to the program, and everybody hears that it is over

At the root COLLECTING ends when as many have delivered as the tree has members (and that number has stood still for
SETTLE_S), or at the deadline. The deadline runs from when the round opened below: each batch says how old it is, so no
clock is shared. A device of height h and depth d waits for h / (h + d) of it. A vector that comes when its round is
over is counted and dropped.

A change of parent while a round is open: root_sum.py. A device that becomes the root collects what it has sealed once
more, and what the others send again.

Bounded: MAX_OPEN rounds, with MAX_HELD batches beside the sum of each.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from edgefl.errors import UsageError, WireError
from edgefl.learning.aggregate import Accumulator, DuplicateError, is_finite
from edgefl.learning.program.root_sum import MAX_WEIGHT, Batch, OpenRound, Sum
from edgefl.wire import Contact
from edgefl.wire.blob import FLOAT_BYTES
from edgefl.wire.learning import MAX_CONTRIBUTORS
from edgefl.wire.program import MAX_CLOSED, ProgramSum, ProgramSumAck

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.program.tree import ProgramTree

MAX_OPEN = 4
"""Rounds open at once: 0.4 MiB each at the most, with all that is held for them."""

MAX_HELD = 16
"""Batches of one round beside the sum, 24 KiB each: children that move while it is open."""

MAX_REMEMBERED = 64
"""Rounds that are known to be over."""

SETTLE_S = 1.0
"""A root does not close a round early before the number of members has stood still for this long."""

TAKE_OVER_S = 5.0
"""Nor before it has been the root for this long: devices of the old root's subtrees are on their way to it."""

RESEND_S = 2.0

LIFETIME = 2
"""Deadlines until a round that nobody has closed is forgotten: as long as another root may need to close it."""

MAX_AGE_MS = (1 << 32) - 1


class Sums:
    """The open rounds of one tree at one device."""

    TIMERS = ("sums",)

    def __init__(self, tree: ProgramTree) -> None:
        self.tree = tree
        self.open: dict[int, OpenRound] = {}
        self._closed: deque[int] = deque(maxlen=MAX_REMEMBERED)
        self._batches = 0
        self._resend_at = float("inf")
        self._members = (0, 0.0)  # how many, and since when
        self._took_over_at = float("-inf")
        self._last = 0  # participants of the round closed last

    def closed(self) -> tuple[int, ...]:
        """The rounds that were closed last."""
        return tuple(self._closed)[-MAX_CLOSED:]

    # The own part

    def give(self, round_: int, vector: NDArray[np.float32], weight: int, now: float) -> bool:
        """Add this device's vector (float32 [values]); False when the round is over. Raises UsageError."""
        if round_ in self._closed:
            return False
        if not 1 <= weight <= MAX_WEIGHT:
            raise UsageError(f"weight {weight}, but a device may have 1 to {MAX_WEIGHT}", hint="give another weight")
        weighted = vector * np.float32(weight)
        if vector.shape != (self.tree.values,) or not is_finite(weighted):
            raise UsageError(
                f"a vector of shape {vector.shape}, or with values that are not finite (or far too large)",
                hint=f"the sums of this tree take {self.tree.values} finite values",
            )
        open_ = self._opened(round_, now, mine=True)
        if open_ is None or open_.own:
            cause = f"{MAX_OPEN} rounds are open" if open_ is None else f"round {round_} has a vector of this device"
            raise UsageError(f"{cause} already", hint="give one vector for a round, and wait until rounds are over")
        open_.own = True
        batch = self._batch(weighted, weight, 1, (self.tree.me.node_id,))
        if open_.sealed:
            open_.batches.append(batch)
            self._send(open_, batch, now)
        else:
            try:
                open_.add(batch)
            except DuplicateError:
                self.tree.count("sum_duplicate")
        self._look(now)
        return True

    def _opened(self, round_: int, now: float, *, mine: bool, age_s: float = 0.0) -> OpenRound | None:
        """The round, opened if need be; this device's own go before those of which only children have spoken."""
        open_ = self.open.get(round_)
        if open_ is not None:
            return open_
        if len(self.open) >= MAX_OPEN:
            foreign = next((one for one in self.open.values() if not one.own), None)
            if not mine or foreign is None:
                return None
            self.tree.count("round_crowded_out")
            del self.open[foreign.round]
        deadline_s = self.tree.deadline_s
        height, depth = self.tree.height, self.tree.depth
        share_s = deadline_s * height / max(1, height + depth) if depth else deadline_s
        opened = now - min(age_s, deadline_s)
        open_ = self.open[round_] = OpenRound(
            round_, self._sum(), opened, opened + share_s, opened + LIFETIME * deadline_s
        )
        self.tree.watch(open_.closes, now)
        return open_

    def _sum(self) -> Accumulator:
        return Accumulator(self.tree.values, MAX_WEIGHT)

    def _batch(
        self, values: NDArray[np.float32], weight: int, participants: int, contributors: tuple[int, ...]
    ) -> Batch:
        self._batches = (self._batches + 1) & 0xFFFFFFFF
        return Batch(self._batches, values, weight, participants, contributors)

    # Children

    def on_sum(self, sender: Contact, message: ProgramSum, now: float) -> None:
        if not self.tree.has_child(sender.node_id):
            self.tree.count("sum_not_from_child")
            return
        if message.round in self._closed:
            self.tree.count("sum_late")
            self._acknowledge(sender, message, closed=True)
        elif not self._credible(message):
            self.tree.count("sum_refused")
            self._acknowledge(sender, message)
        else:
            open_ = self._opened(message.round, now, mine=False, age_s=message.age_ms / 1000)
            if open_ is None:
                self.tree.count("sum_crowded_out")  # it comes again
            elif self._accept(open_, sender, message, now):
                self._acknowledge(sender, message)
                self._look(now)

    def _credible(self, message: ProgramSum) -> bool:
        """What one message can be believed for; the sum itself checks the rest."""
        named = len(set(message.contributors)) == len(message.contributors) == message.participants > 0
        crowd = not message.contributors and message.participants > MAX_CONTRIBUTORS and not message.again
        return len(message.values) == self.tree.values * FLOAT_BYTES and (named or crowd)

    def _accept(self, open_: OpenRound, sender: Contact, message: ProgramSum, now: float) -> bool:
        """Take a batch in, or find that it is not wanted; False when there is no room for it now."""
        values = np.frombuffer(message.values, "<f4")
        batch = self._batch(values, message.weight, message.participants, message.contributors)
        batch.again = message.again
        kept = open_.held if self.tree.is_root else open_.batches
        crowd = (sender.node_id, message.batch)
        if (
            crowd in open_.crowds
            or open_.counts(batch)
            or any(one.contributors == batch.contributors for one in kept if batch.contributors)
        ):
            self.tree.count("sum_duplicate")
            return True
        if not open_.sealed and not batch.again:
            try:
                open_.add(batch)
            except DuplicateError:
                self.tree.count("sum_duplicate")
            except WireError:
                self.tree.count("sum_refused")
            else:
                if not batch.contributors and len(open_.crowds) < MAX_HELD:
                    open_.crowds.add(crowd)
            return True
        if not (0 < batch.weight <= batch.participants * MAX_WEIGHT and is_finite(values)):
            self.tree.count("sum_refused")
            return True
        if len(kept) >= MAX_HELD:
            self.tree.count("sum_no_room")
            return False
        kept.append(batch)
        if not self.tree.is_root:
            self._send(open_, batch, now)
        return True

    def _acknowledge(self, sender: Contact, message: ProgramSum, *, closed: bool = False) -> None:
        self.tree.send(sender, ProgramSumAck(self.tree.id, message.round, message.batch, closed))

    # The parent

    def _send(self, open_: OpenRound, batch: Batch, now: float) -> None:
        parent = self.tree.parent
        if parent is None or batch.acked:
            return
        batch.sent = True
        self.tree.send(
            parent,
            ProgramSum(
                self.tree.id,
                open_.round,
                batch.key,
                batch.weight,
                batch.participants,
                batch.contributors,
                batch.values.astype("<f4", copy=False).tobytes(),
                batch.again,
                min(int((now - open_.opened) * 1000), MAX_AGE_MS),
            ),
        )
        self._resend_at = min(self._resend_at, now + RESEND_S)

    def on_ack(self, sender: Contact, message: ProgramSumAck, now: float) -> None:
        parent, open_ = self.tree.parent, self.open.get(message.round)
        if parent is None or sender.node_id != parent.node_id or open_ is None:
            return
        for batch in open_.batches:
            batch.acked |= batch.key == message.batch
        if message.closed:
            self.on_closed((message.round,), now)

    def on_closed(self, rounds: tuple[int, ...], now: float) -> None:
        """A neighbour says that these rounds are over; the children hear it from us."""
        news = [round_ for round_ in rounds if round_ not in self._closed]
        for round_ in news:
            self.open.pop(round_, None)
            self._closed.append(round_)
        if news:
            for child in self.tree.children():
                self.tree.send_standing(child)
            self._set_timer(now)

    def on_parent(self, now: float) -> None:
        """Another parent, or the same one again: all that is sealed goes there, marked where it was sent before."""
        for open_ in self.open.values():
            for batch in open_.held:
                batch.again = True
            open_.batches += open_.held
            open_.held = []
            for batch in open_.batches:
                batch.again |= batch.sent
                batch.acked = False
                self._send(open_, batch, now)
        self._look(now)

    def on_root(self, now: float) -> None:
        """Nobody has closed the rounds that are open here: they are collected again, what is sealed with the rest."""
        self._took_over_at = now
        for open_ in self.open.values():
            if open_.sealed or open_.batches:
                open_.held += open_.batches
                open_.batches = []
                if open_.sealed:
                    open_.sum, open_.sealed = self._sum(), False
            open_.closes = max(open_.closes, now + self.tree.deadline_s / 2)
        self._look(now)

    def on_members(self, now: float) -> None:
        """Children have come or gone."""
        self._look(now)

    # From collecting to closed

    def _look(self, now: float) -> None:
        """Seal, close and forget what is due."""
        members = self.tree.members
        if members != self._members[0]:
            self._members = (members, now)
        for open_ in list(self.open.values()):
            if self.tree.is_root:
                if now >= open_.closes or self._complete(open_, now):
                    self._close(open_, now)
            elif not open_.sealed and (now >= open_.closes or open_.delivered >= self._members[0]):
                self._seal(open_, now)
            elif now >= open_.ends:
                del self.open[open_.round]
        self._set_timer(now)

    def _complete(self, open_: OpenRound, now: float) -> bool:
        return now >= self._settled_at() and open_.delivered >= max(self._members[0], self._last)

    def _settled_at(self) -> float:
        """When the number of members can be believed."""
        return max(self._members[1] + SETTLE_S, self._took_over_at + TAKE_OVER_S)

    def _seal(self, open_: OpenRound, now: float) -> None:
        open_.sealed = True
        sealed = open_.seal()
        if sealed is not None:
            batch = self._batch(*sealed)
            open_.batches.append(batch)
            self._send(open_, batch, now)

    def _close(self, open_: OpenRound, now: float) -> None:
        for batch in open_.wanted():
            try:
                open_.add(batch)
            except WireError:
                self.tree.count("sum_refused")
        sealed = open_.seal()
        self.on_closed((open_.round,), now)
        if sealed is not None:
            values, weight, participants, _ = sealed
            self._last = participants
            mean = values / np.float32(weight)
            self.tree.listener.on_sum(self.tree.id, Sum(open_.round, mean, weight, participants))

    def on_timer(self, now: float) -> None:
        if now >= self._resend_at:
            self._resend_at = float("inf")
            for open_ in self.open.values():
                for batch in open_.batches:
                    self._send(open_, batch, now)
        self._look(now)

    def _set_timer(self, now: float) -> None:
        """Wake up for whatever is due first."""
        due = [self._resend_at]
        for open_ in self.open.values():
            due.append(open_.closes if self.tree.is_root or not open_.sealed else open_.ends)
            if self.tree.is_root and self._settled_at() > now:
                due.append(self._settled_at())
        if self.open and min(due) < float("inf"):
            self.tree.set_timer("sums", max(now, min(due)))
        else:
            self.tree.cancel_timer("sums")
