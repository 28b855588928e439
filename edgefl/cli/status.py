"""Looking at the daemon of this device: status, members, peers, zones, rtt, lookup, tree, wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.daemon_option import client, state_option
from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors
from edgefl.pictures import draw_edges, figures


@click.command()
@state_option
@json_option
@report_errors
def status(state: Path | None, as_json: bool) -> None:
    """Identity, neighbours, applications, load and problems of this device."""
    found = client(state).call("status")
    if as_json:
        emit_json(found)
        return
    emit_pairs(
        [
            ("node", found["node"]),
            ("address", found["address"]),
            ("fleet", found["fleet"]),
            ("state", found["state"]),
            ("role", role_line(found)),
            ("capacity", f"{found['capacity']['class']} ({found['capacity']['chosen']})"),
            ("site", found["site"] or None),
            ("zone", f"{found['zone']} ({found['zone_chosen']})"),
            ("contacts", found["contacts"]),
            ("zone ring", ", ".join(found["zone_ring"]) or None),
            ("global ring", ", ".join(found["global_ring"]) or None),
            ("data", ", ".join(f"{name} ({source})" for name, source in found["data"].items()) or None),
            ("uplink", uplink_line(found["plane"])),
            ("training", training_line(found["limits"])),
            *([("transfer", transfer_line(found["limits"]["transfer"]))] if found["limits"]["transfer"] else []),
            *([("takes no children", found["routing"]["why_not"])] if found["routing"]["why_not"] else []),
            *([("waiting for approval", found["pending"])] if found["pending"] else []),
            *[("problem", problem) for problem in found["problems"]],
        ]
    )
    if found["applications"]:
        click.echo()
        emit_table([application_row(app) for app in found["applications"]], APPLICATION_HEADER)


def role_line(found: dict[str, Any]) -> str:
    """What this device is to others, and why it is only a leaf."""
    if found["role"] != "leaf":
        return str(found["role"])
    spent = (found["limits"]["transfer"] or {}).get("spent")
    return "leaf (its transfer is used up)" if spent else "leaf (nobody reaches it: see edgefl doctor)"


def training_line(limits: dict[str, Any]) -> str | None:
    """What this device trains now, or why it does not, for people."""
    paused, waiting = limits["paused"], limits["waiting"]
    behind = f"; waiting: {', '.join(waiting)}" if waiting else ""
    if paused is not None:
        return f"paused for {paused['for_s']:.0f} s: {paused['why']}{behind}"
    return f"{limits['training']}{behind}" if limits["training"] else None


def transfer_line(transfer: dict[str, Any]) -> str:
    """How much of its bytes this device has used, for people."""
    used, limit = transfer["used_bytes"] / 1e6, transfer["limit_bytes"] / 1e6
    return f"{used:,.1f} of {limit:,.1f} MB this {transfer['period']}"


def uplink_line(plane: dict[str, Any]) -> str | None:
    """How fast models leave this device, for people."""
    measured, limit = plane["serving_rate_bytes_s"], plane["uplink_limit_bytes_s"]
    parts = [f"{measured * 8 / 1e6:.1f} Mbit/s measured"] if measured is not None else []
    parts += [f"{limit * 8 / 1e6:.1f} Mbit/s at the most"] if limit else []
    return ", ".join(parts) or None


APPLICATION_HEADER = ("ID", "NAME", "PART", "ROUND", "ACCURACY", "LOSS", "PARENT", "CHILDREN", "REMARK")


def application_row(app: dict[str, Any]) -> tuple[object, ...]:
    """One line about an application, for people."""
    metrics = app.get("metrics") or {}
    part = "root" if app.get("is_root") else app["stage"]
    remark = app.get("problem") or ("finished" if app.get("finished") else app["wanted"])
    return (
        app["id"],
        app["name"],
        part,
        f"{app['round']}/{app['rounds']}" if "round" in app else None,
        f"{metrics['accuracy']:.3f}" if "accuracy" in metrics else None,
        f"{metrics['loss']:.4f}" if "loss" in metrics else None,
        app.get("parent"),
        len(app["children"]) if "children" in app else None,
        remark,
    )


@click.command()
@state_option
@json_option
@report_errors
def peers(state: Path | None, as_json: bool) -> None:
    """The devices that this one knows."""
    rows = client(state).call("peers")
    if as_json:
        emit_json({"peers": rows})
    else:
        emit_table(
            [(row["node"], row["address"], row["zone"], row["role"], row["rtt_ms"]) for row in rows],
            ("NODE", "ADDRESS", "ZONE", "ROLE", "RTT MS"),
        )


@click.command()
@state_option
@json_option
@report_errors
def members(state: Path | None, as_json: bool) -> None:
    """The neighbours of this device in the rings of its zone and of the fleet, and how they are."""
    found = client(state).call("members")
    if as_json:
        emit_json(found)
        return
    emit_pairs([("devices, about", found["fleet_estimate"])])
    click.echo()
    emit_table(
        [
            (
                row["node"],
                row["state"],
                ", ".join(row["rings"]),
                row["address"],
                row["zone"],
                row["role"],
                row["capacity"],
                row["rtt_ms"],
            )
            for row in found["members"]
        ],
        ("NODE", "STATE", "RINGS", "ADDRESS", "ZONE", "ROLE", "CAPACITY", "RTT MS"),
    )


@click.command()
@click.argument("node")
@click.option("--count", default=5, type=click.IntRange(1, 100), show_default=True, help="Pings.")
@state_option
@json_option
@report_errors
def rtt(node: str, count: int, state: Path | None, as_json: bool) -> None:
    """Measure the round-trip time to NODE: the beginning of an id known here, or the whole id of any device."""
    found = client(state).call("rtt", node=node, count=count)
    if as_json:
        emit_json(found)
        return
    samples = ", ".join("lost" if sample is None else f"{sample:.2f}" for sample in found["samples_ms"])
    estimate = found["estimate_ms"]
    emit_pairs(
        [
            ("node", f"{found['node']}@{found['address']} in zone {found['zone']}"),
            ("rtt", f"{found['min_ms']:.2f} ms least, {found['median_ms']:.2f} median, {found['max_ms']:.2f} most"),
            ("pings", f"{samples} ms"),
            ("by coordinates", None if estimate is None else f"{estimate:.2f} ms (an estimate)"),
        ]
    )


@click.command()
@state_option
@json_option
@report_errors
def zones(state: Path | None, as_json: bool) -> None:
    """The zones that this device knows, and how it came to its own."""
    found = client(state).call("zones")
    if as_json:
        emit_json(found)
        return
    emit_pairs([("zone", f"{found['zone']} ({found['chosen']})"), ("devices, about", found["fleet_estimate"])])
    click.echo()
    emit_table(
        [
            (
                f"{row['zone']}{' *' if row['own'] else ''}",
                row["members"],
                row["rtt_ms"],
                ", ".join(row["anchors"]) or None,
            )
            for row in found["zones"]
        ],
        ("ZONE", "MEMBERS", "RTT MS", "ANCHORS"),
    )


@click.command()
@click.argument("key")
@state_option
@json_option
@report_errors
def lookup(key: str, state: Path | None, as_json: bool) -> None:
    """Which device is responsible for KEY (16 hexadecimal digits)?"""
    found = client(state).call("lookup", key=key)
    if as_json:
        emit_json(found)
    else:
        emit_pairs([("owner", found["owner"]["node"]), ("address", found["owner"]["address"]), ("hops", found["hops"])])


@click.command()
@click.argument("app")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the whole tree into a PNG or SVG file, its edges coloured by what they cost.",
)
@state_option
@json_option
@report_errors
def tree(app: str, plot: Path | None, state: Path | None, as_json: bool) -> None:
    """This device's place in the tree of APP.

    With --plot or --json all devices of the tree are asked where they stand (1024 at most).
    """
    if plot is not None:
        figures()  # an error now rather than after the walk
    found = client(state).call("tree", app=app, whole=as_json or plot is not None)
    if plot is not None:
        draw_edges(found, plot)
        note(f"drawn: {plot}")
    if as_json:
        emit_json(found)
        return
    emit_pairs(
        [
            ("application", f"{found['name']} ({found['id']})"),
            ("root", f"{found['root']}{' (this device)' if found['is_root'] else ''}"),
            ("parent", found["parent"]),
            ("depth", found["depth"]),
            ("height", found["height"]),
            ("members below", found["members"]),
            ("epsilon", found["epsilon"]["meaning"]),
        ]
    )
    if found["branches"]:
        click.echo()
        emit_table(
            [
                (b["node"], b["address"], b["rtt_ms"], b["members"], b["height"], b["observer"])
                for b in found["branches"]
            ],
            ("CHILD", "ADDRESS", "RTT MS", "MEMBERS", "HEIGHT", "OBSERVER"),
        )


APPEAR_S = 0.1
"""Between two looks for a daemon that was started a moment ago."""


@click.command()
@click.argument("until", type=click.Choice(["ready", "round", "done"]))
@click.argument("number", type=int, required=False, default=0)
@click.option("--app", help="Application (name or id); without it all of this device.")
@click.option("--timeout", "timeout_s", default=60.0, help="Seconds to wait.")
@state_option
@json_option
@report_errors
def wait(until: str, number: int, app: str | None, timeout_s: float, state: Path | None, as_json: bool) -> None:
    """Wait until the daemon is `ready` (it may have to be started yet), until `round N` is done, or until the
    applications are `done`."""
    import time

    from edgefl.errors import UnreachableError

    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            found = client(state).call("wait", until=until, app=app, round=number, timeout_s=left_s)
            break
        except UnreachableError:
            if until != "ready" or not left_s:
                raise
            time.sleep(APPEAR_S)
    if as_json:
        emit_json(found)
