"""Make what is made from the code: docs/protocols.md (every message, and every state machine's theory of operation),
and in docs/trainer.md the table of operators that can be differentiated.

Run it after a change of either (`.venv/bin/python tools/make_docs.py`); a test compares the files with the code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from edgefl.trainer import gradients
from edgefl.trainer.graph import OPSET
from edgefl.trainer.reading import decompose, ml_operators
from edgefl.wire import codec, message_types

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROTOCOLS, TRAINER = DOCS / "protocols.md", DOCS / "trainer.md"

STATE_MACHINES = (
    ("Joining the overlay", "edgefl.overlay.joining"),
    ("Membership", "edgefl.overlay.membership"),
    ("Looking oneself up", "edgefl.overlay.self_lookup"),
    ("Liveness of peers", "edgefl.overlay.liveness"),
    ("Routed requests", "edgefl.overlay.routing"),
    ("The rendezvous tracker", "edgefl.overlay.tracker"),
    ("Trees", "edgefl.overlay.rank_tree"),
    ("When the tracker is asked again", "edgefl.overlay.renewals"),
    ("The choice of a parent", "edgefl.overlay.game.player"),
    ("What a round has taught", "edgefl.overlay.game.experience"),
    ("What the devices of a site carry", "edgefl.overlay.game.site"),
    ("A walk through a tree", "edgefl.overlay.tree_walk"),
    ("The directory of applications", "edgefl.overlay.directory"),
    ("An application on a device", "edgefl.learning.application"),
    ("A member's part of a round", "edgefl.learning.forest.worker"),
    ("A device's own part", "edgefl.learning.forest.local"),
    ("Whose turn it is among applications that share a fleet", "edgefl.learning.together"),
    ("Rounds inside zones", "edgefl.learning.forest.zones"),
    ("Zones that deliver to the root", "edgefl.learning.forest.direct"),
    ("Which devices train", "edgefl.learning.forest.selection"),
    ("How much time a round gets", "edgefl.learning.forest.pacing"),
    ("Children's updates on their way in", "edgefl.learning.forest.inflow"),
    ("The own update on its way out", "edgefl.learning.forest.outflow"),
    ("What lossy updates leave out", "edgefl.learning.forest.feedback"),
    ("The root's part", "edgefl.learning.forest.coordinator"),
    ("A device of a sampled application", "edgefl.learning.sampled.device"),
    ("A device of a consensus application", "edgefl.learning.consensus.device"),
    ("Broadcasts of a program's tree", "edgefl.learning.program.broadcasts"),
    ("Sums of a program's tree", "edgefl.learning.program.sums"),
    ("The door", "edgefl.transport.door_exchange"),
    ("A connection", "edgefl.transport.dial"),
    ("Pushing blobs", "edgefl.transport.broadcast"),
    ("Credit for what is pushed", "edgefl.transport.credit"),
    ("Asking for blobs", "edgefl.transport.pull"),
    ("The way into the fleet", "edgefl.daemon.arrival"),
    ("Whether others can reach a device", "edgefl.daemon.reachability"),
)

BEGIN, END = "<!-- operators: made by tools/make_docs.py -->\n", "<!-- end of operators -->\n"

WIDTH = 120

REWRITTEN = ((decompose, decompose.DECOMPOSITIONS), (ml_operators, ml_operators._FORMS))
"""Operators that have no rule, and need none."""

NO_FORMS = ("other than the batch", "is absent", "do not fit")
"""Refusals that are the same for every operator, or of models that are not valid."""


def document() -> str:
    """The whole page of protocols."""
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
    if cls.__doc__:
        lines += [inspect.cleandoc(cls.__doc__), ""]
    if fields:
        lines += ["| key | field | type |", "|---|---|---|"]
        lines += [f"| {field.key} | {field.name} | `{field.codec.name}` |" for field in fields]
        lines.append("")
    return lines


def _machine(title: str, module: str) -> list[str]:
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    place = module.replace(".", "/")
    return [f"### {title}", "", f"`{place}.py`", "", "```text", text, "```", ""]


def with_operators(page: str) -> str:
    """The page of the trainer with the table of operators as the rules have it now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{operators()}\n{END}{after}"


def operators() -> str:
    """Every rule, by family; and what is rewritten before the rules see it."""
    several = sorted(name for name, rule in gradients.RULES.items() if rule.results is None)
    place = list(gradients.RULES).index
    own = (module for module in vars(gradients).values() if inspect.ismodule(module))
    modules = [module for module in own if getattr(module, "RULES", gradients.RULES) is not gradients.RULES]
    families = sorted(modules, key=lambda module: place(next(iter(module.RULES))))
    introduction = (
        f"{len(gradients.RULES)} operators of ai.onnx, in the form that they have at opset {OPSET}. A gradient arrives "
        f"through every output of {', '.join(several)}, and through the first output of all others."
    )
    return "\n".join(
        [
            textwrap.fill(introduction, WIDTH),
            "",
            *[line for module in families for line in _family(module)],
            "**Rewritten first**, into operators with a rule:",
            "",
            "| module | operators |",
            "|---|---|",
            *[f"| `{_file(module)}` | {', '.join(sorted(table))} |" for module, table in REWRITTEN],
            "",
        ]
    )


def _family(module: ModuleType) -> list[str]:
    text = " ".join(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].split())
    constant = [name for name, rule in module.RULES.items() if rule is gradients.CONSTANT]
    lines = [textwrap.fill(f"**`{_file(module)}`** {text}", WIDTH), ""]
    lines += ["| operator | gradient for | attributes that count | may be refused |", "|---|---|---|---|"]
    lines += [_row(name, rule) for name, rule in module.RULES.items() if rule is not gradients.CONSTANT]
    if constant:
        lines.append(f"| {', '.join(constant)} | nothing: constant, or in steps | | |")
    return [*lines, ""]


def _row(name: str, rule: gradients.Rule) -> str:
    schema = onnx.defs.get_schema(name, OPSET)
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    carrying = [value.name for slot, value in enumerate(schema.inputs) if rule.slots is None or slot in rule.slots]
    read, refused = _said(rule.gradient)
    known = [attribute for attribute in sorted(schema.attributes) if attribute in read]
    forms = [text for text in refused if not any(part in text for part in NO_FORMS)]
    return (
        f"| {name} | {'every input' if variadic else ', '.join(carrying)} | {', '.join(known)} | {'; '.join(forms)} |"
    )


def _said(gradient: Callable[..., Any]) -> tuple[set[str], list[str]]:
    """The attributes that a rule asks for, and the forms that it refuses, in its own words."""
    read: set[str] = set()
    refused: set[str] = set()
    for function in set(_functions(gradient)):
        if function.__name__ == "<lambda>":  # in a table of one-liners, which ask for nothing
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if node.func.attr == "attribute":
                    read.add(_text(node.args[0]))
                elif node.func.attr == "unsupported":
                    refused.add(_text(node.args[0]))
    return read, sorted(refused)


def _functions(value: Any, seen: frozenset[Any] = frozenset()) -> Iterator[Any]:
    """A rule and what it calls within the room of the rules."""
    if isinstance(value, partial):
        for part in (value.func, *value.args):
            yield from _functions(part, seen)
    if not inspect.isfunction(value) or value in seen or not value.__module__.startswith(gradients.__name__):
        return
    yield value
    codes, names = [value.__code__], set()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(constant for constant in code.co_consts if inspect.iscode(constant))
    called = [value.__globals__.get(name) for name in names]
    for part in (*called, *(cell.cell_contents for cell in value.__closure__ or ())):
        yield from _functions(part, seen | {value})


def _text(argument: ast.expr) -> str:
    """A text in the code, with … for what is filled in."""
    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def _file(module: ModuleType) -> str:
    return f"{module.__name__.rpartition('.')[2]}.py"


if __name__ == "__main__":
    PROTOCOLS.write_text(document())
    TRAINER.write_text(with_operators(TRAINER.read_text()))
