"""`edgefl doctor`: is this device fit, and which side blocks?"""

from __future__ import annotations

from pathlib import Path

import click

from edgefl.cli.daemon_option import state_option
from edgefl.cli.output import colour, emit_json, json_option, report_errors

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option(
    "--token", metavar="TEXT|file:PATH", envvar="EDGEFL_TOKEN", show_envvar=True, help="A join token to be checked too."
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="EDGEFL_CONFIG",
    show_envvar=True,
    help="A TOML file with settings, as for edgefl join.",
)
@state_option
@json_option
@report_errors
def doctor(token: str | None, config: Path | None, state: Path | None, as_json: bool) -> None:
    """Check this device: versions, clock, disk, memory, heat, ports, reachability, token.

    Works without a running daemon; with one it also tells how others reach this device, and which side blocks. Ends
    with exit code 1 if something makes edgefl unable to work here.
    """
    from edgefl.config import Settings, control_socket, default_state, from_memory, merge, read_files
    from edgefl.doctor import Verdict, check_device, check_network, gather
    from edgefl.store import remembered_settings

    directory = state or default_state()

    def settings() -> Settings:
        return merge(from_memory(remembered_settings(directory)), read_files(config))

    facts = gather(settings, directory, control_socket(state), token)
    checks = [*check_device(facts), *check_network(facts)]
    failed = any(check.verdict is Verdict.FAIL for check in checks)
    if as_json:
        verdict = "fail" if failed else "warn" if any(check.verdict is Verdict.WARN for check in checks) else "ok"
        emit_json({"verdict": verdict, "checks": [check.as_dict() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = check.verdict.value.ljust(4)
            mark = click.style(mark, fg=COLOURS[check.verdict.value]) if colour() else mark
            click.echo(f"{mark}  {check.name.ljust(width)}  {check.says}")
            if check.next:
                click.echo(f"{' ' * (width + 8)}next: {check.next}")
    raise SystemExit(1 if failed else 0)
