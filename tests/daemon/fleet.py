"""Real daemons in one loop, on loopback, whose addresses the test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from support.own_time import OwnTime

from edgefl.config import Settings
from edgefl.daemon.addresses import Here
from edgefl.daemon.daemon import Daemon
from edgefl.daemon.membership import become_member
from edgefl.identity.fleet import FleetKey

DEADLINE_S = 20.0


class Addresses:
    """An AddressSource that the test turns."""

    def __init__(self, host: str | None = "127.0.0.1") -> None:
        self.here = Here(host, frozenset({"127.0.0.1", host} - {None}))  # type: ignore[arg-type]

    def read(self) -> Here:
        return self.here


class Daemons:
    """A fleet below a directory. Devices listen on all addresses unless told otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = FleetKey.create(directory)
        self.running: dict[Daemon, asyncio.Task[None]] = {}

    async def start(self, name: str, source: Addresses | None = None, **settings: Any) -> Daemon:
        """A daemon that has joined. The first one founds the fleet; others are told of it."""
        first = not self.running
        doors = () if first else (f"127.0.0.1:{next(iter(self.running)).transport.door_port}",)
        token = "" if first else self.key.invite(()).text
        given = {"listen": "0.0.0.0:0", "bootstrap": doors, "token": token, "mdns": "off", **settings}
        values = {key: value for key, value in given.items() if value is not None}
        state = self.directory / name
        daemon = Daemon(state, state / "edgefl.sock", lambda kept: Settings(**values))
        daemon.address_source = source or Addresses()
        become_member(daemon, first=first, fleet=self.directory)
        task = asyncio.ensure_future(daemon.run(first=first))
        self.running[daemon] = task
        await self.until(lambda: task.done() or daemon.ready, f"{name} has joined")
        if task.done():
            task.result()
        return daemon

    async def until(self, condition: Callable[[], object], what: str) -> None:
        own_time = OwnTime()
        while not condition():
            if own_time() > DEADLINE_S:
                raise AssertionError(f"not within {DEADLINE_S:g} s: {what}")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for daemon in self.running:
            daemon._stopping.set()
        await asyncio.gather(*self.running.values())


@contextlib.asynccontextmanager
async def some_daemons(directory: Path) -> AsyncIterator[Daemons]:
    daemons = Daemons(directory)
    try:
        yield daemons
    finally:
        await daemons.stop()


def with_daemons(test: Callable[[Daemons], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Decorator: a test that takes a fleet of daemons becomes an ordinary one."""

    def wrapper(tmp_path: Path) -> None:
        async def main() -> None:
            async with some_daemons(tmp_path) as daemons:
                await test(daemons)  # its waits have deadlines

        asyncio.run(main())

    wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
    return wrapper
