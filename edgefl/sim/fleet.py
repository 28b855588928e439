"""The scenario of `edgefl sim fleet`: a fleet joins, applications train, a part of it vanishes, the rest repairs itself
and trains on to the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgefl.learning.forest.epoch import epoch_number
from edgefl.learning.metrics import mean
from edgefl.sim.faults import FaultInjector
from edgefl.sim.footprint import footprint
from edgefl.sim.network import Handler
from edgefl.sim.scenario import Scenario
from edgefl.sim.timeline import Timeline, load_document
from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.sim.world import Member, World


def app_id(index: int, seed: int) -> int:
    """An application id for a scenario."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest(), "big")


Report = Callable[[str, float], None]
"""Progress: what is going on, and how far the scenario is (0 to 1)."""

JOIN_S, IDLE_S, ATTACH_S, SETTLE_S, METER_S = 60.0, 120.0, 20.0, 90.0, 60.0
AFTER_S = (45.0, 70.0, 95.0)
END_S = 150.0
"""The scenario in seconds: joins, idleness, members join their trees within the first part of a time to settle;
traffic is metered in the last minute of idleness and of settling. Then a part of the fleet vanishes, lookups follow at
three moments, and in the end the trees are judged."""

TRAINING_LIMIT_S = 1800.0
"""When applications train, the scenario goes on until they have finished, but not for longer than this."""

QUORUM = 0.2
"""Of the simulated applications: half of the devices vanish at once, and a sample of them can lose more."""


def run_fleet(
    *,
    nodes: int = 300,
    apps: int = 3,
    members: int = 60,
    rounds: int = 0,
    churn: float = 0.5,
    loss: float = 0.0,
    seed: int = 1,
    lookups: int = 300,
    zones: bool = True,
    wire: bool = False,
    matrix: Sequence[Sequence[float]] | None = None,
    scenario: Scenario | None = None,
    report: Report = lambda what, share: None,
) -> dict[str, Any]:
    """The overlay under the failure of a share `churn` of all devices at once, with packet `loss` throughout.

    With a `scenario` its phases happen instead, and the three moments are counted from the end of the last one.
    `matrix` gives city RTTs in seconds instead of synthetic cities.

    With `rounds` the applications are found through the directory and trained by the shipped learning layer with a
    stand-in for the trainer (training.py); without, devices only form the trees. Returns the document of
    `edgefl sim fleet` (JSON types only). Virtual time; CPU time and the bytes of objects are measured.
    """
    started = time.process_time()
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()

    def equip(member: Member) -> list[Handler]:
        return [LearningDevice(member, learners, transfers)] if rounds else []

    fleet = World(devices=nodes, seed=seed, zones=zones, wire=wire, matrix=matrix, equip=equip)
    fleet.network.faults.loss = loss
    length_s = JOIN_S + IDLE_S + SETTLE_S + END_S + (0.0 if scenario is None else scenario.end)

    app_ids: list[int] = []
    timeline = Timeline(fleet, app_ids, seed)

    def progress(what: str) -> None:
        report(what, min(1.0, fleet.clock.now / length_s))

    progress("joining")
    fleet.grow(nodes, JOIN_S)
    fleet.run(IDLE_S - METER_S)
    progress("idle")
    bytes_before = fleet.network.bytes
    fleet.run(METER_S)
    idle_bytes_s = (fleet.network.bytes - bytes_before) / nodes / METER_S
    joined = sum(member.overlay.joined for member in fleet.alive())
    memory = footprint(fleet.alive())

    progress("trees form")
    start = fleet.clock.now
    chosen = [fleet.random.sample(fleet.alive(), min(members, nodes)) for _ in range(apps)]
    if rounds:
        app_ids += [_create(index, group, learners, rounds, seed, start) for index, group in enumerate(chosen)]
    else:
        app_ids += [app_id(index, seed) for index in range(apps)]
        joins = [(app, member) for app, group in zip(app_ids, chosen, strict=True) for member in group]
        fleet.random.shuffle(joins)
        for index, (app, member) in enumerate(joins):
            fleet.clock.run(start + ATTACH_S * index / len(joins))
            member.overlay.join_tree(app, fleet.clock.now)
    fleet.clock.run(start + SETTLE_S - METER_S)
    bytes_before = fleet.network.bytes
    sent_before = {member.node_id: member.node.sent_bytes for member in fleet.alive()}
    fleet.clock.run(start + SETTLE_S)
    load = load_document(fleet, sent_before, METER_S)
    tree_bytes_s = (fleet.network.bytes - bytes_before) / nodes / METER_S
    settled = fleet.trees(app_ids)
    progress("lookups")
    correct = {"before": fleet.lookups(lookups)}
    whole = {"before": sum(tree.whole for tree in settled)}

    counts: dict[str, int] = {}
    timeline.failing(0.0 if scenario is None else scenario.end)
    if scenario is None:
        fleet.kill(fleet.random.sample(fleet.alive(), round(nodes * churn)))
    else:
        progress("faults")
        counts = _suffer(fleet, scenario, learners if rounds else None)
    failed_at = fleet.clock.now
    for after_s in AFTER_S:
        progress(f"{after_s:.0f} s after the failure")
        fleet.clock.run(failed_at + after_s)
        whole[f"after_{after_s:.0f}s"] = sum(tree.whole for tree in fleet.trees(app_ids))
        correct[f"after_{after_s:.0f}s"] = fleet.lookups(lookups)
    progress("judging")
    fleet.clock.run(failed_at + END_S)
    while rounds and not _all_finished(fleet, learners) and fleet.clock.now < failed_at + TRAINING_LIMIT_S:
        progress("training")
        fleet.run(5.0)
    final = [tree.as_dict() for tree in fleet.trees(app_ids)]
    for document in final if rounds else ():
        document.update(_learned(int(document["app"], 16), fleet, learners))
    hops = [hops for m in fleet.members.values() for owner, hops in m.log.lookups.values() if owner is not None]
    return {
        "nodes": nodes,
        "seed": seed,
        "churn": churn if scenario is None else None,
        "loss": loss,
        "scenario": [] if scenario is None else scenario.documents(),
        "devices": {"alive": len(fleet.alive()), **counts},
        "joined": joined,
        "lookups_correct": {name: round(value, 4) for name, value in correct.items()},
        "trees_whole": whole,
        "lookup_hops_mean": round(sum(hops) / max(1, len(hops)), 3),
        "apps": final,
        "apps_before": [tree.as_dict() for tree in settled],
        "cycles": fleet.cycles,
        "timeline": timeline.document(),
        "load": load,
        "bytes_per_node_s": round(tree_bytes_s, 2),
        "idle_bytes_per_node_s": round(idle_bytes_s, 2),
        "packed_bytes_per_node": memory["packed_bytes"],
        "object_bytes_per_node": memory["objects_bytes"],
        "model_bytes": transfers.bytes,
        "messages": fleet.network.messages,
        "events": fleet.clock.events,
        "digest": f"{fleet.network.digest:08x}",
        "seconds": round(fleet.clock.now, 1),
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def _suffer(fleet: World, scenario: Scenario, learners: dict[int, LearningDevice] | None) -> dict[str, int]:
    """Let the scenario happen to its end. Devices that come back take part in what they took part in before."""

    def on_start(old: Member | None, member: Member) -> None:
        if old is None:
            return
        if learners is not None:
            learners[member.node_id].data |= learners[old.node_id].data
        else:
            for app in old.overlay.trees():
                member.overlay.join_tree(app, member.now)

    injector = FaultInjector(fleet, on_start)
    injector.schedule(scenario)
    fleet.run(scenario.end)
    return dict(injector.counts)


def _create(
    index: int, group: list[Member], learners: dict[int, LearningDevice], rounds: int, seed: int, now: float
) -> int:
    """Give the devices of a group data of their own kind, and let one of them announce the application for it."""
    data = f"data-{index}"
    for member in group:
        learners[member.node_id].data.add(data)
    manifest = make_application(
        f"application-{index}",
        data,
        rounds=rounds,
        min_members=max(1, len(group) * 9 // 10),
        quorum=QUORUM,
        seed=seed + index,
    )
    learners[group[0].node_id].create(manifest, now)
    return manifest.app_id


def _all_finished(fleet: World, learners: dict[int, LearningDevice]) -> bool:
    devices = [learners[member.node_id] for member in fleet.alive()]
    return all(app.ledger.finished for device in devices for app in device.learning.applications.values())


def _learned(app: int, fleet: World, learners: dict[int, LearningDevice]) -> dict[str, Any]:
    """What the live devices of an application have come to: `loss` is the mean over their held-back data, `backwards`
    how often a device showed a lower round than before."""
    devices = [learners[member.node_id] for member in fleet.alive()]
    parts = [device.learning.applications[app] for device in devices if app in device.learning.applications]
    history = max((part.ledger.history for part in parts), key=len)
    losses = [loss for record in history.all() if (loss := mean(record.metrics, "loss")) is not None]
    return {
        "rounds": max(part.ledger.round for part in parts),
        "finished": sum(part.ledger.finished for part in parts),
        "backwards": sum(device.backwards for device in devices),
        "epochs": epoch_number(max(part.ledger.epoch for part in parts)),
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)} if losses else {},
    }
