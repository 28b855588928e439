"""The program of edgefl-firstboot.service, and of the daemon's start and end (edgefl.service.d/card.conf):

    python -m edgefl.firstboot take              settings from the card into the device
    python -m edgefl.firstboot joined            the daemon is in its fleet
    python -m edgefl.firstboot ended             … or has ended ($EXIT_STATUS, systemd.exec(5))

It never fails a boot: whatever happens it ends with 0, and says on the console and the card what is wrong.
"""

from __future__ import annotations

import grp
import os
import sys
from pathlib import Path

from edgefl.errors import EdgeflError
from edgefl.firstboot import status
from edgefl.firstboot.card import Card

BOOT = Path("/boot/firmware")
DATA = Path("/data")


def take(card: Card) -> None:
    # Not above: the verbs of the daemon's start and end would wait for what only this one needs.
    from edgefl.firstboot import host, taken
    from edgefl.firstboot.steps import Places, take_settings

    group = grp.getgrnam("edgefl").gr_gid
    places = Places(
        card,
        Path("/etc/edgefl"),
        DATA / "sources",
        DATA / "ssh" / "authorized_keys",
        Path("/var/lib/iwd"),
        DATA / "ssh" / "ssh_host_ed25519_key",
        owner=(0, group),
    )
    found, outcome = take_settings(places)
    name = found.hostname or host.name_of(host.serial())
    try:
        host.set_name(name)
        host.keep_machine_id()
        if found.ssh_keys:
            host.make_ssh_key(places.host_key)
    except OSError as error:
        outcome.problems.append((str(error), "try another card"))
    text = outcome.text(name)
    print(text, flush=True)  # noqa: T201 (the console is its second reader)
    if status.outcome_of(status.read(card)) != text:
        status.write(card, text)
    if not outcome.problems:
        taken.note(places, found, text, name, [Path("/proc/cmdline"), *host.serial_files()])


def main(verb: str) -> None:
    card = Card(BOOT)
    if verb == "take":
        take(card)
    elif verb == "joined":
        status.report(card, "is in its fleet")
    else:
        words = status.words_of_end(os.environ.get("EXIT_STATUS", ""))
        if words is not None:
            status.report(card, words)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "take")
    except (OSError, EdgeflError, KeyError) as error:
        print(f"edgefl-firstboot: {error}", file=sys.stderr, flush=True)  # noqa: T201
