"""Work that can crash, hang or take all memory, in a process of its own.

The onnx package and ONNX Runtime are C++ that believes what a file says: a hostile one can end the process that reads
it. A daemon and a user's Python session go on. A child is one of our modules, started with `python -m`; it answers with
one line of JSON and is told nothing but its arguments and what comes on its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import IO, Any

from edgefl.errors import (
    ConfigError,
    DataError,
    EdgeflError,
    MissingPackageError,
    ModelError,
    StorageError,
    UnsupportedOperatorError,
)

POLL_S = 0.1

MAX_ANSWER = 1 << 20
"""Bytes of an answer that are looked at."""

_ERRORS = {
    error.name: error
    for error in (ModelError, UnsupportedOperatorError, StorageError, DataError, ConfigError, MissingPackageError)
}


@dataclass(frozen=True, slots=True)
class Child:
    """`module` is run, `task` names its work in errors ("building these artifacts"), `hint` what to do if it dies."""

    module: str
    task: str
    hint: str

    def run(
        self,
        arguments: Sequence[str],
        *,
        request: Sequence[bytes] = (),
        timeout_s: float,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return when the child has done its work. Raises the error that it names; ModelError when it crashes, takes
        longer than `timeout_s` or says nothing; InterruptedError as soon as `should_stop`, asked all the time, says so.
        """
        command = [sys.executable, "-m", self.module, *arguments]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        try:
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere)
        except OSError as error:
            raise ModelError(f"cannot start a process for {self.task}: {error.strerror or error}") from None
        deadline = monotonic() + timeout_s
        # Not through `communicate`: it forgets the rest of a request that the pipe cannot hold when its time is over.
        stdin, child.stdin = child.stdin, None
        giver = threading.Thread(target=_give, args=(stdin, request), daemon=True)
        giver.start()
        with child:
            try:
                while True:
                    try:
                        output, _ = child.communicate(timeout=POLL_S)
                        break
                    except subprocess.TimeoutExpired:
                        pass
                    if should_stop():
                        raise InterruptedError(f"{self.task} was stopped")
                    if monotonic() >= deadline:
                        raise ModelError(f"{self.task} took over {timeout_s:g} s", hint=self.hint)
            except BaseException:
                child.kill()
                raise
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            raise ModelError(f"{self.task} crashed the process that tried it ({name})", hint=self.hint)
        if child.returncode:
            raise self._said(output[-MAX_ANSWER:])

    def _said(self, output: bytes) -> EdgeflError:
        """The child's last words; it has read a stranger's file, so they are not believed to be well-formed."""
        try:
            name, cause, hint = json.loads(output.splitlines()[-1])
            return _ERRORS[name](str(cause)[:1000], hint=str(hint)[:1000])
        except (ValueError, IndexError, TypeError, KeyError):
            return ModelError(f"{self.task} failed without a word", hint=self.hint)

    def answer(self, work: Callable[[], Any]) -> None:
        """In the child: do the work and exit, with 0 when it went well."""
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what C++ code prints must not come between
        error: EdgeflError
        try:
            work()
        except EdgeflError as named:
            error = named
        except MemoryError:
            error = ModelError(f"{self.task} needs too much memory", hint=self.hint)
        else:
            return
        print(json.dumps([error.name, error.cause, error.hint]), file=answers, flush=True)
        raise SystemExit(1)


def _give(stdin: IO[bytes] | None, request: Sequence[bytes]) -> None:
    """Write it all and close; a child that has gone reads no more."""
    if stdin is not None:
        with contextlib.suppress(OSError), stdin:
            for part in request:
                stdin.write(part)


def limit_memory(limit_bytes: int) -> None:
    """Let this process have no more address space than this, or than it may have anyway."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
