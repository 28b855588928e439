"""manifest.json: what an artifact directory holds, so that a device can use it without reading ONNX.

The flat vector that devices exchange is the parameters and then the buffers in manifest order, each in C order,
float32. Parameters are trained; buffers (running statistics of batch normalisation) change in training without a
gradient. Of a weight with an adapter (LoRA) only the adapter is among the parameters: the weight itself stays at home.
Every other file is listed with its size and BLAKE2b-256 hash; nothing is handed to ONNX Runtime before both are
checked. The hashes say that files belong together, not that they are harmless: whoever writes the files writes the
hashes (see vetting.py).

Devices of one fleet do not all have the same release. A reader refuses keys that it does not know, since leaving out
what they mean could train wrongly; but "hints" may hold anything: they change how fast a device trains, never what.

Invariant: a `Manifest` object is valid. `Manifest.parse` raises ModelError for every other input.
"""

from __future__ import annotations

import json
import math
from _blake2 import blake2b as hash_of  # as in hashlib, which also loads OpenSSL: 4 MB on a device that only trains
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgefl.errors import ModelError
from edgefl.trainer.files.loss_options import settings

FORMAT = 2
"""Version of the directory layout; a reader refuses every other."""

MANIFEST = "manifest.json"
TRAINING = "training_model.onnx"
EVALUATION = "eval_model.onnx"
OPTIMIZER = "optimizer_model.onnx"
INFERENCE = "inference_model.onnx"
CHECKPOINT = "checkpoint"
FILES = (TRAINING, EVALUATION, OPTIMIZER, INFERENCE, CHECKPOINT)

MAX_MANIFEST_BYTES = 8 << 20
"""As the checkpoint's header: both list every parameter once."""

MAX_MODEL_BYTES = 512 << 20
"""Largest single file. Training holds the parameters about five times (two buffers, gradient, Adam's two moments), so
this is what a device with 4 GB can train at all; it also keeps every file far below protobuf's 2 GiB."""

MAX_STATE = 4
"""Vectors that an optimiser carries: Adam has two."""

MAX_TENSORS = 1 << 16
MAX_NAME_LENGTH = 512
MAX_RANK = 8
MAX_OPTIONS = 32
DTYPES = ("float32", "int64", "int32", "uint8", "bool")
OWN_LOSS = "own"
LOSSES = ("cross-entropy", "bce", "mse", "mae", "huber")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
"""The names that a manifest may hold; what they mean is in losses.py and optimizers.py, which need the onnx package.
A user's own loss is called "own"."""

HINTS = ("divisible",)
"""Fields of a manifest that may be missing from the document, and be unknown to who reads it."""

Option = float | int | list[float]

Shape = tuple[int | None, ...]
"""Dimensions of a tensor; None grows with the batch."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array that goes in or out of a graph."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the vector (float32). `inference_offset` is the byte where its data starts in the inference model,
    None for a part of an adapter, which the inference model does not know."""

    name: str
    shape: tuple[int, ...]
    inference_offset: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return 4 * self.size


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank change of a weight that stays as it is: weight + scale · left · right, both matrices being parameters.

    `shape` and `inference_offset` are the weight's; left [rows, rank] and right [rank, columns] multiply to its matrix,
    which some nodes keep `transposed`. Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021.
    """

    weight: str
    shape: tuple[int, ...]
    inference_offset: int
    left: str
    right: str
    scale: float
    transposed: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """Name and options. `classes`: labels are below it (0: the target is no label)."""

    name: str
    options: Mapping[str, Option]
    classes: int


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Name, constants, and the vectors that the optimiser graph carries from step to step (all start at 0).

    `counts`: it is told the number of the step. `takes_step`: it is given −lr · gradient instead of the gradient.
    """

    name: str
    options: Mapping[str, float]
    state: tuple[str, ...]
    counts: bool
    takes_step: bool


@dataclass(frozen=True, slots=True)
class File:
    size_bytes: int
    blake2b: str

    @classmethod
    def of(cls, content: bytes) -> File:
        return cls(len(content), blake2b(content))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One artifact directory. `stripped` names a final Softmax, LogSoftmax or Sigmoid that the loss absorbed ("" if
    none), `seeded` says that training draws at random (dropout), from a seed that is fed at every step. `divisible`:
    the gradient of a batch is the sum over its parts, weighed as the loss weighs samples (building/divisible.py)."""

    inputs: tuple[Tensor, ...]
    target: Tensor
    outputs: tuple[Tensor, ...]
    parameters: tuple[Parameter, ...]
    buffers: tuple[Parameter, ...]
    adapters: tuple[Adapter, ...]
    seeded: bool
    loss: Loss
    stripped: str
    optimizer: Optimizer
    opset: int
    operators: tuple[str, ...]
    files: Mapping[str, File] = field(default_factory=dict)
    divisible: bool = False
    format: int = FORMAT

    @property
    def vector_size(self) -> int:
        """Elements of the flat vector."""
        return self.trained_size + sum(buffer.size for buffer in self.buffers)

    @property
    def trained_size(self) -> int:
        """Elements of its first part, which is trained."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def carried(self) -> tuple[Parameter, ...]:
        """The tensors of the vector."""
        return (*self.parameters, *self.buffers)

    def serialise(self) -> bytes:
        document = asdict(self) | {"vector_size": self.vector_size}
        document["hints"] = {name: document.pop(name) for name in HINTS}
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """Raises ModelError for anything but a complete, consistent manifest of this format."""
        try:
            document = json.loads(content.decode())
        except (ValueError, RecursionError):
            raise _bad("not JSON") from None
        manifest = _manifest(document)
        _check(manifest)
        if document["vector_size"] != manifest.vector_size:
            raise _bad("vector_size is not the sum of the parameters")
        return manifest


def blake2b(content: bytes) -> str:
    """BLAKE2b-256, hexadecimal."""
    return hash_of(content, digest_size=32).hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an artifact directory. Raises ModelError."""
    return Manifest.parse(_read(directory / MANIFEST, MAX_MANIFEST_BYTES))


def read_file(directory: Path, manifest: Manifest, name: str) -> bytes:
    """The content of one listed file, its size and hash checked. Raises ModelError."""
    expected = manifest.files[name]
    content = _read(directory / name, expected.size_bytes)
    if File.of(content) != expected:
        raise ModelError(
            f"{directory / name} is not the file that the manifest lists (size or hash differ)",
            hint="build the artifacts again, or fetch them again",
        )
    return content


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}",
            hint="name a directory that `edgefl artifacts build` wrote",
        ) from error
    if len(content) > limit_bytes:
        raise ModelError(f"{path} is larger than {limit_bytes} bytes", hint="build the artifacts again")
    return content


# Reading the document: each function takes what JSON gave and returns the typed thing or raises.


def _manifest(document: Any) -> Manifest:
    names = {"vector_size", "hints", *Manifest.__dataclass_fields__} - set(HINTS)
    if not isinstance(document, dict):
        raise _bad("not an object")
    if document.get("format") != FORMAT:
        raise ModelError(
            f"artifact format {document.get('format')!r:.40}, this edgefl reads {FORMAT}",
            hint="update edgefl, or build the artifacts again with this version",
        )
    document.setdefault("hints", {})
    if unknown := sorted(set(document) - names):
        raise ModelError(
            f"these artifacts have {', '.join(unknown):.80}, which this edgefl does not know",
            hint="update edgefl on this device, or build the artifacts with the version that it has",
        )
    _keys(document, names, "manifest")
    return Manifest(
        inputs=tuple(_tensor(entry) for entry in _list(document["inputs"])),
        target=_tensor(document["target"]),
        outputs=tuple(_tensor(entry) for entry in _list(document["outputs"])),
        parameters=tuple(_parameter(entry) for entry in _list(document["parameters"])),
        buffers=tuple(_parameter(entry) for entry in _list(document["buffers"])),
        adapters=tuple(_adapter(entry) for entry in _list(document["adapters"])),
        seeded=_truth(document["seeded"]),
        divisible=_truth(_hints(document["hints"]).get("divisible", False)),
        loss=_loss(document["loss"]),
        stripped=_text(document["stripped"]),
        optimizer=_optimizer(document["optimizer"]),
        opset=_integer(document["opset"]),
        operators=tuple(_text(entry) for entry in _list(document["operators"])),
        files={name: _file(entry) for name, entry in _keys(document["files"], set(FILES), "files").items()},
    )


def _check(m: Manifest) -> None:
    for group in (m.inputs, m.outputs, m.carried):
        names = [tensor.name for tensor in group]
        if len(set(names)) != len(names):
            raise _bad("a name appears twice")
    if not m.inputs or not m.outputs or not m.parameters:
        raise _bad("inputs, outputs and parameters must not be empty")
    if any(tensor.name == "target" for tensor in m.inputs):
        raise _bad("a model input is named 'target'")
    if any(tensor.shape[:1] != (None,) for tensor in (*m.inputs, m.target)):
        raise _bad("inputs and target must have the batch as first dimension")
    if any(tensor.shape[1:].count(None) for tensor in (*m.inputs, m.target)):
        raise _bad("inputs and target must have the batch as their only open dimension")
    if m.loss.name not in (*LOSSES, OWN_LOSS) or (m.loss.name == "cross-entropy") != (m.loss.classes >= 2):
        raise _bad("loss and classes do not fit each other")
    if settings(m.loss.name, m.loss.options) != m.loss.options:
        raise _bad("the options of the loss are not complete")
    if m.optimizer.name not in OPTIMIZERS:
        raise _bad("unknown optimizer")
    if any(tensor.size < 1 for tensor in m.carried):
        raise _bad("a tensor is empty")
    if 4 * m.vector_size > MAX_MODEL_BYTES or len(m.optimizer.state) > MAX_STATE:
        raise ModelError("the model is larger than any that can be trained", hint="use a smaller model")
    _check_adapters(m)
    _check_places(m)


def _check_adapters(m: Manifest) -> None:
    """Every part belongs to one adapter, and its shape fits the weight's."""
    parts = {p.name: p.shape for p in m.parameters if p.inference_offset is None}
    for adapter in m.adapters:
        left, right = parts.pop(adapter.left, ()), parts.pop(adapter.right, ())
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            raise _bad(f"the adapter of {adapter.weight!r} has no two matrices that fit each other")
        if left[0] * right[1] != math.prod(adapter.shape):
            raise _bad(f"the adapter of {adapter.weight!r} does not fit the weight")
    if parts or any(buffer.inference_offset is None for buffer in m.buffers):
        raise _bad("a tensor has no place in the inference model")


def _check_places(m: Manifest) -> None:
    """What is written into the inference model lies inside it, and nothing over anything else."""
    places = [(p.inference_offset, p.size) for p in m.carried if p.inference_offset is not None]
    places += [(a.inference_offset, math.prod(a.shape)) for a in m.adapters]
    end = 0
    for offset, size in sorted(places):
        if offset < end:
            raise _bad("two tensors overlap in the inference model")
        end = offset + 4 * size
    if end > m.files[INFERENCE].size_bytes:
        raise _bad("a tensor lies outside the inference model")


def _tensor(entry: Any) -> Tensor:
    _keys(entry, {"name", "dtype", "shape"}, "tensor")
    if entry["dtype"] not in DTYPES:
        raise _bad(f"unknown dtype {entry['dtype']!r:.40}")
    shape = tuple(None if n is None else _integer(n) for n in _list(entry["shape"], MAX_RANK))
    return Tensor(_text(entry["name"]), entry["dtype"], shape)


def _parameter(entry: Any) -> Parameter:
    _keys(entry, {"name", "shape", "inference_offset"}, "parameter")
    offset = entry["inference_offset"]
    return Parameter(_text(entry["name"]), _sizes(entry["shape"]), None if offset is None else _integer(offset))


def _adapter(entry: Any) -> Adapter:
    _keys(entry, {"weight", "shape", "inference_offset", "left", "right", "scale", "transposed"}, "adapter")
    left, right, weight = (_text(entry[key]) for key in ("left", "right", "weight"))
    place = _integer(entry["inference_offset"])
    scale, transposed = _number(entry["scale"]), _truth(entry["transposed"])
    return Adapter(weight, _sizes(entry["shape"]), place, left, right, scale, transposed)


def _loss(entry: Any) -> Loss:
    _keys(entry, {"name", "options", "classes"}, "loss")
    options = entry["options"]
    if not isinstance(options, dict) or len(options) > MAX_OPTIONS:
        raise _bad(f"loss options must be an object of at most {MAX_OPTIONS} entries")
    return Loss(_text(entry["name"]), {_text(k): _option(v) for k, v in options.items()}, _integer(entry["classes"]))


def _option(entry: Any) -> Option:
    if isinstance(entry, list):
        return [_number(number) for number in _list(entry)]
    return entry if type(entry) is int and abs(entry) < 1 << 40 else _number(entry)


def _optimizer(entry: Any) -> Optimizer:
    _keys(entry, {"name", "options", "state", "counts", "takes_step"}, "optimizer")
    options = entry["options"]
    if not isinstance(options, dict) or len(options) > MAX_OPTIONS:
        raise _bad(f"optimizer options must be an object of at most {MAX_OPTIONS} entries")
    return Optimizer(
        _text(entry["name"]),
        {_text(name): _number(value) for name, value in options.items()},
        tuple(_text(name) for name in _list(entry["state"], MAX_OPTIONS)),
        _truth(entry["counts"]),
        _truth(entry["takes_step"]),
    )


def _hints(entry: Any) -> dict[str, Any]:
    """Whatever else is among them is of a later release."""
    if not isinstance(entry, dict) or len(entry) > MAX_OPTIONS:
        raise _bad(f"hints must be an object of at most {MAX_OPTIONS} entries")
    return entry


def _file(entry: Any) -> File:
    _keys(entry, {"size_bytes", "blake2b"}, "file")
    size = _integer(entry["size_bytes"])
    if size > MAX_MODEL_BYTES:
        raise ModelError(f"a file of {size} bytes is over the limit of {MAX_MODEL_BYTES}", hint="use a smaller model")
    return File(size, _text(entry["blake2b"]))


def _keys(entry: Any, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or set(entry) != names:
        raise _bad(f"{what} must have exactly the keys {', '.join(sorted(names))}")
    return entry


def _list(entry: Any, limit: int = MAX_TENSORS) -> list[Any]:
    if not isinstance(entry, list) or len(entry) > limit:
        raise _bad(f"a list of at most {limit} entries was expected")
    return entry


def _text(entry: Any) -> str:
    if not isinstance(entry, str) or len(entry) > MAX_NAME_LENGTH or not entry.isprintable():
        raise _bad(f"a printable text of at most {MAX_NAME_LENGTH} characters was expected")
    return entry


def _integer(entry: Any) -> int:
    if type(entry) is not int or not 0 <= entry < 1 << 40:
        raise _bad("a non-negative whole number was expected")
    return entry


def _sizes(entry: Any) -> tuple[int, ...]:
    return tuple(_integer(n) for n in _list(entry, MAX_RANK))


def _number(entry: Any) -> float:
    if type(entry) is int and abs(entry) < 1 << 53:
        return float(entry)
    if type(entry) is not float or not math.isfinite(entry):
        raise _bad("a finite number was expected")
    return entry


def _truth(entry: Any) -> bool:
    if not isinstance(entry, bool):
        raise _bad("true or false was expected")
    return entry


def _bad(what: str) -> ModelError:
    return ModelError(f"broken manifest: {what}", hint="build the artifacts again, or fetch them again")
