"""What an ONNX file would make ONNX Runtime do, found out before ONNX Runtime sees it, without the `onnx` package.

Artifacts come from other people. A tensor may name a file as its data: ONNX Runtime 1.22 and 1.23 read whatever path it
names (1.31 refuses), and what they read can leave the device with the next update. So no tensor may, wherever it hides;
the graphs that run are flat, without functions or control flow, and of the standard operators that the manifest lists.

The walk follows onnx.proto message by message; fields that are not in the tables carry no tensors and no nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgefl.errors import ModelError
from edgefl.trainer.protobuf import fields

MAX_FIELDS = 1 << 20
"""Fields read in one file: a graph of 50,000 nodes. More would keep a small device busy for minutes."""

MAX_DEPTH = 16
"""Messages within messages: a flat graph has 4, each level of control flow adds 3."""

# message -> {field number: message inside}; names as in onnx.proto
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Subgraph", 10: "Tensor", 11: "Subgraph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Tensor": {},
}
_INSIDE["Subgraph"] = _INSIDE["Graph"]

_OPERATOR, _DOMAIN = 4, 7
_EXTERNAL_DATA, _DATA_LOCATION, _IN_THIS_FILE = 13, 14, b"\0"

FLAT = frozenset({"Model", "Graph", "Node", "Attribute", "Tensor"})
STANDARD = frozenset({b"", b"ai.onnx"})
MICROSOFT = frozenset({(b"com.microsoft", b"FusedMatMul")})
"""What a graph may hold beside the standard operators."""


@dataclass(slots=True)
class Contents:
    """What was found: kinds of messages, and each node's (domain, operator) (as bytes, unchecked)."""

    messages: set[str] = field(default_factory=set)
    operators: set[tuple[bytes, bytes]] = field(default_factory=set)
    count: int = 0


def contents_of(content: bytes) -> Contents:
    """Walk a serialised ONNX model. Raises ModelError for a broken one, and for a tensor that refers to a file."""
    found = Contents()
    _walk(content, "Model", 0, len(content), 0, found)
    return found


def require_harmless(content: bytes, operators: tuple[str, ...], name: str) -> None:
    """Raises ModelError unless `content` is a flat graph of the given standard operators with all data inside."""
    found = contents_of(content)
    listed = {operator.encode() for operator in operators}
    unknown = {
        b".".join(filter(None, node))
        for node in found.operators
        if node[1] not in listed or not (node[0] in STANDARD or node in MICROSOFT)
    }
    if found.messages - FLAT or unknown:
        odd = [*(found.messages - FLAT), *map(repr, unknown)]
        raise ModelError(
            f"{name} holds what training graphs never need: {', '.join(sorted(odd))[:200]}",
            hint="do not use artifacts of people that you do not trust; build them again",
        )


def _walk(content: bytes, message: str, start: int, stop: int, depth: int, found: Contents) -> None:
    found.messages.add(message)
    if depth > MAX_DEPTH:
        raise ModelError(f"broken ONNX file: messages nested deeper than {MAX_DEPTH}", hint="build it again")
    inside = _INSIDE[message]
    domain = operator = b""
    for number, begin, end in fields(content, start, stop):
        found.count += 1
        if found.count > MAX_FIELDS:
            raise ModelError(f"an ONNX file has more than {MAX_FIELDS} fields", hint="use a smaller model")
        if number in inside:
            _walk(content, inside[number], begin, end, depth + 1, found)
        elif message == "Tensor" and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and content[begin:end] != _IN_THIS_FILE)
        ):
            raise ModelError(
                "an ONNX file refers to data outside itself",
                hint="do not use artifacts of people that you do not trust; build them again",
            )
        elif message == "Node" and number == _OPERATOR:
            operator = content[begin:end]
        elif message == "Node" and number == _DOMAIN:
            domain = content[begin:end]
    if message == "Node":
        found.operators.add((domain, operator))
