"""The shipped learning layer on simulated devices, with a stand-in for the trainer.

**The stand-in is not a model**: a device "trains" by pulling the parameters half-way to a target of its own, after a
time that depends on its speed (stand_in.py). Federated averaging of such devices moves half-way to the weighted mean of
the targets in every round, so the right answer is known (and changes when devices vanish). Everything else is the code
that runs on devices: applications found through the directory, trees, rounds, aggregation, replication, hand-over of
the root.

Blobs travel outside the packet network, which models datagrams: a transfer takes the round trip and size / bandwidth,
and comes from a live device that holds the blob, or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.effects import Prepared, Progress, Token, TrainJob, TrainResult
from edgefl.learning.manifest import REQUIRED_ARTIFACTS, travelling
from edgefl.learning.node import Decision, Learning, Part
from edgefl.sim import stand_in
from edgefl.sim.world import Member
from edgefl.wire import Contact, Message, encode_record
from edgefl.wire.application import Advert, AppState, Artifact, Manifest
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

PARAMETERS = 16
BANDWIDTH_BYTES_S = 2.5e6
"""20 Mbit/s uplinks."""

TRAIN_S, TRAIN_SPREAD = 3.0, 0.4
"""Median and spread (lognormal) of the time that a device trains."""

FETCH_RETRY_S, FETCH_PATIENCE_S = 0.2, 10.0
"""A blob that no source holds yet is asked for again; after this long the fetch fails."""


def make_application(
    name: str,
    data: str,
    *,
    rounds: int,
    min_members: int,
    quorum: float,
    seed: int,
    zone: int | None = None,
    parameters: int = PARAMETERS,
    deadline_s: float = 120.0,
    strategy: str = "fedavg",
    pace: str = "sync",
    select: int = 0,
    zone_rounds: int = 1,
    together: str = "",
) -> Manifest:
    """A manifest for simulated devices: artifacts in name only. With `zone`, it is of that zone alone."""
    artifacts = tuple(Artifact(file, ref_of(file.encode())) for file in sorted(REQUIRED_ARTIFACTS))
    return Manifest(
        name=name,
        owner=bytes(32),
        salt=seed.to_bytes(16, "big"),
        artifacts=artifacts,
        data=data,
        parameters=parameters,
        rounds=rounds,
        strategy=strategy,
        pace=pace,
        select=select,
        zone_rounds=zone_rounds,
        together=together,
        quorum=quorum,
        deadline_s=deadline_s,
        min_members=min_members,
        seed=seed,
        scope=Scope.GLOBAL if zone is None else Scope.ZONE,
        zone=zone or 0,
    )


@dataclass(slots=True)
class Transfers:
    """What the blobs of a fleet have cost."""

    count: int = 0
    bytes: int = 0


@dataclass(slots=True)
class SiteLine:
    """The line that devices of a site share: what comes from outside goes through it, one piece after the other."""

    bytes_s: float
    carried_bytes: int = 0
    free_at: float = 0.0

    def carry(self, size_bytes: int, arrival: float) -> float:
        """When a piece that is here at `arrival` is through."""
        self.carried_bytes += size_bytes
        self.free_at = max(self.free_at, arrival) + size_bytes / self.bytes_s
        return self.free_at


class LearningDevice:
    """One device's learning layer: handler of its messages and timers, listener of its overlay, and its world."""

    def __init__(self, member: Member, devices: dict[int, LearningDevice], transfers: Transfers) -> None:
        self.member = member
        self.data: set[str] = set()
        self.learning = Learning(member.overlay, self, self._policy)
        self.saved: dict[int, Progress] = {}
        self.memories: dict[tuple[int, str], bytes] = {}
        self._uplink_free = self._serving_free = 0.0
        self.serving_bytes_s: float | None = None
        """What this device takes in from all its children together; None: whatever comes."""
        self.site_line: SiteLine | None = None
        self.highest_round: dict[int, int] = {}
        self.backwards = 0
        self._devices = devices
        self._transfers = transfers
        self._blobs: dict[bytes, bytes] = {}
        self._target = np.array([member.node.random.gauss(0, 1) for _ in range(PARAMETERS)], np.float32)
        self._samples = member.node.random.randint(10, 500)
        self._speed = math.exp(member.node.random.gauss(0, TRAIN_SPREAD))
        devices[member.node_id] = self
        member.log.listeners.append(self)

    def _policy(self, manifest: Manifest) -> Decision:
        return Decision(Part.JOIN if manifest.data in self.data else Part.IGNORE)

    def create(self, manifest: Manifest, now: float) -> None:
        """Announce an application from this device."""
        advert = Advert(encode_record(manifest), 1, AppState.RUNNING, bytes(64), self.member.overlay.contact)
        self.learning.take_part(advert, now, observer=manifest.data not in self.data, owner=True)
        self.member.overlay.publish(advert, now)

    # Handler of the node

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        handled = self.learning.on_message(sender, message, now)
        self._watch()
        return handled

    def on_timer(self, key: TimerKey, now: float) -> bool:
        return self.learning.on_timer(key, now)

    def _watch(self) -> None:
        """A device must never show a lower round than before."""
        for app_id, app in self.learning.applications.items():
            before = self.highest_round.get(app_id, 0)
            self.backwards += app.ledger.round < before
            self.highest_round[app_id] = max(before, app.ledger.round)

    # Listener of the overlay

    def on_joined(self, now: float) -> None: ...

    def on_isolated(self, now: float) -> None: ...

    def on_zone(self, zone: int, now: float) -> None: ...

    def on_lookup(self, request: int, owner: Contact | None, hops: int, now: float) -> None: ...

    def on_advert(self, advert: Advert, now: float) -> None:
        self.learning.on_advert(advert, now)

    def on_root(self, app: int, now: float) -> None:
        self.learning.on_root(app, now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        self.learning.on_parent(app, parent, now)

    def on_orphaned(self, app: int, now: float) -> None:
        self.learning.on_orphaned(app, now)

    def on_dismissed(self, app: int, now: float) -> None:
        self.learning.on_dismissed(app, now)

    def on_help_wanted(self, app: int, scope: Scope, now: float) -> None:
        self.learning.on_help_wanted(app, now)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        self.learning.on_child(app, child, observer, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        self.learning.on_child_gone(app, child, now)

    # Effects

    @property
    def random(self) -> Random:
        return self.member.node.random

    def send(self, to: Contact, message: Message) -> None:
        self.member.node.send(to, message)

    def set_timer(self, key: TimerKey, at: float) -> None:
        self.member.node.set_timer(key, at)

    def cancel_timer(self, key: TimerKey) -> None:
        self.member.node.cancel_timer(key)

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        """Like blobs, outside the packet network: after the round trip and size / bandwidth, if the device lives."""
        receiver = self._devices.get(to.node_id)
        if receiver is None:
            return
        payload, sender = bytes(data), self.member.overlay.contact
        rtt_s = self.member.world.model.rtt_s(self.member.node.place, receiver.member.node.place)
        self._transfers.count += 1
        self._transfers.bytes += len(payload)
        # One after the other through this device's uplink, as a link keeps them.
        clock = self.member.world.clock
        self._uplink_free = max(self._uplink_free, clock.now) + len(payload) / BANDWIDTH_BYTES_S
        arrival = self._uplink_free + rtt_s / 2
        if receiver.site_line is not None and receiver.site_line is not self.site_line:
            arrival = receiver.site_line.carry(len(payload), arrival)
        if receiver.serving_bytes_s is not None:
            arrival = max(arrival, receiver._serving_free) + len(payload) / receiver.serving_bytes_s
            receiver._serving_free = arrival
        receiver._later(
            arrival - clock.now,
            lambda now: receiver.learning.on_bulk(sender, message, payload, now),
        )

    def uplink_bytes_s(self) -> float | None:
        return None

    def remember(self, app: int, data: Any, name: str = "feedback") -> None:
        self.memories[app, name] = bytes(data)

    def recall(self, app: int, token: Token) -> None:
        self._later(0.0, self.learning.on_recalled, app, token, self.memories.get((app, str(token[0]))))

    def _later(self, delay_s: float, call: Any, *arguments: Any) -> None:
        clock = self.member.world.clock

        def if_alive() -> None:
            if self.member.node.alive:
                call(*arguments, self.member.now)
                self._watch()

        clock.at(clock.now + delay_s, if_alive)

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        initial = np.zeros(travelling(manifest), "<f4").tobytes()
        self._later(0.5, self.learning.on_prepared, app, Prepared(self._hold(initial)))

    def release(self, app: int) -> None: ...

    def subscribe(self, app: int, parent: Contact) -> None: ...

    def unsubscribe(self, app: int) -> None: ...

    def broadcast(self, app: int, blob: BlobRef) -> None: ...

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        give_up = self.member.now + FETCH_PATIENCE_S
        self._later(0.0, self._try_to_fetch, app, token, blob, sources, give_up)

    def _try_to_fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], give_up: float, now: float
    ) -> None:
        if blob.id in self._blobs:
            self.learning.on_fetched(app, token, blob, self._blobs[blob.id], now)
            return
        for source in sources:
            holder = self._devices.get(source.node_id)
            if holder is not None and holder.member.node.alive and blob.id in holder._blobs:
                node, other = self.member.node, holder.member.node
                rtt_s = self.member.world.model.rtt_s(node.place, other.place)
                self._later(rtt_s + blob.size / BANDWIDTH_BYTES_S, self._arrived, app, token, blob, holder)
                return
        if now < give_up:
            self._later(FETCH_RETRY_S, self._try_to_fetch, app, token, blob, sources, give_up)
        else:
            self.learning.on_fetched(app, token, blob, None, now)

    def _arrived(self, app: int, token: Token, blob: BlobRef, holder: LearningDevice, now: float) -> None:
        data = holder._blobs.get(blob.id) if holder.member.node.alive else None
        if data is not None:
            self._blobs[blob.id] = data
            self._transfers.count += 1
            self._transfers.bytes += blob.size
        self.learning.on_fetched(app, token, blob, data, now)

    def keep(self, app: int, token: Token, data: Any) -> None:
        self._later(0.001, self.learning.on_kept, app, token, self._hold(bytes(memoryview(data).cast("B"))))

    def renew(self, app: int, token: Token, start: BlobRef, model: Any, mean: Any) -> None:
        """Simulated devices have no owner with policies."""
        self._later(0.001, self.learning.on_not_kept, app, token, "no policy")

    def _hold(self, data: bytes) -> BlobRef:
        ref = ref_of(data)
        self._blobs[ref.id] = data
        return ref

    def discard(self, app: int, blob: BlobRef) -> None:
        shared = any(other.id != app and blob in other.ledger.blobs() for other in self.learning.applications.values())
        if not shared:
            self._blobs.pop(blob.id, None)

    def train(self, app: int, job: TrainJob) -> None:
        result = self.result(app, self._blobs[job.model.id], job)
        self._later(TRAIN_S * self._speed, self.learning.on_trained, app, job.tag, result)

    def result(self, app: int, data: bytes, job: TrainJob) -> TrainResult:
        """What training from this model gives."""
        manifest = self.learning.applications[app].manifest
        target = np.resize(self._target, manifest.parameters)
        return stand_in.train(manifest.strategy, job, data, target, self._samples)

    def save(self, app: int, progress: Progress) -> None:
        self.saved[app] = progress
