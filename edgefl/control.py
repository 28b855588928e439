"""The control socket: how `edgefl status` and its like talk to the daemon on the same device.

A unix socket in the state directory, for its owner alone. One request a connection: a line of JSON

    {"verb": "status", "arguments": {}}

answered by any number of `{"event": …}` lines and one `{"result": …}` or `{"error": {name, cause, hint, exit_code}}`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from edgefl.errors import EdgeflError, RemoteError, UnreachableError, UsageError

MAX_LINE_BYTES = 1024 * 1024
"""One line of either side: the longest is a chunk of a model, 256 KiB in base64."""


class ControlError(RemoteError):
    """An error that the daemon reported, with the name, exit code and hint that it gave."""

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(str(report.get("cause", "the daemon failed")), hint=str(report.get("hint", "")))
        # The class attributes of EdgeflError, shadowed per instance: the daemon decides what kind of error this is.
        self.__dict__["name"] = str(report.get("name", "error"))
        self.__dict__["exit_code"] = int(report.get("exit_code", 1))


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path to the same socket that fits in the 108 bytes of sockaddr_un, however deep the directory is."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class ControlClient:
    """Asks the daemon whose control socket is at `path`. Blocking; for the command line, and for programs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(self, verb: str, **arguments: Any) -> Any:
        """The result of a verb. Raises UnreachableError when no daemon listens, ControlError when it refuses, and
        UsageError on the event loop that the daemon itself runs on."""
        stream = self.stream(verb, **arguments)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    def stream(self, verb: str, **arguments: Any) -> Generator[Any, None, Any]:
        """The events of a verb as they come; the generator's return value is the result. Raises as `call`."""
        with self._connect() as connection, connection.makefile("rb") as lines:
            connection.sendall(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")
            while True:
                line = lines.readline(MAX_LINE_BYTES)
                if not line:
                    raise UnreachableError("the daemon went away while it was asked", hint="see its log")
                answer = json.loads(line)
                if "event" in answer:
                    yield answer["event"]
                elif "error" in answer:
                    raise ControlError(answer["error"])
                else:
                    return answer.get("result")

    def pull(self, app: str, path: Path, *, best: bool = False) -> dict[str, Any]:
        """Write an application's newest (or best) model to `path`, whole or not at all; {size, round, finished}."""
        from edgefl.durable import write_atomically

        events = self.stream("app.pull", app=app, **({"best": True} if best else {}))
        head: dict[str, Any] = next(events)
        write_atomically(path, b"".join(base64.b64decode(event["data"]) for event in events))
        return head

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self.path) as path:
                connection.connect(path)
            if _peer(connection) == os.getpid() and _on_a_loop():
                connection.close()
                raise UsageError(
                    "the daemon runs on this program's event loop, and could not answer while this call waits",
                    hint="call it from another thread: await asyncio.to_thread(…)",
                )
        except OSError as error:
            connection.close()
            raise UnreachableError(
                f"no daemon answers at {self.path} ({error.strerror})",
                hint="start it with `edgefl join`, or name its state directory with --state",
            ) from None
        return connection


def _peer(connection: socket.socket) -> int:
    """The process at the other end."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)


def _on_a_loop() -> bool:
    """Whether this thread runs an event loop. Where nobody has imported asyncio, nobody does."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def error_report(error: EdgeflError) -> dict[str, Any]:
    """What the daemon sends of an error."""
    return dict(error.as_dict())
