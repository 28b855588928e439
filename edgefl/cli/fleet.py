"""`edgefl fleet`: make a fleet, invite, approve and revoke devices. Needs the fleet's key, on its owner's machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.daemon_option import client, state_option
from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors

key_option = click.option(
    "--fleet",
    "key_path",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="The fleet's key file or its directory.  [default: /etc/edgefl for root, ~/.config/edgefl otherwise]",
)


def _load(key_path: Path | None) -> Any:
    from edgefl.config import default_config
    from edgefl.identity.fleet import FleetKey

    return FleetKey.load(key_path or default_config())


@click.group()
def fleet() -> None:
    """Make a fleet; invite, approve and revoke its devices."""


@fleet.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to put the key.  [default: the configuration directory]"
)
@json_option
@report_errors
def new(out: Path | None, as_json: bool) -> None:
    """Make a fleet: its key, readable by you alone. Whoever has it decides who takes part: keep a copy."""
    from edgefl.config import default_config
    from edgefl.identity.fleet import FLEET_FILE, FleetKey
    from edgefl.identity.token import fingerprint

    directory = (out or default_config()).absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = FleetKey.create(directory)
    path = directory / FLEET_FILE
    if as_json:
        emit_json({"fleet": fingerprint(key.public), "key": str(path)})
        return
    emit_pairs([("fleet", fingerprint(key.public)), ("key", path)])
    note("next: edgefl join --first")


@fleet.command()
@click.option(
    "--bootstrap", multiple=True, metavar="HOST:PORT", help="Doors that the token names.  [default: this device's own]"
)
@click.option("--site", default="", metavar="NAME", help="Site of the devices that join with it.")
@click.option("--uses", default=0, help="How many devices may join with it; 0 means any number.")
@key_option
@state_option
@json_option
@report_errors
def invite(
    bootstrap: tuple[str, ...], site: str, uses: int, key_path: Path | None, state: Path | None, as_json: bool
) -> None:
    """Print a join token. Whoever has it can join: hand it on like a password."""
    from edgefl.config import split_address
    from edgefl.identity.token import Bootstrap, describe
    from edgefl.wire import parse_node_name

    key = _load(key_path)
    doors = [Bootstrap(*split_address(text)) for text in bootstrap]
    if not doors:
        own = client(state).call("status")
        doors = [Bootstrap(*split_address(own["address"]), parse_node_name(own["node"]))]
    token = key.invite(doors, site=site, uses=uses)
    if as_json:
        emit_json({"token": token.text, **describe(token)})
    else:
        click.echo(token.text)


@fleet.command()
@state_option
@json_option
@report_errors
def pending(state: Path | None, as_json: bool) -> None:
    """List the devices that wait for approval."""
    rows = client(state).call("fleet.pending")
    if as_json:
        emit_json({"pending": rows})
    elif rows:
        emit_table([(row["node"], row["host"], row["site"]) for row in rows], ("NODE", "SEEN FROM", "SITE"))
    else:
        note("nobody waits")


@fleet.command()
@click.argument("node")
@key_option
@state_option
@json_option
@report_errors
def approve(node: str, key_path: Path | None, state: Path | None, as_json: bool) -> None:
    """Admit the device NODE, which has asked without a token."""
    import base64

    from edgefl.errors import UsageError
    from edgefl.identity.admission import Pending
    from edgefl.wire import decode_record, encode_record

    key = _load(key_path)
    daemon = client(state)
    rows = [row for row in daemon.call("fleet.pending") if row["node"].startswith(node.lower())]
    if len(rows) != 1:
        what = "several devices wait" if rows else "no device waits"
        raise UsageError(f"{what} under {node!r}", hint="edgefl fleet pending lists them")
    request = decode_record(Pending, base64.b64decode(rows[0]["request"]))
    certificate = key.approve(request.claim())
    daemon.call("fleet.approve", certificate=base64.b64encode(encode_record(certificate)).decode())
    if as_json:
        emit_json({"approved": rows[0]["node"]})
    else:
        click.echo(f"approved {rows[0]['node']}: it joins when it knocks again, in a few seconds")


@fleet.command()
@click.argument("who")
@key_option
@state_option
@json_option
@report_errors
def revoke(who: str, key_path: Path | None, state: Path | None, as_json: bool) -> None:
    """Shut out WHO: a device (16 hexadecimal digits), or all devices of a token (its serial, 32 digits)."""
    import base64

    from edgefl.errors import UsageError
    from edgefl.identity.revocation import pack_revocations, unpack_revocations

    key = _load(key_path)
    try:
        bytes.fromhex(who)
    except ValueError:
        raise UsageError(f"{who!r} is neither a node nor a serial", hint="edgefl peers lists nodes") from None
    if len(who) not in (16, 32):
        raise UsageError(
            f"{who!r} is neither a node nor a serial", hint="a node has 16 hexadecimal digits, a serial 32"
        )
    daemon = client(state)
    known = base64.b64decode(daemon.call("fleet.revocations")["revocations"])
    before = unpack_revocations(known, fleet=key.public) if known else None
    if len(who) == 16:
        news = key.revoke(before, nodes=[int(who, 16)])
    else:
        news = key.revoke(before, serials=[bytes.fromhex(who)])
    daemon.call("fleet.revoke", revocations=base64.b64encode(pack_revocations(news)).decode())
    if as_json:
        emit_json({"revoked": who, "version": news.version})
    else:
        click.echo(f"revoked {who} (list version {news.version}); the fleet is being told")
