"""The first step of artifacts that come from somebody else, in a process of its own.

Artifacts are a program: vetting.py knows what it consists of, but not what ONNX Runtime makes of absurd attributes. So
before a daemon opens a session, a child process takes one step, one evaluation and one export with the same files, in a
bounded amount of memory and time. A graph that makes ONNX Runtime crash or hang takes down that child alone.

    python -m edgefl.trainer.trial DIRECTORY THREADS PROVIDER        exits 0, or writes one line of JSON and exits 1
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from edgefl.durable import write_atomically
from edgefl.errors import ModelError, StorageError
from edgefl.trainer.cancelled import TrainingCancelledError
from edgefl.trainer.manifest import CHECKPOINT, EVALUATION, FILES, OPTIMIZER, TRAINING, blake2b, read_manifest

TIMEOUT_S = 300.0
"""A step of the largest model on the slowest device takes a minute; loading it, another."""

BASE_BYTES = 1 << 30
"""Address space for Python, numpy and ONNX Runtime with its threads: 400 to 700 MB are mapped, a tenth of it used."""

BYTES_PER_BYTE = 16
"""Of address space, for each byte of the files: graphs are copied while they are read, and training holds the weights,
their gradient, the optimiser's state and the activations of the smallest batch."""

POLL_S = 0.1
SAMPLES = 2
HINT = "do not use artifacts of people that you do not trust; build them again"


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
        for old in sorted(notes.iterdir(), key=lambda path: path.stat().st_mtime)[: -MAX_NOTES + 1]:
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
    command = [sys.executable, "-m", "edgefl.trainer.trial", str(directory), str(threads), provider]
    deadline = monotonic() + timeout_s
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise ModelError(f"cannot start a process to try the artifacts: {error.strerror or error}") from None
    with child:
        while True:
            try:
                output, _ = child.communicate(timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                if should_stop():
                    child.kill()
                    raise TrainingCancelledError("the trial of the artifacts was stopped") from None
                if monotonic() >= deadline:
                    child.kill()
                    raise ModelError(
                        f"a first step with these artifacts took over {timeout_s:g} s", hint=HINT
                    ) from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise ModelError(f"these artifacts crash ONNX Runtime ({name})", hint=HINT)
    if child.returncode:
        raise _said(output)


def _said(output: bytes) -> ModelError:
    """The child's last words; it runs a stranger's graph, so they are not believed to be well-formed."""
    try:
        cause, hint = json.loads(output.splitlines()[-1])
        return ModelError(str(cause)[:500], hint=str(hint)[:500])
    except (ValueError, IndexError, TypeError):
        return ModelError("a first step with these artifacts failed without a word", hint=HINT)


def _limit_memory(directory: Path) -> None:
    manifest = read_manifest(directory)
    size = sum(manifest.files[name].size_bytes for name in FILES) + 16 * manifest.files[CHECKPOINT].size_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = BASE_BYTES + BYTES_PER_BYTE * size
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _try(directory: Path, threads: int, provider: str) -> None:
    from edgefl.trainer.gradient_check import synthetic_batch
    from edgefl.trainer.inference_model import with_weights
    from edgefl.trainer.manifest import INFERENCE, read_file
    from edgefl.trainer.session import Session

    _limit_memory(directory)
    session = Session(directory, threads=threads, provider=provider)
    batch = synthetic_batch(session.manifest, SAMPLES)
    session.step(batch, 0.0)
    session.evaluate(batch)
    with_weights(read_file(directory, session.manifest, INFERENCE), session.manifest, session.view())


def main() -> None:
    """The child."""
    from edgefl.errors import EdgeflError

    directory, threads, provider = sys.argv[1:]
    try:
        _try(Path(directory), int(threads), provider)
    except EdgeflError as error:
        print(json.dumps([error.cause, error.hint]))  # noqa: T201 - this is how it answers
    except MemoryError:
        print(json.dumps(["a first step with these artifacts needs too much memory", HINT]))  # noqa: T201
    else:
        return
    raise SystemExit(1)


if __name__ == "__main__":
    main()
