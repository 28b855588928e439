"""Devices and bare programs as processes, on loopback or in the namespaces of a network (network.py)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from network import Network, address

from edgefl.identity.fleet import FleetKey

HERE = Path(__file__).resolve().parent
START_S, ANSWER_S = 60.0, 180.0


class Device:
    """A device.py. `call` asks it to do something, and waits for the outcome."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def start(self) -> None:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), START_S)
        self.node_id, self.host, self.port = json.loads(line)
        self._reading = asyncio.create_task(self._read())

    def call(self, command: str, *arguments: Any) -> asyncio.Future[Any]:
        number = len(self._waiting)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([number, command, *arguments]).encode() + b"\n")
        return asyncio.ensure_future(asyncio.wait_for(future, ANSWER_S))

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            number, result = json.loads(line)
            future = self._waiting[number]
            if isinstance(result, dict) and "error" in result:
                future.set_exception(RuntimeError(result["error"]))
            elif not future.done():
                future.set_result(result)

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class Fleet:
    """Processes that end with it."""

    def __init__(self, network: Network | None = None) -> None:
        self.network = network
        self.token = FleetKey.generate().invite(()).text
        self.processes: list[asyncio.subprocess.Process] = []
        self._place = tempfile.TemporaryDirectory(prefix="edgefl-plane-")

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
        for process in self.processes:
            await process.wait()
        self._place.cleanup()

    def address(self, index: int) -> str:
        return "127.0.0.1" if self.network is None else address(index)

    async def spawn(self, index: int, script: str, *arguments: object) -> asyncio.subprocess.Process:
        """Run one of the scripts here as device `index`."""
        enter = [] if self.network is None else self.network.enter(index)
        process = await asyncio.create_subprocess_exec(
            *enter,
            sys.executable,
            str(HERE / script),
            *map(str, arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=1 << 20,
            env={**os.environ, "TMPDIR": self._place.name},
        )
        self.processes.append(process)
        return process

    async def device(self, index: int, *, limit_mb: int = 0, **options: Any) -> Device:
        """One device; `limit_mb` bounds its data segment (RLIMIT_DATA), as far as the kernel counts it."""
        process = await self.spawn(
            index, "device.py", self.token, self.address(index), json.dumps({"limit_mb": limit_mb, **options})
        )
        device = Device(process)
        await device.start()
        return device

    async def devices(self, count: int, *, first: int = 0, **options: Any) -> list[Device]:
        return list(await asyncio.gather(*(self.device(index, **options) for index in range(first, first + count))))


async def subscribe(apps: Sequence[int], parent: Device, *children: Device) -> None:
    """Make `children` subscribe at `parent`, and wait until it knows all of its own."""
    for child in children:
        await child.call("meet", parent.host, parent.port)
        for app in apps:
            await child.call("subscribe", app, parent.node_id)
    for app in apps:
        await parent.call("children", app, len(children))
