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
from pathlib import Path

from edgefl.errors import ModelError
from edgefl.trainer.manifest import CHECKPOINT, FILES, read_manifest

TIMEOUT_S = 300.0
"""A step of the largest model on the slowest device takes a minute; loading it, another."""

BASE_BYTES = 1 << 30
"""Address space for Python, numpy and ONNX Runtime with its threads: 400 to 700 MB are mapped, a tenth of it used."""

BYTES_PER_BYTE = 16
"""Of address space, for each byte of the files: graphs are copied while they are read, and training holds the weights,
their gradient, the optimiser's state and the activations of the smallest batch."""

SAMPLES = 2
HINT = "do not use artifacts of people that you do not trust; build them again"


def require_trial(directory: Path, *, threads: int = 1, provider: str = "cpu", timeout_s: float = TIMEOUT_S) -> None:
    """Return when the artifacts have run elsewhere. Raises ModelError with what the child said, or how it ended."""
    command = [sys.executable, "-m", "edgefl.trainer.trial", str(directory), str(threads), provider]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"a first step with these artifacts took over {timeout_s:g} s", hint=HINT) from None
    except OSError as error:
        raise ModelError(f"cannot start a process to try the artifacts: {error.strerror or error}") from None
    if done.returncode == 0:
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"these artifacts crash ONNX Runtime ({name})", hint=HINT)
    raise _said(done.stdout)


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
