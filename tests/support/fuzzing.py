"""Mutants handed to the trainer's doors, each in a process that may die of it.

A door is a way by which files of other people come in:

    build       a user's ONNX file becomes artifacts, in the process of the caller
    loss        the same for a loss of one's own
    artifacts   a directory whose files were changed, its manifest made to fit again: first the trial (trial.py, here in
                a fork instead of a new interpreter), then, if that went well, a session in the process of the caller

    python fuzzing.py DOOR SEED FOLDER MEMORY TIMEOUT     a worker: numbers of mutants in, one line of JSON each out
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from threading import Lock, Thread
from typing import Any

ROOM_BYTES = 512 << 20
"""What a mutant may add to the memory of its worker, whatever it claims: mutants are 4 MB at most."""

LIMIT_BYTES = 4 << 30
"""Address space beyond which a worker gets no more, so that a mutant that asks for everything harms nobody else."""

TIMEOUT_S = 60.0
START_S = 120.0
FRESH_AFTER = 1000
"""Mutants after which a worker is replaced, so that what one leaves behind does not count against others for long."""

FAILED = "FAILED: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """`what` names a good end ("built", "ModelError"), or begins with `FAILED`."""

    index: int
    what: str
    origin: str = ""
    detail: str = ""
    seconds: float = 0.0
    grown_bytes: int = 0

    @property
    def failed(self) -> bool:
        return self.what.startswith(FAILED)


def run(
    door: str,
    indexes: Iterable[int],
    *,
    seed: int,
    processes: int = 1,
    timeout_s: float = TIMEOUT_S,
    room_bytes: int = ROOM_BYTES,
) -> Iterator[Outcome]:
    """The outcome of each mutant, in no particular order."""
    todo, lock = iter(indexes), Lock()
    done: list[Outcome] = []
    alive = [True] * processes

    def next_index() -> int | None:
        with lock:
            return next(todo, None)

    def work(place: int) -> None:
        worker: _Worker | None = None
        try:
            while (index := next_index()) is not None:
                if worker is None or worker.count >= FRESH_AFTER:
                    worker = worker and worker.close()
                    worker = _Worker(door, seed, timeout_s, room_bytes)
                outcome = worker.outcome(index)
                done.append(outcome)
                if worker.dead or outcome.failed:  # what is left behind would count against the next
                    worker = worker.close()
        finally:
            if worker is not None:
                worker.close()
            alive[place] = False

    threads = [Thread(target=work, args=(place,)) for place in range(processes)]
    for thread in threads:
        thread.start()
    while any(alive) or done:
        if done:
            yield done.pop(0)
        else:
            time.sleep(0.01)


class _Worker:
    def __init__(self, door: str, seed: int, timeout_s: float, room_bytes: int) -> None:
        self.timeout_s = timeout_s
        self.count, self.dead = 0, False
        self._folder = tempfile.mkdtemp(prefix="fuzz-")
        self._errors = Path(self._folder, "stderr")
        command = [sys.executable, __file__, door, str(seed), self._folder, str(room_bytes), str(timeout_s)]
        paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1"}
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )
        if self._answer(START_S) != b"ready\n":
            raise RuntimeError(f"the worker did not start: {self._said()}")

    def outcome(self, index: int) -> Outcome:
        assert self._process.stdin is not None
        self.count += 1
        began = time.monotonic()
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{index}\n".encode())
            self._process.stdin.flush()
        line = self._answer(self.timeout_s * 3)  # three forks at most, each with its own alarm
        if line:
            return Outcome(**json.loads(line))
        seconds = time.monotonic() - began
        self.dead = True
        if self._process.poll() is None and not self._ended():
            return Outcome(index, f"{FAILED}timeout", seconds=seconds)
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        what = "timeout" if name == "SIGALRM" else name
        return Outcome(index, FAILED + what, detail=self._said(), seconds=seconds)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ended(self) -> bool:
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _answer(self, timeout_s: float) -> bytes:
        """A line, or nothing when the worker died or took too long."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else b""

    def _said(self) -> str:
        return self._errors.read_text(errors="replace")[-1500:]


# In the worker


class Door:
    """Makes mutants and tries them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder

    def random(self, index: int) -> Random:
        return Random(f"{self.seed}/{index}")

    def mutant(self, index: int) -> Any:
        """Has an `origin`."""
        raise NotImplementedError

    def attempt(self, index: int, mutant: Any) -> tuple[str, str]:
        """What became of it, and more about that."""
        raise NotImplementedError

    def save(self, index: int, place: Path) -> None:
        """Write the mutant to look at it later."""
        raise NotImplementedError


def verdict(action: Callable[[], object], good: str) -> tuple[str, str]:
    """What becomes of an action: the name of the error that edgefl raises, or a failure."""
    from edgefl.errors import EdgeflError

    try:
        action()
    except EdgeflError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return f"{FAILED}memory asked for", f"{error!r} from {cause!r}"
            cause = cause.__cause__ or cause.__context__
        masked = f" from {type(error.__cause__).__name__}" if error.__cause__ else ""
        return type(error).__name__ + masked, str(error)
    except MemoryError as error:
        return f"{FAILED}MemoryError", _traceback(error)
    except Exception as error:
        return f"{FAILED}{type(error).__name__}", _traceback(error)
    return good, ""


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-1500:]


class BuildDoor(Door):
    """A user's model."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        from edgefl.trainer.building.lora import LowRank
        from support.seed_models import seed_models

        self.seeds = seed_models()
        self.lora = LowRank(2)
        (folder / "weights.bin").write_bytes(bytes(4000))

    def mutant(self, index: int) -> Any:
        from support.mutants import mutant

        return mutant(self.random(index), self.seeds)

    def attempt(self, index: int, mutant: Any) -> tuple[str, str]:
        from edgefl import trainer

        rng = self.random(-1 - index)
        model: Any = mutant.content
        if rng.random() < 0.1:
            model = self.folder / "model.onnx"
            model.write_bytes(mutant.content)
        options: dict[str, Any] = {
            "loss": rng.choice(("mse", "mse", "cross-entropy", "bce", "mae", "huber")),
            "optimizer": rng.choice(("sgd", "adam")),
            "portable": rng.random() < 0.2,
            "lora": self.lora if rng.random() < 0.1 else None,
        }
        out = self.folder / "built"
        return verdict(lambda: trainer.build(model, out=out, **options), "built")

    def save(self, index: int, place: Path) -> None:
        place.with_suffix(".onnx").write_bytes(self.mutant(index).content)


class LossDoor(Door):
    """A user's own loss."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        from support.seed_models import model, node, seed_losses

        self.model = model([node("Gemm", ["x", "w"], ["y"])], {"w": (4, 3)})
        self.seeds = seed_losses()

    def mutant(self, index: int) -> Any:
        from support.mutants import mutant

        return mutant(self.random(index), self.seeds, inputs=("prediction", "target"))

    def attempt(self, index: int, mutant: Any) -> tuple[str, str]:
        from edgefl import trainer

        out = self.folder / "built"
        return verdict(lambda: trainer.build(self.model, loss=mutant.content, out=out), "built")

    def save(self, index: int, place: Path) -> None:
        place.with_suffix(".onnx").write_bytes(self.mutant(index).content)


DOORS: dict[str, Callable[[int, Path], Door]] = {"build": BuildDoor, "loss": LossDoor}


def main() -> None:
    """The worker."""
    door_name, seed, folder, room_bytes, timeout_s = sys.argv[1:]
    # what C++ code prints must not come between the answers
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import onnx.reference  # noqa: F401 - everything that is loaded lazily, before memory is counted
    import onnxruntime  # noqa: F401

    import edgefl.trainer.building.artifacts
    import edgefl.trainer.running.session
    import edgefl.trainer.running.trial  # noqa: F401

    door = DOORS[door_name](int(seed), Path(folder))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    trim = ctypes.CDLL(None).malloc_trim
    print("ready", file=answers)
    for line in sys.stdin:
        index = int(line)
        mutant = door.mutant(index)
        trim(0)
        before = _peak_bytes(reset=True)
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, float(timeout_s))
        what, detail = door.attempt(index, mutant)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.monotonic() - began
        grown = _peak_bytes() - before
        if grown > int(room_bytes) and not what.startswith(FAILED):
            detail, what = f"{what}: {detail}", f"{FAILED}memory"
        print(json.dumps(asdict(Outcome(index, what, mutant.origin, detail[-1500:], seconds, grown))), file=answers)


def _peak_bytes(*, reset: bool = False) -> int:
    """The most that this process had resident since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
