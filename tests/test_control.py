"""The control socket: requests, streams, errors, and who may talk."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefl.control import ControlClient, ControlError
from edgefl.daemon.control import ControlServer
from edgefl.errors import ConfigError, UnreachableError


class Verbs:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    async def echo(self, **arguments: Any) -> dict[str, Any]:
        return arguments

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    async def endless(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(3600)
        finally:
            self.cancelled.set()

    async def refuse(self) -> None:
        raise ConfigError("wrong", hint="make it right")

    async def broken(self) -> None:
        raise ZeroDivisionError("a bug")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[ControlClient, Verbs]]:
    """A server on a loop of its own thread, as the daemon is for its commands."""
    deep = tmp_path / ("d" * 100) / "sockets"  # longer than a unix socket's address can be
    path, verbs = deep / "edgefl.sock", Verbs()
    table = {name: getattr(verbs, name) for name in ("echo", "count", "endless", "refuse", "broken")}
    started, stop = threading.Event(), None
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal stop
        stop = asyncio.Event()
        server = ControlServer(path, table)
        await server.start()
        started.set()
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    yield ControlClient(path), verbs
    assert stop is not None
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()
    assert not path.exists()


def test_a_call_and_its_result(served: tuple[ControlClient, Verbs]) -> None:
    client, _ = served
    assert client.call("echo", a=1, b=[None, "x"]) == {"a": 1, "b": [None, "x"]}


def test_only_its_owner_may_connect(served: tuple[ControlClient, Verbs]) -> None:
    client, _ = served
    assert stat.S_IMODE(client.path.stat().st_mode) == 0o600


def test_a_stream_of_events(served: tuple[ControlClient, Verbs]) -> None:
    client, _ = served
    assert list(client.stream("count", to=3)) == [1, 2, 3]


def test_hanging_up_ends_the_stream_in_the_daemon(served: tuple[ControlClient, Verbs]) -> None:
    client, verbs = served
    stream = client.stream("endless")
    assert next(stream) == 1
    stream.close()
    assert verbs.cancelled.wait(10)


def test_errors_keep_their_name_hint_and_exit_code(served: tuple[ControlClient, Verbs]) -> None:
    client, _ = served
    with pytest.raises(ControlError, match="wrong") as caught:
        client.call("refuse")
    assert (caught.value.name, caught.value.exit_code, caught.value.hint) == ("configuration", 78, "make it right")


def test_a_bug_in_a_verb_is_reported_and_the_daemon_goes_on(served: tuple[ControlClient, Verbs]) -> None:
    client, _ = served
    with pytest.raises(ControlError, match="a bug"):
        client.call("broken")
    assert client.call("echo") == {}


@pytest.mark.parametrize("verb", ["unknown", ""])
def test_unknown_verbs(served: tuple[ControlClient, Verbs], verb: str) -> None:
    client, _ = served
    with pytest.raises(ControlError, match="does not know"):
        client.call(verb)


def test_no_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no daemon answers") as caught:
        ControlClient(tmp_path / "edgefl.sock").call("status")
    assert "edgefl join" in caught.value.hint
    with pytest.raises(UnreachableError):
        ControlClient(tmp_path / "missing" / "edgefl.sock").call("status")
