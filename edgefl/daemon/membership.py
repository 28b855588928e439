"""How a device comes by its certificate before it knocks: from a token, or from the fleet's key on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.daemon.discovery import possible
from edgefl.daemon.mdns import require
from edgefl.errors import ConfigError, UsageError
from edgefl.identity.fleet import FleetKey
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.token import parse

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon

MAX_TOKEN_FILE_BYTES = 64 * 1024


def become_member(daemon: Daemon, *, first: bool, fleet: Path) -> None:
    """Certify this device if it can be done here: with --first by the fleet's key in `fleet`, else by a token.

    Without either, a device that has no certificate yet will ask at the doors that it was told of, or that it finds
    around it. Raises EdgeflError.
    """
    text = daemon.settings.token
    if first:
        if daemon.admission.certificate is None:
            daemon.admission.adopt(FleetKey.load(fleet).approve(daemon.admission.claim()))
    elif text:
        token = parse(read_token(text))
        if daemon.admission.certificate is None or daemon.admission.fleet != token.fleet:
            daemon.admission.join(token)
        daemon.add_bootstrap([(door.host, door.port) for door in token.bootstrap])
    if daemon.admission.revoked_self:
        raise RefusedError(Reason.REVOKED)
    daemon.store.write_setting("admission", daemon.admission.export().encode())
    if daemon.settings.mdns == "on":
        require()
    stranger = daemon.admission.certificate is None and not daemon.settings.bootstrap
    if stranger and not possible(daemon.settings):
        raise UsageError(
            "this device is in no fleet yet, and was told of none",
            hint="give --token, or --bootstrap HOST:PORT of a member, or look around with --mdns on; or make a fleet: "
            "edgefl fleet new, then edgefl join --first",
        )


def read_token(text: str) -> str:
    """The token itself: given as it is, or as file:PATH. Raises ConfigError."""
    if not text.startswith("file:"):
        return text
    path = Path(text.removeprefix("file:"))
    try:
        with path.open("r", encoding="ascii") as file:
            return file.read(MAX_TOKEN_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the token from {path}: {error}", hint="check the path") from None
