"""One attempt to find a parent in a tree.

    MEASURING  ping a handful of candidates of a higher level (skipped in repair)    --all answered or timed out-->
    WAITING WAITING    Attach sent to the best that answered     --Attached: the owner of this attempt takes over-->
                over --Refused FULL: its children come first--> WAITING for the next
               --another refusal, or silence (reported and suspected)--> WAITING for the next; nobody left: over, failed
               --in repair, no answer soon--> WAITING for the next as well; the first that accepts is taken

Whose link must be dialled has a long time-out, and may be dead. In repair it is not waited for: it keeps its time, and
the next one is asked meanwhile. Who accepts too late is told so by the owner of this attempt.

It goes down only along rising ranks towards ours, and asks nobody twice, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgefl.overlay.candidates import CandidatePool
from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.rank import level, rank
from edgefl.overlay.requests import Requests
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Attach, Refusal

HANDFUL = 11
"""Candidates compared: about all possible parents in a tracker's answer."""

RANK_WORTH_S = 1.0
"""How much longer an RTT may be for one level of rank: who stands higher is nearer to the root, so RTT decides among
equals. With it trees are a quarter shallower than by RTT alone, and paths to the root 7 % shorter although edges are
5 ms longer; 0.1 s made trees 0.03 deeper and no path shorter (`edgefl sim scale`)."""

MAX_ATTEMPTS = 24
"""Parents asked before giving up: twice the depth of the largest tree."""


MAX_WAITING = 3
"""Asked at the same time in repair, at most: as many as spare parents, which are dead all three with probability 10^-4
when one device of twenty is."""


class Attempt:
    """Ask candidates one after the other. `describe` makes the Attach; `on_failed(now)` is called if nobody accepts."""

    __slots__ = (
        "_describe",
        "_device",
        "_liveness",
        "_measuring",
        "_on_failed",
        "_over",
        "_pool",
        "_queue",
        "_requests",
        "_tried",
        "_urgent",
        "_waiting",
        "crowded",
        "said",
    )

    def __init__(
        self,
        device: Device,
        requests: Requests,
        liveness: Liveness,
        pool: CandidatePool,
        describe: Callable[[], Attach],
        on_failed: Callable[[float], None],
    ) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._pool = pool
        self._describe = describe
        self._on_failed = on_failed
        self._queue: list[Contact] = []
        self._measuring: set[int] = set()
        self._tried: set[int] = set()
        self._over = self._urgent = False
        self._waiting: dict[int, tuple[Contact, Attach]] = {}
        self.said: Attach = describe()
        self.crowded = False
        """Somebody was full."""

    def repair(self, targets: list[Contact], ready: set[int], now: float) -> None:
        """Go straight on: first with the spare parents that are `ready`, then with those that we know best, those of
        our zone before others."""
        self._urgent = True
        own_zone = self._device.contact.zone
        self._device.random.shuffle(targets)  # all orphans to the same one would make a chain
        targets.sort(key=lambda c: (c.node_id not in ready, c.zone != own_zone, self._cost_s(c)))
        self._queue = targets[:HANDFUL]
        self._next(now)

    def begin(self, targets: list[Contact], now: float) -> None:
        """Compare a handful by RTT and rank."""
        app, own_level = self.said.app, level(self._pool.standing())
        above = targets if self.said.observer else [c for c in targets if level(rank(c, app)) > own_level]
        candidates = above or targets
        self._queue = self._device.random.sample(candidates, min(HANDFUL, len(candidates)))
        unmeasured = [c for c in self._queue if self._liveness.rtt_s(c.node_id) is None]
        self._measuring = {c.node_id for c in unmeasured}
        for contact in unmeasured:
            self._liveness.ping(contact, now, partial(self._measured, contact))
        if not self._measuring and not self._tried:
            self._choose(now)

    def waits_for(self, node_id: int) -> bool:
        """This one has been asked, and may have accepted."""
        return node_id in self._waiting

    def cancel(self) -> None:
        self._over = True
        for node_id in self._waiting:
            self._requests.cancel(self._question(node_id))
        self._requests.cancel(self._patience())

    def accepted(self, sender: Contact, now: float) -> bool:
        """One that we wait for says yes. False for anybody else, or too late."""
        node_id = sender.node_id
        opened_at = None if self._over else self._requests.close(self._question(node_id), node_id)
        if opened_at is None:
            return False
        self.said = self._waiting[node_id][1]
        self.cancel()
        self._liveness.measured(sender.node_id, now - opened_at)
        self._pool.has_answered(sender.node_id)
        return True

    def refused(self, sender: Contact, reason: Refusal, alternatives: tuple[Contact, ...], now: float) -> None:
        """Somebody says no; if we wait for it, go on: its alternatives come first."""
        node_id = sender.node_id
        if self._over or self._requests.close(self._question(node_id), node_id) is None:
            return
        del self._waiting[node_id]
        self.crowded |= reason is Refusal.FULL
        if reason is Refusal.NOT_A_MEMBER:
            self._pool.report(sender, now)
        else:
            self._pool.shun(sender, now)
        self._pool.learn(alternatives)
        own_zone = self._device.contact.zone
        onward = self._device.random.sample(alternatives, len(alternatives))  # all to the first would make a chain
        self._queue = sorted(onward, key=lambda contact: contact.zone != own_zone) + self._queue
        self._next(now)

    def _measured(self, contact: Contact, peer: Peer | None, now: float) -> None:
        self._measuring.discard(contact.node_id)
        if peer is None:
            self._pool.report(contact, now, silent=True)
        if not self._measuring and not self._over and not self._tried:
            self._choose(now)

    def _choose(self, now: float) -> None:
        self._queue.sort(key=self._cost_s)
        self._next(now)

    def _cost_s(self, contact: Contact) -> float:
        rtt_s = self._liveness.rtt_s(contact.node_id)
        return float("inf") if rtt_s is None else rtt_s - RANK_WORTH_S * rank(contact, self.said.app)[1]

    def _next(self, now: float) -> None:
        """Ask the next candidate; give up when there is none and nobody can answer any more."""
        while self._queue and len(self._tried) < MAX_ATTEMPTS:
            contact = self._queue.pop(0)
            node_id = contact.node_id
            if node_id in self._tried or self._pool.is_shunned(node_id, now) or not self._pool.may_be_parent(contact):
                continue
            self._tried.add(node_id)
            timeout_s, patience_s = self._liveness.timeout_s(node_id, now), self._device.profile.rpc_timeout_s
            if self._requests.open(self._question(node_id), node_id, now, timeout_s, partial(self._no_answer, node_id)):
                said = self._describe()
                self._waiting[node_id] = (contact, said)
                self._device.send(contact, said)
                if self._urgent and timeout_s > patience_s:
                    self._requests.open(self._patience(), node_id, now, patience_s, self._hurry)
                return
        if not self._waiting:
            self._over = True
            self._requests.cancel(self._patience())
            self._on_failed(now)

    def _hurry(self, now: float) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._next(now)

    def _no_answer(self, node_id: int, now: float) -> None:
        contact, _ = self._waiting.pop(node_id)
        self._liveness.suspect(node_id, now)
        self._pool.report(contact, now, silent=True)
        self._next(now)

    def _question(self, node_id: int) -> tuple[str, int, int]:
        return ("attach", self.said.app, node_id)

    def _patience(self) -> tuple[str, int]:
        return ("hurry", self.said.app)
