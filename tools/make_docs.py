"""Make docs/protocols.md from the code: every message, and every state machine's theory of operation.

Run it after a change of the protocol (`.venv/bin/python tools/make_docs.py`); a test compares the file with the code.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from edgefl.wire import codec, message_types

TARGET = Path(__file__).resolve().parent.parent / "docs" / "protocols.md"

STATE_MACHINES = (
    ("Joining the overlay", "edgefl.overlay.joining"),
    ("Membership", "edgefl.overlay.membership"),
    ("Liveness of peers", "edgefl.overlay.liveness"),
    ("Routed requests", "edgefl.overlay.routing"),
    ("The rendezvous tracker", "edgefl.overlay.tracker"),
    ("Trees", "edgefl.overlay.rank_tree"),
    ("The directory of applications", "edgefl.overlay.directory"),
    ("An application on a device", "edgefl.learning.application"),
    ("A member's part of a round", "edgefl.learning.worker"),
    ("The root's part", "edgefl.learning.coordinator"),
    ("The door", "edgefl.transport.door_exchange"),
    ("A connection", "edgefl.transport.dial"),
    ("Pushing blobs", "edgefl.transport.broadcast"),
    ("Asking for blobs", "edgefl.transport.pull"),
    ("The way into the fleet", "edgefl.daemon.arrival"),
)


def document() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Protocols",
            "",
            "Made from the code by `tools/make_docs.py`; a test keeps it true.",
            "",
            "## Messages",
            "",
            "A message is a CBOR map with integer keys; key 0 is its type. Fields with a default may be absent.",
            f"One message has at most {codec.MAX_MESSAGE_BYTES} bytes, nested at most {codec.MAX_DEPTH} deep.",
            "",
            *[line for number, cls in sorted(message_types().items()) for line in _message(number, cls)],
            "## State machines",
            "",
            *[line for title, module in STATE_MACHINES for line in _machine(title, module)],
        ]
    )


def _message(number: int, cls: type) -> list[str]:
    fields = codec._fields[cls]
    lines = [f"### {number} {cls.__name__}", ""]
    text = inspect.cleandoc(cls.__doc__ or "")
    if not text.startswith(f"{cls.__name__}("):  # what dataclasses write where there is no docstring
        lines += [text, ""]
    if fields:
        lines += ["| key | field | type |", "|---|---|---|"]
        lines += [f"| {field.key} | {field.name} | `{field.codec.name}` |" for field in fields]
        lines.append("")
    return lines


def _machine(title: str, module: str) -> list[str]:
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    place = module.replace(".", "/")
    return [f"### {title}", "", f"`{place}.py`", "", "```text", text, "```", ""]


if __name__ == "__main__":
    TARGET.write_text(document())
