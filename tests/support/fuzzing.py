"""Mutants handed to the trainer's doors (fuzz_doors.py), many to a process, which may die of it.

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
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock, Thread

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
        line = self._answer(self.timeout_s * 3)  # it has an alarm of its own
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


def main() -> None:
    """The worker."""
    door_name, seed, folder, room_bytes, timeout_s = sys.argv[1:]
    # what C++ code prints must not come between the answers
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from support.fuzz_doors import DOORS

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
