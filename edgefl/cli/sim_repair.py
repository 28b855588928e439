"""`edgefl sim fleet --repair`: what it runs, and what it prints."""

from __future__ import annotations

from pathlib import Path

from edgefl.cli.output import emit_json, emit_pairs
from edgefl.cli.progress import end_progress, reporter


def _seconds(spread: dict[str, float]) -> str:
    if not spread:
        return "never"
    return f"{spread['median']:.2f} s median, {spread['p99']:.2f} s p99, {spread['max']:.2f} s at most"


def repair_run(
    nodes: int,
    apps: int,
    members: int,
    churn: float | None,
    loss: float,
    scenario_file: Path | None,
    matrix: list[list[float]] | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run it and show it. Raises UsageError for what does not go together."""
    from edgefl.errors import UsageError
    from edgefl.sim.repair import run_repair

    if scenario_file is not None or not apps:
        raise UsageError("--repair is a scenario of its own, and needs applications", hint="leave --scenario out")
    document = run_repair(
        nodes=nodes,
        apps=apps,
        members=members,
        share=0.05 if churn is None else churn,
        loss=loss,
        seed=seed,
        matrix=matrix,
        report=reporter(),
    )
    end_progress()
    if as_json:
        emit_json(document)
        return
    lost = document["vanished_per_tree"]
    emit_pairs(
        [
            ("devices", f"{nodes}, seed {seed}, {apps} trees of {document['members']} members"),
            (
                "vanished at once",
                f"{document['vanished']} devices: {lost['median']:g} members of a tree, {lost['max']:g} at most; "
                f"{document['trees_that_lost_their_root']} trees lost their root",
            ),
            ("got the next broadcast", f"{document['reached']} of {document['live_members']} live members"),
            ("  last member of a tree", _seconds(document["tree_reached_s"])),
            ("whole trees", f"{document['whole_before']} before, {document['trees_whole']} after, of {apps}"),
            ("  whole again", _seconds(document["tree_whole_s"])),
            ("cycles ever", document["cycles"]),
            ("while rounds are open", f"{document['open_bytes_per_edge_s']} B/s for each edge"),
            (
                "simulated",
                f"{document['seconds']} s, {document['cpu_seconds']} s of processor, digest {document['digest']}",
            ),
        ]
    )
