"""Damaged and hostile ONNX files, drawn from a seed: the same seed gives the same file.

Four kinds, from the blind to the knowing:

    bytes     flips, truncations, splices of two files
    wire      protobuf's fields dropped, repeated, moved, with lengths and numbers that are lies
    model     what somebody would do who knows ONNX: sizes that are not there, data in other files, cycles, functions
              that call each other, attributes beyond all reason
    drawn     no file at all, but one node of any operator there is, with whatever attributes and inputs

Changes are tables of functions (…, rng) -> result; each is as small as possible, since up to three are combined.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgefl.trainer.files.protobuf import varint

MAX_CHANGES = 3
FLOODS = (100, 3000, 60_000, 2_000_000)
"""How often something tiny is repeated: two bytes each, but hundreds in the memory of whoever reads them."""

HUGE = (1 << 16, 1 << 24, 1 << 29, 1 << 31, 1 << 32, 1 << 40, 1 << 61, 1 << 62, (1 << 63) - 1)
NUMBERS = (0, 1, 2, 3, 5, 7, 100, 1000, -1, -2, -3, -7, -(1 << 31), -(1 << 63), *HUGE)
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, -1e30, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "x",
    "y",
    "\0",
    "é",
    "NOTSET",
    "SAME_UPPER",
    "SAME_LOWER",
    "VALID",
    "linear",
    "cubic",
    "reflect",
    "sum",
    "bi->",
)
TYPES = (*range(24), 99)
"""Element types of ONNX: 1 is float32, 7 int64, 8 a string; 0 and 99 are none."""

PLACES = ("/etc/passwd", "../../secret", "weights.bin", "", ".", "/dev/zero", "/proc/self/mem", "a\0b")

Message = list[tuple[int, int, Any]]
"""Fields of a message: (number, wire type, integer or bytes)."""

AS_IS = 8
"""A wire type that is none: the value is written without a tag before it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`origin`: the seed and the changes, for a report."""

    origin: str
    content: bytes


def mutant(rng: Random, seeds: Mapping[str, bytes], *, inputs: Sequence[str] = ("x",)) -> Mutant:
    """One damaged file. `inputs`: of models that are drawn."""
    kind = rng.choices(("bytes", "wire", "model", "drawn"), (2, 3, 6, 3))[0]
    if kind == "drawn":
        proto, origin = drawn(rng, inputs)
        return Mutant(origin, proto.SerializeToString())
    name = rng.choice(list(seeds))
    content, origin = seeds[name], [name]
    for _ in range(rng.randint(1, MAX_CHANGES)):
        if kind == "bytes":
            change: Callable[..., Any] = rng.choice(BYTES)
            content = change(content, seeds[rng.choice(list(seeds))], rng)
        elif kind == "wire":
            change = rng.choice(WIRE)
            with suppress(Exception):  # damaged so far that it is no protobuf any more
                content = at_some_message(content, onnx.ModelProto.DESCRIPTOR, rng, change)
        else:
            change = rng.choice(MODEL)
            with suppress(Exception):  # the change does not apply to this model
                proto = onnx.ModelProto.FromString(content)
                change(proto, rng)
                content = proto.SerializeToString()
        origin.append(change.__name__)
    return Mutant(" ".join(origin), content)


# Bytes


def flip(content: bytes, _: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _flip in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, _: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice((b"\xff", b"\0", b"\x80")) * rng.randint(1, 20) + content[start + 8 :]


def truncate(content: bytes, _: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def cut_out(content: bytes, _: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randint(1, 40) :]


def insert(content: bytes, _: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.randint(1, 20)) + content[start:]


def splice(content: bytes, other: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def append(content: bytes, other: bytes, _: Random) -> bytes:
    """Protobuf merges the two."""
    return content + other


BYTES = (flip, flip, overwrite, truncate, cut_out, insert, splice, append)


# Wire


def read(content: bytes) -> Message:
    """The fields of a message; raises where there are none."""
    found: Message = []
    start = 0
    while start < len(content):
        tag, start = varint(content, start, len(content))
        wire = tag & 7
        value: int | bytes
        if wire == 0:
            value, start = varint(content, start, len(content))
        else:
            size = {1: 8, 5: 4}.get(wire)
            if size is None:
                size, start = varint(content, start, len(content))
            value, start = content[start : start + size], start + size
        found.append((tag >> 3, wire, value))
    return found


def write(message: Message) -> bytes:
    parts = []
    for number, wire, value in message:
        if wire != AS_IS:
            parts.append(encoded(number << 3 | wire))
        if isinstance(value, int):
            parts.append(encoded(value))
        else:
            parts.append((encoded(len(value)) if wire == 2 else b"") + value)
    return b"".join(parts)


def encoded(value: int) -> bytes:
    """A varint of 64 bits."""
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def at_some_message(content: bytes, kind: Any, rng: Random, change: Callable[..., None]) -> bytes:
    """Change the message, or one inside it at any depth; the lengths around it are made right again."""
    message = read(content)
    inner = {field.number: field.message_type for field in kind.fields if field.message_type}
    inside = [place for place, (number, wire, _) in enumerate(message) if wire == 2 and number in inner]
    if inside and rng.random() < 0.8:
        # kinds of fields alike, or almost every change would hit an initializer of a large model
        number = rng.choice(sorted({message[place][0] for place in inside}))
        place = rng.choice([place for place in inside if message[place][0] == number])
        value = at_some_message(message[place][2], inner[number], rng, change)
        message[place] = (number, 2, value)
    else:
        change(message, kind, rng)
    return write(message)


def drop(message: Message, _: Any, rng: Random) -> None:
    del message[rng.randrange(len(message))]


def repeat(message: Message, _: Any, rng: Random) -> None:
    place = rng.randrange(len(message))
    message[place:place] = [message[place]] * rng.choice((1, 2, 50, 1000))


def swap(message: Message, _: Any, rng: Random) -> None:
    a, b = rng.randrange(len(message)), rng.randrange(len(message))
    message[a], message[b] = message[b], message[a]


def number(message: Message, _: Any, rng: Random) -> None:
    """An integer field, or one that is none, becomes another integer."""
    places = [place for place, (_, wire, _value) in enumerate(message) if wire == 0] or range(len(message))
    place = rng.choice(places)
    message[place] = (message[place][0], 0, rng.choice(NUMBERS))


def content_of_field(message: Message, _: Any, rng: Random) -> None:
    place = rng.randrange(len(message))
    value = rng.choice((b"", b"\0", rng.randbytes(5), b"\xff" * 10, b"\x08" * 64, rng.choice(TEXTS).encode()))
    message[place] = (message[place][0], 2, value)


def field_number(message: Message, kind: Any, rng: Random) -> None:
    place = rng.randrange(len(message))
    numbers = [field.number for field in kind.fields]
    message[place] = (rng.choice([*numbers, 0, 1000, 1 << 29]), *message[place][1:])


def wire_type(message: Message, _: Any, rng: Random) -> None:
    place = rng.randrange(len(message))
    number, _wire, value = message[place]
    message[place] = (number, rng.choice((0, 1, 2, 3, 4, 5, 6, 7)), value)


def inflate(message: Message, _: Any, rng: Random) -> None:
    """A length that is a lie."""
    place = rng.randrange(len(message))
    number, _wire, value = message[place]
    lie = encoded(number << 3 | 2) + encoded(rng.choice((1, 1000, *HUGE)))
    message[place] = (number, AS_IS, lie + (value if isinstance(value, bytes) else b""))


def nest(message: Message, kind: Any, rng: Random) -> None:
    """A field within itself, again and again."""
    fields = [field.number for field in kind.fields if field.message_type]
    value = write(message)[:300]
    number = rng.choice(fields)
    for _ in range(rng.choice((3, 20, 90, 120, 3000))):
        value = write([(number, 2, value)])
    message.append((number, 2, value))


def flood(message: Message, kind: Any, rng: Random) -> None:
    """The smallest field that there is, so often that only counting helps."""
    field = rng.choice(list(kind.fields))
    integer = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT64, field.CPPTYPE_ENUM)
    one = encoded(field.number << 3 | (0 if integer else 2)) + b"\0"
    message.append((field.number, AS_IS, one * rng.choice(FLOODS)))


def packed_flood(message: Message, kind: Any, rng: Random) -> None:
    """The same within one field."""
    fields = [field for field in kind.fields if field.cpp_type == field.CPPTYPE_INT64]
    message.append((rng.choice(fields).number, 2, b"\1" * rng.choice(FLOODS)))


WIRE = (drop, drop, repeat, swap, number, number, content_of_field, field_number, wire_type, inflate, nest, flood)
WIRE += (packed_flood,)


# Models: tensors


def some_tensor(proto: onnx.ModelProto, rng: Random) -> TensorProto:
    graph = proto.graph
    constants = [a.t for node in graph.node for a in node.attribute if a.type == AttributeProto.TENSOR]
    return rng.choice([*graph.initializer, *constants])


def dims(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = some_tensor(proto, rng)
    size = list(tensor.dims)
    how = rng.randrange(6)
    if how == 0 and size:
        size[rng.randrange(len(size))] = rng.choice(NUMBERS)
    elif how == 1:
        size = [rng.choice(NUMBERS) for _ in range(rng.randint(0, 4))]
    elif how == 2:
        size = [1] * rng.choice((7, 9, 33, 1000)) + size
    elif how == 3:
        size = [1 << 29]  # 2 GB of float32
    elif how == 4:
        size.append(0)
    else:
        size = [1 << 31, 1 << 31, 0]
    tensor.dims[:] = size


def claimed_zeros(proto: onnx.ModelProto, rng: Random) -> None:
    """No data at all, a shape that wants much."""
    tensor = some_tensor(proto, rng)
    for name in ("raw_data", "float_data", "int64_data", "int32_data"):
        tensor.ClearField(name)
    tensor.dims[:] = [rng.choice(HUGE)]


def raw_data(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = some_tensor(proto, rng)
    data = bytes(tensor.raw_data)
    tensor.raw_data = rng.choice((b"", data[:-1], data[:-4], data + b"\0", data * 2, data[: len(data) // 2]))


def both_kinds_of_data(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = some_tensor(proto, rng)
    tensor.float_data.extend(rng.choice(REALS) for _ in range(rng.randint(0, 9)))
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
    if rng.random() < 0.3:
        tensor.int64_data.append(rng.choice(NUMBERS))


def data_type(proto: onnx.ModelProto, rng: Random) -> None:
    some_tensor(proto, rng).data_type = rng.choice(TYPES)


def string_tensor(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = some_tensor(proto, rng)
    tensor.data_type = TensorProto.STRING
    tensor.ClearField("raw_data")
    tensor.string_data.extend([b"\xff\xfe"] * rng.choice((0, 1, int(np.prod(tensor.dims)) % 5000)))


def segment(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = some_tensor(proto, rng)
    tensor.segment.begin, tensor.segment.end = rng.choice(NUMBERS), rng.choice(NUMBERS)


def external(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = some_tensor(proto, rng)
    if rng.random() < 0.8:
        tensor.ClearField("raw_data")
    tensor.data_location = rng.choice((TensorProto.EXTERNAL, TensorProto.EXTERNAL, TensorProto.DEFAULT))
    given = {
        "location": rng.choice(PLACES),
        "offset": str(rng.choice(NUMBERS)),
        "length": str(rng.choice(NUMBERS)),
        "checksum": "x",
    }
    for key in rng.sample(list(given), rng.randint(0, 4)):
        tensor.external_data.add(key=key, value=rng.choice((given[key], given[key], "-1", "nine", "")))


def tensor_name(proto: onnx.ModelProto, rng: Random) -> None:
    names = [value.name for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)]
    some_tensor(proto, rng).name = rng.choice((*names, "", "\n", "a" * 600, "target", "scale", "loss"))


def same_tensor_twice(proto: onnx.ModelProto, rng: Random) -> None:
    proto.graph.initializer.add().CopyFrom(rng.choice(proto.graph.initializer))


def integers(proto: onnx.ModelProto, rng: Random) -> None:
    """Shapes, axes, pads, repeats and the like."""
    tensors = [
        *proto.graph.initializer,
        *(a.t for node in proto.graph.node for a in node.attribute if a.type == AttributeProto.TENSOR),
    ]
    tensor = rng.choice([t for t in tensors if t.data_type == TensorProto.INT64])
    values = numpy_helper.to_array(tensor).copy().reshape(-1)
    how = rng.randrange(4)
    if how == 0 and values.size:
        values[rng.randrange(values.size)] = rng.choice(NUMBERS)
    elif how == 1:
        values = np.array([rng.choice(NUMBERS) for _ in values], np.int64)
    elif how == 2:
        values = np.array([rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 3, 9)))], np.int64)
    else:
        values = np.concatenate([values, values])
    shape = tuple(tensor.dims) if values.size == np.prod(tensor.dims) else (values.size,)
    tensor.CopyFrom(numpy_helper.from_array(values.reshape(shape), tensor.name))


def numbers_of_weights(proto: onnx.ModelProto, rng: Random) -> None:
    tensor = rng.choice([t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT])
    array = np.full(tuple(tensor.dims), rng.choice(REALS), np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


# Models: nodes


def some_name(proto: onnx.ModelProto, rng: Random) -> str:
    graph = proto.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    return rng.choice([*names, *(t.name for t in graph.initializer), *(v.name for v in graph.output), "", "nowhere"])


def drop_node(proto: onnx.ModelProto, rng: Random) -> None:
    del proto.graph.node[rng.randrange(len(proto.graph.node))]


def node_twice(proto: onnx.ModelProto, rng: Random) -> None:
    proto.graph.node.add().CopyFrom(rng.choice(proto.graph.node))


def order(proto: onnx.ModelProto, rng: Random) -> None:
    nodes = list(proto.graph.node)
    rng.shuffle(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def input_of_node(proto: onnx.ModelProto, rng: Random) -> None:
    """Another tensor, perhaps one that is made later; or none."""
    node = rng.choice(proto.graph.node)
    if node.input and rng.random() < 0.8:
        node.input[rng.randrange(len(node.input))] = some_name(proto, rng)
    else:
        node.input.extend(some_name(proto, rng) for _ in range(rng.choice((1, 1, 4, 100))))


def fewer_inputs(proto: onnx.ModelProto, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    del node.input[rng.randrange(len(node.input)) :]


def output_of_node(proto: onnx.ModelProto, rng: Random) -> None:
    """An output that is absent, or that others have already: an input, a weight, another node's."""
    node = rng.choice(proto.graph.node)
    how = rng.randrange(4)
    if how == 0:
        node.output[rng.randrange(len(node.output))] = rng.choice(("", some_name(proto, rng)))
    elif how == 1:
        node.output.extend(f"extra{i}" for i in range(rng.choice((1, 2, 5, 200))))
    elif how == 2:
        node.output.insert(0, "")
    else:
        del node.output[:]


def operator(proto: onnx.ModelProto, rng: Random) -> None:
    rng.choice(proto.graph.node).op_type = rng.choice((*OPERATORS, "Nonsense", ""))


def domain(proto: onnx.ModelProto, rng: Random) -> None:
    domains = ("ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training", "nowhere", "\0")
    rng.choice(proto.graph.node).domain = rng.choice(domains)
    if rng.random() < 0.5:
        proto.opset_import.add(domain=rng.choice(domains), version=rng.choice((1, 2, 999)))


def attribute_number(proto: onnx.ModelProto, rng: Random) -> None:
    nodes = [node for node in proto.graph.node if node.attribute]
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    if attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(NUMBERS)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(REALS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice((*(text.encode() for text in TEXTS), b"\xff"))
    elif attribute.type == AttributeProto.INTS:
        values = list(attribute.ints)
        if values and rng.random() < 0.6:
            values[rng.randrange(len(values))] = rng.choice(NUMBERS)
        else:
            values = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 4, 9, 1000)))]
        attribute.ints[:] = values
    elif attribute.type == AttributeProto.FLOATS:
        attribute.floats[:] = [rng.choice(REALS) for _ in range(rng.choice((0, 1, 100)))]


def attribute_added(proto: onnx.ModelProto, rng: Random) -> None:
    """One that the operator knows, with a value that it does not expect."""
    node = rng.choice([n for n in proto.graph.node if n.op_type in OPERATORS])
    known = list(onnx.defs.get_schema(node.op_type).attributes.values())
    made = some_attribute(rng.choice(known), rng)
    if made is not None:
        kept = [a for a in node.attribute if a.name != made.name]
        del node.attribute[:]
        node.attribute.extend([*kept, made])


def attribute_type(proto: onnx.ModelProto, rng: Random) -> None:
    attribute = rng.choice([a for node in proto.graph.node for a in node.attribute])
    attribute.type = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14))


def attribute_gone(proto: onnx.ModelProto, rng: Random) -> None:
    node = rng.choice([node for node in proto.graph.node if node.attribute])
    del node.attribute[rng.randrange(len(node.attribute))]


def attribute_odd(proto: onnx.ModelProto, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    how = rng.randrange(6)
    if how == 0 and node.attribute:
        node.attribute.add().CopyFrom(rng.choice(node.attribute))
    elif how == 1:
        node.attribute.add(name="alpha", type=AttributeProto.FLOAT).ref_attr_name = "beta"
    elif how == 2:
        node.attribute.add(name="t", type=AttributeProto.TYPE_PROTO).tp.sequence_type.elem_type.sequence_type.Clear()
    elif how == 3:
        made = node.attribute.add(name="s", type=AttributeProto.SPARSE_TENSOR).sparse_tensor
        made.dims.extend([1 << 40, 1 << 40])
        made.indices.dims.append(1 << 40)
    elif how == 4:
        node.attribute.add(name="", type=AttributeProto.INT, i=1)
    else:
        whole = onnx.GraphProto()
        whole.CopyFrom(proto.graph)
        node.attribute.add(name="graphs", type=AttributeProto.GRAPHS).graphs.append(whole)


# Models: the graph's edges


def graph_input(proto: onnx.ModelProto, rng: Random) -> None:
    value = rng.choice(proto.graph.input)
    kind = value.type.tensor_type
    how = rng.randrange(8)
    if how == 0:
        rng.choice(kind.shape.dim).dim_value = rng.choice(NUMBERS)
    elif how == 1:
        kind.elem_type = rng.choice(TYPES)
    elif how == 2:
        value.type.Clear()
    elif how == 3:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    elif how == 4:
        kind.ClearField("shape")
    elif how == 5:
        kind.shape.dim.extend(kind.shape.dim[-1:] * rng.choice((1, 7, 100)))
    elif how == 6:
        value.name = some_name(proto, rng)
    else:
        proto.graph.input.add().CopyFrom(value)
        proto.graph.input[-1].name = rng.choice(("z", value.name, some_name(proto, rng)))


def large_input(proto: onnx.ModelProto, rng: Random) -> None:
    """A sample that no memory holds, in a file of a few bytes."""
    for dim in rng.choice(proto.graph.input).type.tensor_type.shape.dim[1:]:
        if rng.random() < 0.7:
            dim.dim_value = rng.choice((1 << 12, 1 << 15, 1 << 20, 1 << 26, 1 << 32))


def graph_output(proto: onnx.ModelProto, rng: Random) -> None:
    outputs = proto.graph.output
    how = rng.randrange(5)
    if how == 0:
        rng.choice(outputs).name = some_name(proto, rng)
    elif how == 1:
        for _ in range(rng.choice((1, 2, 300))):
            outputs.add().CopyFrom(outputs[0])
            outputs[-1].name = rng.choice((some_name(proto, rng), outputs[0].name))
    elif how == 2:
        del outputs[:]
    elif how == 3:
        rng.choice(outputs).type.tensor_type.elem_type = rng.choice(TYPES)
    else:
        outputs[0].CopyFrom(rng.choice(proto.graph.input))


def value_info(proto: onnx.ModelProto, rng: Random) -> None:
    """A note about a tensor that is not true."""
    shape = [rng.choice(NUMBERS) for _ in range(rng.randint(0, 4))]
    info = proto.graph.value_info.add(name=some_name(proto, rng))
    info.type.tensor_type.elem_type = rng.choice(TYPES)
    for size in shape:
        info.type.tensor_type.shape.dim.add().dim_value = size


def extras(proto: onnx.ModelProto, rng: Random) -> None:
    """Parts that training never needs."""
    how = rng.randrange(5)
    if how == 0:
        note = proto.graph.quantization_annotation.add(tensor_name=some_name(proto, rng))
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="nowhere")
    elif how == 1:
        sparse = proto.graph.sparse_initializer.add()
        sparse.dims.extend([rng.choice(NUMBERS)] * 2)
        sparse.values.CopyFrom(helper.make_tensor(some_name(proto, rng), TensorProto.FLOAT, [1], [1.0]))
        sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [1], [rng.choice(NUMBERS)]))
    elif how == 2:
        proto.training_info.add().algorithm.CopyFrom(proto.graph)
    elif how == 3:
        proto.metadata_props.add(key="k", value="v" * 1000)
        proto.metadata_props.add(key="k", value="v")
    else:
        note = rng.choice(proto.graph.node).metadata_props.add(key="pkg.torch.onnx.name_scopes")
        note.value = rng.choice(("[" * 3000, "['', 'a', 'b.c', '']", "(" * 90 + ")" * 90, "9" * 4000, "['a', 1, 2]"))


def opset(proto: onnx.ModelProto, rng: Random) -> None:
    how = rng.randrange(4)
    if how == 0:
        proto.opset_import[0].version = rng.choice((*range(1, 30), *NUMBERS))
    elif how == 1:
        del proto.opset_import[:]
    elif how == 2:
        proto.opset_import.add(domain=rng.choice(("", "ai.onnx")), version=rng.choice((1, 7, 13, 999)))
    else:
        proto.ir_version = rng.choice((0, 1, 3, 10, 14, 1000))


# Models: graphs in graphs, functions


def inner_graph(proto: onnx.ModelProto, rng: Random) -> None:
    """If, Loop or Scan around a copy of the whole graph, some levels deep."""
    kind = rng.choice(("If", "Loop", "Scan"))
    for _ in range(rng.choice((1, 2, 5, 12))):
        body = onnx.GraphProto()
        body.CopyFrom(proto.graph)
        if kind == "If":
            made = helper.make_node("If", [some_name(proto, rng)], ["y"], then_branch=body, else_branch=body)
        else:
            options = {"num_scan_inputs": rng.choice(NUMBERS)} if kind == "Scan" else {}
            made = helper.make_node(kind, [some_name(proto, rng) for _ in range(3)], ["y"], body=body, **options)
        del proto.graph.node[:]
        proto.graph.node.append(made)
        if proto.ByteSize() > 1 << 20:
            break


FUNCTION_IMPORTS = (helper.make_opsetid("", 17), helper.make_opsetid("own", 1))


def own_functions(proto: onnx.ModelProto, rng: Random) -> None:
    """Functions that call themselves, each other, or twice the next, and so on; some in the standard domain."""
    space = rng.choice(("own", "own", "", "ai.onnx"))
    count = rng.choice((1, 2, 3, 30, 300))
    calls = rng.choice((1, 2, 10))
    stop, hidden = rng.random() < 0.5, rng.random() < 0.3
    for i in range(count):
        last = i == count - 1
        following = "Relu" if last and stop else f"f{(i + 1) % count}"
        names = ["a", *(f"b{k}" for k in range(1, calls)), "b"]
        where = "" if following == "Relu" else space
        nodes = [helper.make_node(following, [a], [b], domain=where) for a, b in itertools.pairwise(names)]
        if rng.random() < 0.1:
            nodes = []
        if hidden:
            branch = helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name="b")])
            truth = helper.make_node("Greater", ["a", "a"], ["truth"])
            nodes = [truth, helper.make_node("If", ["truth"], ["b"], then_branch=branch, else_branch=branch)]
        proto.functions.append(helper.make_function(space, f"f{i}", ["a"], ["b"], nodes, FUNCTION_IMPORTS))
    call(proto, "f0", space, 1)


def heavy_function(proto: onnx.ModelProto, rng: Random) -> None:
    """One whose body is large, called again and again."""
    name = "z" * rng.choice((1, 5000, 100_000))
    constant = numpy_helper.from_array(np.zeros(rng.choice((1, 1000, 50_000)), np.float32))
    nodes = [helper.make_node("Constant", [], [name], value=constant), helper.make_node("Add", ["a", name], ["b"])]
    proto.functions.append(helper.make_function("own", "f0", ["a"], ["b"], nodes, FUNCTION_IMPORTS))
    call(proto, "f0", "own", rng.choice((10, 3000)))


def call(proto: onnx.ModelProto, name: str, domain: str, times: int) -> None:
    """Put calls behind the last node."""
    proto.opset_import.add(domain="own", version=1)
    last = proto.graph.node[-1]
    result, last.output[0] = last.output[0], "call0"
    for i in range(times):
        after = result if i == times - 1 else f"call{i + 1}"
        proto.graph.node.append(helper.make_node(name, [f"call{i}"], [after], domain=domain))


def change_function(proto: onnx.ModelProto, rng: Random) -> None:
    function = rng.choice(proto.functions)
    how = rng.randrange(7)
    if how == 0:
        function.name = rng.choice([n.op_type for n in proto.graph.node])
        function.domain = ""
    elif how == 1:
        del function.input[:]
    elif how == 2:
        function.output.extend(["b", "nowhere"])
    elif how == 3:
        function.attribute.extend(["alpha", "alpha", ""])
    elif how == 4:
        proto.functions.add().CopyFrom(function)
    elif how == 5:
        function.node.add(op_type="If", input=["a"], output=["q"]).attribute.add(
            name="then_branch", type=AttributeProto.GRAPH
        ).g.node.add(op_type=function.name, domain=function.domain, input=["a"], output=["b"])
    else:
        del function.opset_import[:]


MODEL: tuple[Callable[[onnx.ModelProto, Random], None], ...] = (
    *(dims, dims, claimed_zeros, raw_data, both_kinds_of_data, data_type, string_tensor, segment, external, external),
    *(tensor_name, same_tensor_twice, integers, integers, integers, numbers_of_weights),
    *(drop_node, node_twice, order, input_of_node, input_of_node, fewer_inputs, output_of_node, output_of_node),
    *(operator, operator, domain, attribute_number, attribute_number, attribute_number, attribute_number),
    *(attribute_added, attribute_added, attribute_added, attribute_type, attribute_gone, attribute_odd),
    *(graph_input, graph_input, large_input, large_input, graph_output, graph_output, value_info, extras, opset),
    *(inner_graph, own_functions, own_functions, heavy_function, change_function),
)


# Drawn: any operator


OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}))

POOL: dict[str, Any] = {
    "w1": np.linspace(-1, 1, 3, dtype=np.float32),
    "w2": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "w3": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    "w4": np.linspace(-1, 1, 54, dtype=np.float32).reshape(2, 3, 3, 3),
    "one": np.float32(1),
    "none": np.zeros((0, 3), np.float32),
    "truth": np.array([True, False]),
    "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "half": np.ones(3, np.float16),
    "words": np.array(["a", "b"], object),
}
"""What a drawn node may read, beside x and vectors of integers."""


def drawn(rng: Random, inputs: Sequence[str]) -> tuple[onnx.ModelProto, str]:
    """One or two nodes of any operator between the inputs and a weight to train."""
    constants = dict(POOL)
    for i in range(4):
        constants[f"i{i}"] = np.array([rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 1, 2, 3, 4, 8)))], np.int64)
    constants["i"] = np.array(rng.choice(NUMBERS), np.int64)
    constants["small"] = np.array([rng.randint(-3, 3) for _ in range(rng.choice((1, 2, 4)))], np.int64)
    shape = rng.choice(([3], [4, 3], [3, 5, 5], [1], [1 << 20], [3, 1 << 12, 1 << 12]))
    shape = shape if len(inputs) == 1 else [3]
    before, nodes = inputs[0], []
    names = []
    for step in range(rng.choice((1, 1, 2))):
        schema = onnx.defs.get_schema(rng.choice(OPERATORS))
        names.append(schema.name)
        count = min(len(schema.inputs) + rng.randint(0, 1), max(schema.min_input, rng.randint(0, 7)))
        given = [rng.choice([before, before, *inputs, *constants, ""]) for _ in range(count)]
        if given:
            given[0] = rng.choice((before, before, before, given[0]))
        result = f"h{step}"
        outputs = [result, *(f"extra{step}.{i}" for i in range(1, rng.randint(1, max(1, len(schema.outputs)))))]
        if rng.random() < 0.1:
            outputs.insert(0, "")
        made = helper.make_node(schema.name, given, outputs, f"drawn{step}")
        for known in schema.attributes.values():
            if known.required or rng.random() < 0.4:
                attribute = some_attribute(known, rng)
                if attribute is not None:
                    made.attribute.append(attribute)
        nodes.append(made)
        before = result
    end = rng.choice(("Mul", "MatMul", "Add", "ReduceSum"))
    nodes.append(helper.make_node(end, [before, "small" if end == "ReduceSum" else "w1"], ["y"]))
    if len(inputs) > 1:  # a loss
        nodes.append(helper.make_node("ReduceMean", ["y"], ["mean"], keepdims=0))
        nodes[-2].output[0], nodes[-1].input[0], nodes[-1].output[0] = "z", "z", "y"
    read = {name for node in nodes for name in node.input}
    tensors = []
    for name, array in constants.items():
        if name in read:
            tensors.append(numpy_helper.from_array(np.asarray(array), name))
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info(name, rng.choice((1, 1, 1, 1, 7, 9)), ["batch", *shape]) for name in inputs],
        [helper.make_tensor_value_info("y", 1, [None] * rng.randint(0, 4))],
        tensors,
    )
    opset = rng.choice((7, 9, 11, 13, 17, 18, 21, 22, 23, 24, 26))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model, f"drawn {' '.join(names)} opset {opset}"


def some_attribute(known: Any, rng: Random) -> AttributeProto | None:
    """A value of the right type, but any value."""
    small = rng.random() < 0.6
    integer: Callable[[], int] = (lambda: rng.randint(-2, 4)) if small else (lambda: rng.choice(NUMBERS))
    kind = int(known.type.value) if hasattr(known.type, "value") else int(known.type)
    count = rng.choice((0, 1, 2, 2, 3, 4, 4, 6))
    values: dict[int, Callable[[], Any]] = {
        AttributeProto.INT: integer,
        AttributeProto.INTS: lambda: [integer() for _ in range(count)],
        AttributeProto.FLOAT: lambda: rng.choice(REALS),
        AttributeProto.FLOATS: lambda: [rng.choice(REALS) for _ in range(count)],
        AttributeProto.STRING: lambda: rng.choice((*TEXTS, "constant", "edge", "wrap", "add", "mul", "ij,jk->ik")),
        AttributeProto.STRINGS: lambda: [rng.choice(TEXTS) for _ in range(count)],
        AttributeProto.TENSOR: lambda: numpy_helper.from_array(np.full(rng.randint(0, 3), rng.choice(REALS))),
    }
    if kind not in values:
        return None
    made = AttributeProto(name=known.name, type=kind)
    value = values[kind]()
    if kind == AttributeProto.INT:
        made.i = value
    elif kind == AttributeProto.INTS:
        made.ints.extend(value)
    elif kind == AttributeProto.FLOAT:
        made.f = value
    elif kind == AttributeProto.FLOATS:
        made.floats.extend(value)
    elif kind == AttributeProto.STRING:
        made.s = value.encode()
    elif kind == AttributeProto.STRINGS:
        made.strings.extend(text.encode() for text in value)
    else:
        made.t.CopyFrom(value)
    return made


def every_change() -> Sequence[str]:
    """Names of all changes, for a report of what was tried."""
    return [change.__name__ for change in dict.fromkeys((*BYTES, *WIRE, *MODEL))]
