"""edgefl-status.txt on the card: what became of the settings, and of the daemon, in words for who has the card.

No time stands in it: the device may not know it. It is written only when it changes.
"""

from __future__ import annotations

from dataclasses import field

from edgefl.declared import dataclass
from edgefl.errors import EXIT_CONFIG, EXIT_NOT_ADMITTED, EXIT_USAGE
from edgefl.firstboot.card import Card

FILE = "edgefl-status.txt"

SLOT_BYTES = 4096
"""Allocated in the image, so that writing it needs no new cluster; longer texts are cut."""

UPDATE, DAEMON = "update: ", "daemon: "
"""Begin the last lines, in this order: what was written last of updates of the system, and of the daemon."""

REFUSALS = {
    EXIT_NOT_ADMITTED: "the fleet refused this device: its token was revoked, used up, or is of another fleet.\n"
    "next: ask the fleet's owner for a new token, write it into edgefl.toml, and start the device again",
    EXIT_CONFIG: "its settings cannot work here.\n"
    "next: correct edgefl.toml, or connect a screen: `journalctl -u edgefl` has the details",
    EXIT_USAGE: "it is in no fleet yet, and was told of none.\n"
    "next: write a token (as edgefl fleet invite prints it) into edgefl.toml, and start the device again",
}


@dataclass(slots=True)
class Outcome:
    """What first boot has to say. `problems` are pairs of cause and next step."""

    done: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def text(self, device: str) -> str:
        lines = [f"device: {device}", f"settings: {'SOMETHING IS WRONG' if self.problems else 'ok'}"]
        for cause, step in self.problems:
            lines += [f"problem: {cause}", f"next: {step}"]
        lines += [f"done: {text}" for text in self.done]
        return "\n".join(lines)


def write(card: Card, text: str) -> bool:
    """Make `text` the status, if it is not already; whether it was written. Raises OSError."""
    content = as_on_card(text)
    if (card.read(FILE, SLOT_BYTES) or b"").rstrip() == content.rstrip():
        return False
    card.overwrite(FILE, content.ljust(SLOT_BYTES))
    return True


def as_on_card(text: str) -> bytes:
    return text.strip().replace("\n", "\r\n").encode()[: SLOT_BYTES - 2] + b"\r\n"  # old editors want CRLF


def read(card: Card) -> str:
    return (card.read(FILE, SLOT_BYTES) or b"").decode(errors="replace").replace("\r\n", "\n").strip()


def report(card: Card, words: str) -> None:
    """Replace what the status says of the daemon. Raises OSError."""
    before = read(card).partition(f"\n{DAEMON}")[0]
    write(card, f"{before}\n{DAEMON}{words}")


def report_update(card: Card, words: str) -> None:
    """Replace what the status says of updates of the system. Raises OSError."""
    text, mark, daemon = read(card).partition(f"\n{DAEMON}")
    write(card, f"{outcome_of(text)}\n{UPDATE}{words}{mark}{daemon}")


def outcome_of(text: str) -> str:
    """The status without what was written of updates and daemon."""
    return text.partition(f"\n{DAEMON}")[0].partition(f"\n{UPDATE}")[0]


def words_of_end(exit_status: str) -> str | None:
    """What to say when the daemon has ended with this status; None: nothing, it is started again."""
    return REFUSALS.get(int(exit_status)) if exit_status.isdecimal() else None
