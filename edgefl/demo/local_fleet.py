"""A fleet of real daemons on this machine: processes on loopback with CURVE, ports chosen free, all in one directory.

Nothing survives it: processes are ended when the context is left, however that happens (a killed parent takes them with
it), and the directory belongs to the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgefl.config import control_socket, split_address
from edgefl.control import ControlClient
from edgefl.errors import EdgeflError, LocalError, UnreachableError
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap
from edgefl.wire import parse_node_name

START_S = 60.0
"""How long a daemon may take until it is ready: a slow machine imports for seconds."""

STOP_S = 5.0
"""From SIGTERM to SIGKILL."""

PR_SET_PDEATHSIG = 1

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
"""Many daemons share this machine: none of them should start a thread for every core."""


class FleetStartError(LocalError):
    """A daemon of the local fleet did not come up."""

    name = "local-fleet"


class LocalFleet:
    """`nodes` daemons below `directory`; device i trains on `data[i]` (name -> source). Use as a context."""

    def __init__(
        self,
        directory: Path,
        nodes: int,
        data: Sequence[Mapping[str, str]],
        *,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`host`: the address of this machine to listen at. `clock`: in whose seconds daemons may take START_S and
        STOP_S."""
        self.directory = directory
        self.nodes = nodes
        self.data = data
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._token = directory / "token"
        self._host = host
        self._clock = clock
        self.pythons: dict[int, str] = {}
        """Interpreters of devices that run another release than this one."""
        self.configs: dict[int, Path] = {}
        """Configuration files of devices that have their own."""
        self.commands: dict[int, Sequence[str]] = {}
        """What to run instead of `python -m edgefl`, for devices that are started in a way of their own."""
        self.hosts: dict[int, str] = {}
        """Addresses of devices that have one of their own."""

    def __enter__(self) -> LocalFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def state(self, number: int) -> Path:
        return self.directory / f"device-{number}"

    def log(self, number: int) -> str:
        """What the device's daemon has said so far."""
        path = self.directory / f"device-{number}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self, number: int) -> ControlClient:
        return ControlClient(control_socket(self.state(number)))

    def status(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.client(number).call("status")
        return found

    def start(self) -> None:
        """Make a fleet, start the first device, then the others with a token; return when all have joined.

        Raises FleetStartError with the last words of the daemon that did not come up.
        """
        key = FleetKey.create(self.directory)
        self.launch(0, "--first", "--fleet", str(self.directory))
        self.wait_ready(0)
        first = self.status(0)
        door = Bootstrap(*split_address(first["address"]), parse_node_name(first["node"]))
        self._token.touch(mode=0o600)
        self._token.write_text(key.invite([door]).text)
        for number in range(1, self.nodes):
            self.launch(number, "--token", f"file:{self._token}")
        for number in range(1, self.nodes):
            self.wait_ready(number)

    def launch(self, number: int, *options: str) -> None:
        """Start the daemon of one device; a second time it needs no options."""
        sources = self.data[number] if number < len(self.data) else {}
        known = (self.state(number) / "device.key").exists()
        arguments = [] if known else ["--listen", f"{self.hosts.get(number, self._host)}:0", *options]
        if number in self.configs:
            arguments += ["--config", str(self.configs[number])]
        for name, source in sources.items():
            arguments += ["--data", f"{name}={source}"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEFL_")}
        with (self.directory / f"device-{number}.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                [
                    *self.commands.get(number, self._program(number)),
                    "join",
                    "--state",
                    str(self.state(number)),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C is ours to handle
                preexec_fn=die_with_parent,
            )

    def _program(self, number: int) -> tuple[str, ...]:
        """Another release is its interpreter's own: PYTHONPATH and the working directory would lead to this one."""
        other = self.pythons.get(number)
        return (sys.executable, "-m", "edgefl") if other is None else (other, "-I", "-m", "edgefl")

    def wait_ready(self, number: int, timeout_s: float = START_S) -> None:
        """Return when the device has joined. Raises FleetStartError."""
        deadline = self._clock() + timeout_s
        while self._clock() < deadline:
            if _has_ended(self.processes[number]):
                break
            with contextlib.suppress(UnreachableError):
                if self.status(number)["ready"]:
                    return
            time.sleep(0.05)
        words = "\n".join(self.log(number).splitlines()[-5:])
        raise FleetStartError(f"device {number} did not join the fleet; its last words:\n{words}", hint="see above")

    def kill(self, number: int) -> None:
        """kill -9, as a power cut would."""
        with _undisturbed():
            self.processes[number].kill()
            self.processes[number].wait()

    def running(self) -> Iterator[int]:
        for number, process in self.processes.items():
            if not _has_ended(process):
                yield number

    def statuses(self) -> dict[int, dict[str, Any]]:
        """The status of every running device that answers."""
        found = {}
        for number in list(self.running()):
            with contextlib.suppress(EdgeflError):
                found[number] = self.status(number)
        return found

    def stop(self) -> None:
        """Ask all daemons to stop, and make sure that they do."""
        with _undisturbed():
            for process in self.processes.values():
                if process.poll() is None:
                    process.terminate()
            deadline = self._clock() + STOP_S
            for process in self.processes.values():
                while process.poll() is None and self._clock() < deadline:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(STOP_S / 50)
                if process.poll() is None:
                    process.kill()
                    process.wait()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait. One whose handler raises inside of Popen would leave its lock taken, and the next wait would never
    end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    with _undisturbed():
        return process.poll() is not None


def die_with_parent() -> None:
    """In the child: be terminated by the kernel when the parent dies, even by SIGKILL (prctl(2), Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
