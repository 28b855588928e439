"""The scenario of `edgefl sim fleet`: a fleet joins, trees form, a part of it vanishes, the rest repairs itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from edgefl.sim.world import World


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


def run_fleet(
    *,
    nodes: int = 300,
    apps: int = 3,
    members: int = 60,
    churn: float = 0.5,
    loss: float = 0.0,
    seed: int = 1,
    lookups: int = 300,
    zones: bool = True,
    wire: bool = False,
    report: Report = lambda what, share: None,
) -> dict[str, Any]:
    """The overlay under the failure of a share `churn` of all devices at once, with packet `loss` throughout.

    Returns the document of `edgefl sim fleet` (JSON types only). Virtual time; CPU time is measured.
    """
    started = time.process_time()
    fleet = World(devices=nodes, seed=seed, zones=zones, wire=wire)
    fleet.network.faults.loss = loss
    length_s = JOIN_S + IDLE_S + SETTLE_S + END_S

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

    progress("trees form")
    app_ids = [app_id(index, seed) for index in range(apps)]
    joins = [(app, m) for app in app_ids for m in fleet.random.sample(fleet.alive(), min(members, nodes))]
    fleet.random.shuffle(joins)
    start = fleet.clock.now
    for index, (app, member) in enumerate(joins):
        fleet.clock.run(start + ATTACH_S * index / len(joins))
        member.overlay.join_tree(app, fleet.clock.now)
    fleet.clock.run(start + SETTLE_S - METER_S)
    bytes_before = fleet.network.bytes
    fleet.clock.run(start + SETTLE_S)
    tree_bytes_s = (fleet.network.bytes - bytes_before) / nodes / METER_S
    settled = [fleet.tree(app) for app in app_ids]
    progress("lookups")
    correct = {"before": fleet.lookups(lookups)}

    victims = fleet.random.sample(fleet.alive(), round(nodes * churn))
    fleet.kill(victims)
    failed_at = fleet.clock.now
    for after_s in AFTER_S:
        progress(f"{after_s:.0f} s after the failure")
        fleet.clock.run(failed_at + after_s)
        correct[f"after_{after_s:.0f}s"] = fleet.lookups(lookups)
    progress("judging")
    fleet.clock.run(failed_at + END_S)
    final = [fleet.tree(app) for app in app_ids]
    hops = [hops for m in fleet.members.values() for owner, hops in m.log.lookups.values() if owner is not None]
    return {
        "nodes": nodes,
        "seed": seed,
        "churn": churn,
        "loss": loss,
        "joined": joined,
        "lookups_correct": {name: round(value, 4) for name, value in correct.items()},
        "lookup_hops_mean": round(sum(hops) / max(1, len(hops)), 3),
        "apps": [tree.as_dict() for tree in final],
        "apps_before": [tree.as_dict() for tree in settled],
        "cycles": fleet.cycles,
        "bytes_per_node_s": round(tree_bytes_s, 2),
        "idle_bytes_per_node_s": round(idle_bytes_s, 2),
        "messages": fleet.network.messages,
        "events": fleet.clock.events,
        "seconds": round(fleet.clock.now, 1),
        "cpu_seconds": round(time.process_time() - started, 2),
    }
