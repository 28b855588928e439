"""How much longer do many applications take together than one of them alone, in trees and below a central server?

In every run the applications are paused until all of their trees are whole, so joining is not counted. Then they are
started: one after the other, which gives the time of each alone, or all at once. An application's time is from its
start to the end of its final evaluation.

No system is faster than its busiest device: what its processor has to compute and its uplink has to send, for all
applications together, and the slowest application alone, are the bound that the trees are held against.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from edgefl.errors import TryAgainError
from edgefl.sim.apps.central import Server, Star, under_star
from edgefl.sim.apps.device import AppDevice
from edgefl.sim.network import Handler
from edgefl.sim.train.traces import Trace
from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.sim.world import Member, World
from edgefl.wire import encode_record
from edgefl.wire.application import Advert, AppState, Manifest

JOIN_S, SETTLE_S = 30.0, 30.0
WHOLE_S = 600.0
"""Trees are whole after seconds; a minute is much, ten are a mistake."""

PATIENCE_S = 7 * 24 * 3600.0
"""Of virtual time for a run; only a mistake takes longer."""

SLICE_S = 1.0

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated. Each application has `members` devices: dealt out, so that all devices are in as many
    applications (or one more), or with `at_random` drawn anew for each. Links in bytes per second."""

    nodes: int = 64
    apps: int = 20
    members: int = 16
    rounds: int = 5
    parameters: int = 262_144
    steps: int = 20
    quorum: float = 1.0
    deadline_s: float = 3600.0
    server_uplink_bytes_s: float = 0.0
    """0: that of a device."""
    server_downlink_bytes_s: float = 0.0
    at_random: bool = False
    seed: int = 1


class Fleet:
    """Devices and applications that are ready and paused; with `central`, below a server."""

    kind: type[AppDevice] = AppDevice

    def __init__(self, setting: Setting, traces: list[Trace], *, central: bool) -> None:
        self.setting = setting
        self.devices: dict[int, LearningDevice] = {}
        self.transfers = Transfers()
        self.started: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self._traces = iter([*traces, self._server_trace(traces)] if central else traces)
        self._central = central
        self._nodes = setting.nodes + central
        self._equipped = 0
        self.world = World(devices=self._nodes, seed=setting.seed, zones=False, equip=self._equip)
        self.world.grow(self._nodes, JOIN_S)
        self.world.run(SETTLE_S)
        learners = [device for device in self.devices.values() if isinstance(device, AppDevice)]
        self.learners = learners[: setting.nodes]
        self.star: Star | None = None
        if central:
            self.star = Star(learners[-1])
            for device in learners:
                under_star(self.star, device)
        self.manifests = [self._create(index, group) for index, group in enumerate(groups(setting))]
        self._wait_until_whole()

    def _server_trace(self, traces: list[Trace]) -> Trace:
        setting = self.setting
        uplink = setting.server_uplink_bytes_s or sorted(trace.uplink_bytes_s for trace in traces)[len(traces) // 2]
        downlink = setting.server_downlink_bytes_s or sorted(t.downlink_bytes_s for t in traces)[len(traces) // 2]
        return Trace(traces[0].step_s, uplink, downlink, 0.0)

    def _equip(self, member: Member) -> list[Handler]:
        self._equipped += 1
        kind = Server if self._central and self._equipped == self._nodes else self.kind
        trace = next(self._traces)
        return [kind(member, self.devices, self.transfers, trace, steps=self.setting.steps, ended=self._on_end)]

    def _on_end(self, app: int, now: float) -> None:
        self.ended.setdefault(app, now)

    def _advert(self, manifest: Manifest, version: int, state: AppState) -> Advert:
        holder = self.learners[0].member.overlay.contact
        return Advert(encode_record(manifest), version, state, bytes(64), holder)

    def _manifest(self, index: int) -> Manifest:
        setting, name = self.setting, f"application-{index}"
        return make_application(
            name,
            name,
            rounds=setting.rounds,
            min_members=setting.members,
            quorum=setting.quorum,
            seed=setting.seed * 1000 + index,
            parameters=setting.parameters,
            deadline_s=setting.deadline_s,
        )

    def _create(self, index: int, group: list[int]) -> Manifest:
        manifest = self._manifest(index)
        members = [self.learners[number] for number in group]
        if self.star is not None:
            members = [self.star.server, *members]
        advert = self._advert(manifest, 1, AppState.PAUSED)
        for device in members:
            device.data.add(manifest.data)
            device.learning.on_advert(advert, self.world.clock.now)
        return manifest

    def _wait_until_whole(self) -> None:
        give_up = self.world.clock.now + WHOLE_S
        while not all(self._whole(manifest.app_id) for manifest in self.manifests):
            if self.world.clock.now > give_up:
                raise TryAgainError(f"the trees were not whole after {WHOLE_S:g} s", hint="use more members, or a seed")
            self.world.run(SLICE_S)
        self.world.run(SETTLE_S)

    def _whole(self, app: int) -> bool:
        if self.star is not None:
            return len(self.star.devices.get(app, [])) == self.setting.members
        tree = self.world.tree(app)
        return tree.whole and tree.members == tree.counted == self.setting.members

    def start(self, manifest: Manifest) -> None:
        """Its rounds begin."""
        self.started[manifest.app_id] = self.world.clock.now
        self.say(manifest, 2, AppState.RUNNING)

    def say(self, manifest: Manifest, version: int, state: AppState) -> None:
        """The owner's wish reaches all members at this moment."""
        advert = self._advert(manifest, version, state)
        for device in self.devices.values():
            if manifest.app_id in device.learning.applications:
                device.learning.on_advert(advert, self.world.clock.now)

    def finish(self) -> None:
        """Let time pass until everything that was started has ended. Raises TryAgainError."""
        give_up = self.world.clock.now + PATIENCE_S
        while self.started.keys() - self.ended.keys():
            if self.world.clock.now > give_up:
                raise TryAgainError(f"applications did not end within {PATIENCE_S:g} s", hint="use fewer rounds")
            self.world.run(SLICE_S)

    def seconds(self) -> list[float]:
        """Of each application, from its start to its end."""
        return [self.ended[m.app_id] - self.started[m.app_id] for m in self.manifests]


def groups(setting: Setting) -> list[list[int]]:
    """The members of each application as numbers of devices: the same in trees and below a server."""
    random = Random(f"members {setting.seed}")
    if setting.at_random:
        return [random.sample(range(setting.nodes), setting.members) for _ in range(setting.apps)]
    pile: list[int] = []
    dealt = []
    for _ in range(setting.apps):
        group: list[int] = []
        while len(group) < setting.members:
            if not any(number not in group for number in pile):
                pile += random.sample(range(setting.nodes), setting.nodes)
            group.append(next(number for number in pile if number not in group))
            pile.remove(group[-1])
        dealt.append(group)
    return dealt


def _run(fleet: Fleet, *, together: bool) -> tuple[list[float], float]:
    """(seconds of each application, seconds from the first start to the last end)."""
    begin = fleet.world.clock.now
    for manifest in fleet.manifests:
        fleet.start(manifest)
        if not together:
            fleet.finish()
    fleet.finish()
    seconds = fleet.seconds()
    # In turn, what passes between one end and the next start is only the grain of this simulation.
    return seconds, max(fleet.ended.values()) - begin if together else sum(seconds)


def run_apps(setting: Setting, traces: list[Trace], report: Report = lambda what, share: None) -> dict[str, Any]:
    """The document of `edgefl sim apps` (JSON types only)."""
    began = time.process_time()
    found: dict[str, tuple[list[float], float]] = {}
    counts: dict[str, Any] = {}
    runs = [(central, together) for central in (False, True) for together in (False, True)]
    for number, (central, together) in enumerate(runs):
        name = f"{'server' if central else 'trees'} {'together' if together else 'in turn'}"
        report(name, number / len(runs))
        fleet = Fleet(setting, traces, central=central)
        found[name] = _run(fleet, together=together)
        counts[name] = _counts(fleet)
    alone, one_after_another = found["trees in turn"]
    together_s, total_s = found["trees together"]
    one_s = sum(alone) / len(alone)
    bound_s = max(
        max(alone), counts["trees together"]["busiest_device_s"], counts["trees together"]["busiest_uplink_s"]
    )
    return {
        **asdict(setting),
        "one_s": {"mean": round(one_s, 2), "longest": round(max(alone), 2)},
        "together_s": {"mean": round(sum(together_s) / len(together_s), 2), "longest": round(total_s, 2)},
        "over_one": {
            "mean": round(sum(together_s) / sum(alone), 3),
            "longest": round(total_s / max(alone), 3),
            "longest_over_mean": round(total_s / one_s, 3),
        },
        "bound_s": round(bound_s, 2),
        "over_bound": round(total_s / bound_s, 3),
        "in_turn_s": round(one_after_another, 2),
        "server": {
            "one_s": round(sum(found["server in turn"][0]) / setting.apps, 2),
            "sequential_s": round(found["server in turn"][1], 2),
            "parallel_s": round(found["server together"][1], 2),
            "sequential_over_trees": round(found["server in turn"][1] / total_s, 2),
            "parallel_over_trees": round(found["server together"][1] / total_s, 2),
        },
        "runs": counts,
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def _counts(fleet: Fleet) -> dict[str, Any]:
    """What a run has cost, and how evenly."""
    seconds = [device.processor.busy_s for device in fleet.learners]
    uplinks = [device.uplink.sent_bytes / device.uplink.bytes_s for device in fleet.learners]
    server = None if fleet.star is None else fleet.star.server.uplink
    records = [
        record
        for device in fleet.devices.values()
        for app in device.learning.applications.values()
        if app.tree is not None and app.tree.is_root
        for record in app.ledger.history.all()
        if record.round
    ]
    return {
        "device_seconds": round(sum(seconds), 1),
        "busiest_device_s": round(max(seconds), 1),
        "sent_bytes": sum(device.uplink.sent_bytes for device in fleet.learners),
        "busiest_uplink_s": round(max(uplinks), 1),
        "server_uplink_s": 0.0 if server is None else round(server.sent_bytes / server.bytes_s, 1),
        "rounds": len(records),
        "participants": round(sum(record.participants for record in records) / max(1, len(records)), 2),
    }


def median_links(traces: list[Trace]) -> list[Trace]:
    """The same devices with links that are all the same."""
    uplink = sorted(trace.uplink_bytes_s for trace in traces)[len(traces) // 2]
    downlink = sorted(trace.downlink_bytes_s for trace in traces)[len(traces) // 2]
    return [replace(trace, uplink_bytes_s=uplink, downlink_bytes_s=downlink) for trace in traces]


def median_steps(traces: list[Trace]) -> list[Trace]:
    """The same devices with processors that are all the same."""
    step_s = sorted(trace.step_s for trace in traces)[len(traces) // 2]
    return [replace(trace, step_s=step_s) for trace in traces]
