"""What an ONNX file would make its reader do, found before onnx or ONNX Runtime sees it, without the `onnx` package.

Files come from other people. A tensor may name a file as its data: ONNX Runtime 1.22 and 1.23 read whatever path it
names (1.31 refuses), the onnx package reads it from the working directory, and what they read can leave the device with
the next update. So no tensor may, wherever it hides, except where a user's own model keeps its weights beside itself.
And a file of two-byte messages takes hundreds of bytes for each in the memory of whoever parses it: they are counted.

Artifacts are held to more: the graphs that run are flat, without functions or control flow, and of the standard
operators that the manifest lists.

The walk follows onnx.proto message by message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgefl.errors import ModelError
from edgefl.trainer.files.protobuf import fields

MAX_FIELDS = 1 << 20
"""Fields read in one file: a graph of 50,000 nodes. More would keep a small device busy for minutes."""

MAX_DEPTH = 16
"""Messages within messages: a flat graph has 6, each level of control flow adds 3."""

MAX_NUMBER_BYTES = 16 << 20
"""Integers that are not raw data: each byte of them may become eight in memory. Exporters write weights as raw data."""

# message -> {field number: message inside}; names as in onnx.proto, but for those that tell two uses of one apart
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {
        7: "Graph",
        8: "OperatorSetId",
        14: "StringStringEntry",
        20: "TrainingInfo",
        25: "Function",
        26: "DeviceConfiguration",
    },
    "Graph": {
        1: "Node",
        5: "Initializer",
        11: "ValueInfo",
        12: "ValueInfo",
        13: "ValueInfo",
        14: "TensorAnnotation",
        15: "SparseTensor",
        16: "StringStringEntry",
    },
    "Node": {5: "Attribute", 9: "StringStringEntry", 10: "NodeDeviceConfiguration"},
    "Attribute": {
        5: "Tensor",
        6: "Subgraph",
        10: "Tensor",
        11: "Subgraph",
        14: "Type",
        15: "Type",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "Tensor": {3: "Segment", 13: "StringStringEntry", 16: "StringStringEntry"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 9: "OperatorSetId", 11: "Attribute", 12: "ValueInfo", 14: "StringStringEntry"},
    "TrainingInfo": {1: "Subgraph", 2: "Subgraph", 3: "StringStringEntry", 4: "StringStringEntry"},
    "ValueInfo": {2: "Type", 4: "StringStringEntry"},
    "Type": {1: "TensorType", 4: "SequenceType", 5: "MapType", 7: "OpaqueType", 8: "SparseType", 9: "OptionalType"},
    "TensorType": {2: "TensorShape"},
    "SparseType": {2: "TensorShape"},
    "SequenceType": {1: "Type"},
    "OptionalType": {1: "Type"},
    "MapType": {2: "Type"},
    "TensorShape": {1: "Dimension"},
    "TensorAnnotation": {2: "StringStringEntry"},
    "NodeDeviceConfiguration": {2: "ShardingSpec"},
    "ShardingSpec": {3: "IntIntListEntry", 4: "ShardedDim"},
    "ShardedDim": {2: "SimpleShardedDim"},
    "Dimension": {},
    "OperatorSetId": {},
    "OpaqueType": {},
    "Segment": {},
    "StringStringEntry": {},
    "DeviceConfiguration": {},
    "IntIntListEntry": {},
    "SimpleShardedDim": {},
}
_INSIDE["Initializer"] = _INSIDE["Tensor"]
_INSIDE["Subgraph"] = {**_INSIDE["Graph"], 5: "Tensor"}

_NUMBERS = {
    "Tensor": {1, 5, 7, 11},
    "Initializer": {1, 5, 7, 11},
    "SparseTensor": {3},
    "Attribute": {8},
    "ShardingSpec": {2},
    "IntIntListEntry": {2},
}
"""Fields that hold many integers."""

_OPERATOR, _DOMAIN = 4, 7
_EXTERNAL_DATA, _DATA_LOCATION, _IN_THIS_FILE = 13, 14, b"\0"

FLAT = frozenset(
    {
        *("Model", "Graph", "Node", "Attribute", "Initializer", "Tensor", "OperatorSetId", "StringStringEntry"),
        *("ValueInfo", "Type", "TensorType", "TensorShape", "Dimension"),
    }
)
STANDARD = frozenset({b"", b"ai.onnx"})
MICROSOFT = frozenset({(b"com.microsoft", b"FusedMatMul")})
"""What a graph may hold beside the standard operators."""


@dataclass(slots=True)
class Contents:
    """What was found: kinds of messages, each node's (domain, operator) (as bytes, unchecked), and how much there is.
    `beside`: initializers may be in another file."""

    beside: bool = False
    messages: set[str] = field(default_factory=set)
    operators: set[tuple[bytes, bytes]] = field(default_factory=set)
    nodes: int = 0
    count: int = 0
    number_bytes: int = 0


def contents_of(content: bytes, *, beside: bool = False) -> Contents:
    """Walk a serialised ONNX model. Raises ModelError for a broken one, for one that comes to more than it should in
    memory, and for a tensor that refers to a file (`beside`: for one that is no initializer of the model)."""
    found = Contents(beside)
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
    inside, numbers = _INSIDE[message], _NUMBERS.get(message, ())
    inside_file = ("Tensor",) if found.beside else ("Tensor", "Initializer")
    domain = operator = b""
    for number, begin, end in fields(content, start, stop):
        found.count += 1
        if found.count > MAX_FIELDS:
            raise ModelError(f"an ONNX file has more than {MAX_FIELDS} fields", hint="use a smaller model")
        if number in inside:
            _walk(content, inside[number], begin, end, depth + 1, found)
        elif number in numbers:
            found.number_bytes += end - begin
        elif message == "Node" and number == _OPERATOR:
            operator = content[begin:end]
        elif message == "Node" and number == _DOMAIN:
            domain = content[begin:end]
        if message in inside_file and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and content[begin:end] != _IN_THIS_FILE)
        ):
            raise ModelError(
                "an ONNX file refers to data outside itself",
                hint="do not use artifacts of people that you do not trust; build them again",
            )
    if found.number_bytes > MAX_NUMBER_BYTES:
        raise ModelError(
            f"an ONNX file has over {MAX_NUMBER_BYTES} bytes of integers outside raw data", hint="export it again"
        )
    if message == "Node":
        found.nodes += 1
        found.operators.add((domain, operator))
