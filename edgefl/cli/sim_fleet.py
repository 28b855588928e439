"""What `edgefl sim fleet` prints: the figures of a run, its repair over time, its trees."""

from __future__ import annotations

from typing import Any

import click

from edgefl.cli.output import emit_pairs, emit_table

SHOWN_FROM_S, SHOWN_TO_S = -5.0, 95.0
"""The part of a timeline that is printed, every second sample; JSON has all of it."""


def _faults(document: dict[str, Any]) -> str:
    if document["scenario"]:
        counts = ", ".join(f"{count} {name}" for name, count in document["devices"].items())
        what = f"{', '.join(phase['kind'] for phase in document['scenario'])} ({counts})"
    else:
        what = f"{document['churn']:.0%} vanish at once"
    return f"{what}, {document['loss']:.1%} of packets lost"


def _over_time(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def show_fleet(document: dict[str, Any]) -> None:
    """The document of a run, for people."""
    correct = document["lookups_correct"]
    emit_pairs(
        [
            ("devices", f"{document['nodes']} ({document['joined']} joined), seed {document['seed']}"),
            ("faults", _faults(document)),
            ("lookups correct", _over_time({name: f"{value:.3f}" for name, value in correct.items()})),
            ("hops of a lookup", document["lookup_hops_mean"]),
            ("whole trees", f"{_over_time(document['trees_whole'])} of {len(document['apps'])}"),
            ("cycles ever", document["cycles"]),
            (
                "traffic per device",
                f"{document['idle_bytes_per_node_s']} B/s idle, {document['bytes_per_node_s']} B/s with trees",
            ),
            (
                "memory per device",
                f"{document['object_bytes_per_node']:,} B of objects, {document['packed_bytes_per_node']:,} B packed",
            ),
            (
                "simulated",
                f"{document['seconds']} s, {document['events']} events, {document['cpu_seconds']} s of processor, "
                f"digest {document['digest']}",
            ),
        ]
    )
    click.echo()
    _show_timeline(document["timeline"])
    if document["apps"]:
        click.echo()
        header = ["APPLICATION", "MEMBERS", "ATTACHED", "ROOTS", "DEPTH MEAN", "DEPTH MAX"]
        trained = "rounds" in document["apps"][0]
        emit_table(
            [
                [app["app"], app["members"], app["attached"], app["roots"], app["depth"]["mean"], app["depth"]["max"]]
                + (
                    [app["rounds"], app["finished"], app["backwards"], app["loss"]["first"], app["loss"]["last"]]
                    if trained
                    else []
                )
                for app in document["apps"]
            ],
            header + (["ROUNDS", "FINISHED", "BACKWARDS", "LOSS FIRST", "LOSS LAST"] if trained else []),
        )


def _show_timeline(timeline: dict[str, Any]) -> None:
    columns = ("time_s", "alive", "lookups_correct", "trees_whole", "attached", "depth_max", "bytes_per_node_s")
    rows = list(zip(*(timeline[name] for name in columns), strict=True))
    last_s = SHOWN_TO_S + timeline["faults_s"]
    shown = [row for row in rows if SHOWN_FROM_S <= row[0] <= last_s]
    emit_table(
        [[f"{row[0]:+.0f}", *row[1:]] for row in shown[::2]],
        ["SECONDS", "DEVICES", "LOOKUPS RIGHT", "TREES WHOLE", "MEMBERS ATTACHED", "DEPTH MAX", "B/S PER DEVICE"],
    )
