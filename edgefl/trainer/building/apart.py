"""`build`, in a process of its own.

A user's model may be a stranger's, and the onnx package, written in C++, ends the process that reads some hostile
files (tools/fuzz_trainer.py finds them). The child also keeps the memory that building takes, and the onnx package
itself, out of the caller.

    python -m edgefl.trainer.building.apart        reads one line of JSON (the recipe), then the files that it announces
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.errors import MissingPackageError, ModelError
from edgefl.trainer.building.low_rank import LowRank
from edgefl.trainer.child import Child, limit_memory
from edgefl.trainer.files.manifest import MAX_MODEL_BYTES, Manifest, Option, read_manifest

if TYPE_CHECKING:
    import onnx

TIMEOUT_S = 1800.0
"""The largest model on the slowest device takes some minutes."""

BASE_BYTES = 3 << 29
"""Address space for Python, numpy and onnx (700 MB), and for what a small file may become."""

BYTES_PER_BYTE = 24
"""Of address space, for each byte of the model and of files beside it: it is parsed, rewritten, differentiated and
written in five files."""

CHILD = Child(
    "edgefl.trainer.building.apart",
    "building artifacts from this model",
    "check the file with onnx.checker.check_model, or export it again",
)


def build(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    loss: str | os.PathLike[str] | bytes | onnx.ModelProto,
    optimizer: str = "sgd",
    out: str | os.PathLike[str],
    trainable: Sequence[str] | None = None,
    frozen: Sequence[str] = (),
    loss_options: Mapping[str, Option] | None = None,
    optimizer_options: Mapping[str, float] | None = None,
    lora: LowRank | None = None,
    portable: bool = False,
) -> Manifest:
    """Make an ONNX inference model (float32, opset 7 to 28) trainable; write the artifact directory `out`.

    loss: one of losses.LOSSES with its options, or an ONNX model (own_loss.py). optimizer: one of
    optimizers.OPTIMIZERS with its options. trainable, frozen: globs on initializer names; by default every float32
    initializer with at least one dimension that the loss depends on is trained, and `frozen` is taken away from that.
    lora: train low-rank adapters beside the large weights instead, and beyond them only what `trainable` names.
    portable: use ai.onnx operators alone, for runtimes that lack ONNX Runtime's FusedMatMul.

    A model that ends in what the loss contains (Softmax, LogSoftmax; Sigmoid) is trained on the logits before it (the
    manifest's `stripped` says so); evaluation and the exported model keep it.

    Whatever the model is, the caller goes on: the work is done by a child process with bounded memory and time.

    Raises MissingPackageError without the onnx package, ModelError for a model that cannot be used (its subclass
    UnsupportedOperatorError names the node), StorageError.
    """
    if not _is_installed("onnx"):
        raise MissingPackageError("building artifacts needs the onnx package", hint="pip install 'edgefl[build]'")
    files: list[bytes] = []
    recipe = {
        "model": _told(model, files),
        "loss": loss if isinstance(loss, str) else _told(loss, files),
        "optimizer": optimizer,
        "out": os.fspath(out),
        "trainable": None if trainable is None else list(trainable),
        "frozen": list(frozen),
        "loss_options": dict(loss_options or {}),
        "optimizer_options": dict(optimizer_options or {}),
        "lora": None if lora is None else asdict(lora),
        "portable": portable,
    }
    line = json.dumps(recipe, default=_plain).encode() + b"\n"
    CHILD.run([], request=[line, *files], timeout_s=TIMEOUT_S)
    return read_manifest(Path(out))


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it is being kept out
        return False


def _told(model: str | os.PathLike[str] | bytes | onnx.ModelProto, files: list[bytes]) -> str | int:
    """A path, or the size of what is added to `files`."""
    if isinstance(model, (str, os.PathLike)):
        return str(model)
    files.append(model if isinstance(model, bytes) else model.SerializeToString())
    return len(files[-1])


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON's. Raises ModelError."""
    try:
        return value.tolist()
    except AttributeError:
        raise ModelError(f"an option is {value!r:.80}", hint="options are numbers and lists of numbers") from None


def _work() -> None:
    from edgefl.trainer.building.artifacts import build_here

    recipe = json.loads(sys.stdin.buffer.readline())
    for name in ("model", "loss"):
        if isinstance(recipe[name], int):
            recipe[name] = sys.stdin.buffer.read(recipe[name])
    if recipe["lora"] is not None:
        lora = recipe["lora"]
        recipe["lora"] = LowRank(lora["rank"], lora["targets"] and tuple(lora["targets"]), lora["alpha"])
    limit_memory(BASE_BYTES + BYTES_PER_BYTE * _size(recipe["model"]))
    build_here(**recipe)


def _size(model: str | bytes) -> int:
    """Bytes of a model and of the files beside it that it may refer to, no more than any may have."""
    if isinstance(model, bytes):
        return len(model)
    path = Path(model)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(MAX_MODEL_BYTES)
        size += sum(entry.stat().st_size for entry in path.parent.iterdir() if entry.name.encode() in content)
    except OSError:
        return 0  # what is wrong with it is said by whoever reads it
    return min(size, MAX_MODEL_BYTES)


if __name__ == "__main__":
    CHILD.answer(_work)
