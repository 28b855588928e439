"""The first step of artifacts that come from somebody else, in a process of its own.

Artifacts are a program: vetting.py knows what it consists of, but not what ONNX Runtime makes of absurd attributes. So
before a daemon opens a session, a child process takes one step, one evaluation and one export with the same files, in a
bounded amount of memory and time. A graph that makes ONNX Runtime crash or hang takes down that child alone.

    python -m edgefl.trainer.running.trial DIRECTORY THREADS PROVIDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgefl.durable import write_atomically
from edgefl.errors import StorageError
from edgefl.trainer.child import Child, limit_memory
from edgefl.trainer.files.manifest import CHECKPOINT, EVALUATION, FILES, OPTIMIZER, TRAINING, blake2b, read_manifest
from edgefl.trainer.running.cancelled import TrainingCancelledError

TIMEOUT_S = 300.0
"""A step of the largest model on the slowest device takes a minute; loading it, another."""

BASE_BYTES = 1 << 30
"""Address space for Python, numpy and ONNX Runtime with its threads: 400 to 700 MB are mapped, a tenth of it used."""

BYTES_PER_BYTE = 16
"""Of address space, for each byte of the files: graphs are copied while they are read, and training holds the weights,
their gradient, the optimiser's state and the activations of the smallest batch."""

SAMPLES = 2

CHILD = Child(
    "edgefl.trainer.running.trial",
    "a first step with these artifacts",
    "do not use artifacts of people that you do not trust; build them again",
)

MAX_NOTES = 256
"""Graphs that a device remembers to have tried."""


def require_tried(
    directory: Path,
    notes: Path,
    *,
    threads: int = 1,
    provider: str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """As `require_trial`, but once for the same graphs and the same ONNX Runtime: a file in the directory `notes`
    remembers it. (Weights are not part of the question: they are numbers, and checked as such.) Raises StorageError
    too."""
    manifest = read_manifest(directory)
    graphs = [manifest.files[name].blake2b for name in (TRAINING, EVALUATION, OPTIMIZER)]
    note = notes / blake2b(" ".join([*graphs, version("onnxruntime"), provider]).encode())
    if note.exists():
        return
    require_trial(directory, threads=threads, provider=provider, should_stop=should_stop)
    try:
        notes.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sorted(notes.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in kept[MAX_NOTES - 1 :]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write to {notes}: {error.strerror or error}") from error
    write_atomically(note, b"")


def require_trial(
    directory: Path,
    *,
    threads: int = 1,
    provider: str = "cpu",
    timeout_s: float = TIMEOUT_S,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Return when the artifacts have run elsewhere. Raises ModelError with what the child said, or how it ended, and
    TrainingCancelledError when `should_stop`, which is asked all the time, says so."""
    try:
        CHILD.run([str(directory), str(threads), provider], timeout_s=timeout_s, should_stop=should_stop)
    except InterruptedError as error:
        raise TrainingCancelledError(str(error)) from None


def try_artifacts(directory: Path, threads: int, provider: str) -> None:
    """In the child: one step, one evaluation and one export. Raises EdgeflError, MemoryError."""
    from edgefl.trainer.files.inference_model import with_weights
    from edgefl.trainer.files.manifest import INFERENCE, read_file
    from edgefl.trainer.running.gradient_check import synthetic_batch
    from edgefl.trainer.running.session import Session

    manifest = read_manifest(directory)
    size = sum(manifest.files[name].size_bytes for name in FILES) + 16 * manifest.files[CHECKPOINT].size_bytes
    limit_memory(BASE_BYTES + BYTES_PER_BYTE * size)
    session = Session(directory, threads=threads, provider=provider)
    batch = synthetic_batch(session.manifest, SAMPLES)
    session.step(batch, 0.0)
    session.evaluate(batch)
    with_weights(read_file(directory, session.manifest, INFERENCE), session.manifest, session.view())


if __name__ == "__main__":
    CHILD.answer(lambda: try_artifacts(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
