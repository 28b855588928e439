"""One device's transport in a process of its own, told what to do by lines of JSON on standard input.

device.py TOKEN ADDRESS [OPTIONS as JSON]; the first line of output says who it is. Each line of input is
[number, command, arguments…], each line of output [number, result] or [number, {"error": …}]; commands overlap.
Times are the system's monotonic clock, the same for all processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgefl.identity.admission import Admission
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.token import parse
from edgefl.store import Store
from edgefl.telemetry.lag import LoopLag
from edgefl.telemetry.memory import memory_limit
from edgefl.transport import Transport, limits_for
from edgefl.wire.blob import BlobRef
from edgefl.wire.codec import Message, decode
from edgefl.wire.contact import Contact
from edgefl.wire.link import BlobChunk
from edgefl.wire.overlay import Ping, Pong

LAG_PERIOD_S = 0.01
"""Finer than in a daemon: every handler of some length is to be seen."""


class Handlers:
    """Processor time that the loop's handlers take, each by itself: not what a busy machine does to all of them, nor
    what is waited for."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    def watch(self) -> None:
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest_s = max(self.longest_s, time.thread_time() - began)

        asyncio.Handle._run = timed  # type: ignore[method-assign]


def own_kb() -> int:
    """Resident memory that no file stands behind: what the kernel cannot take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Device:
    """The commands, and a listener that echoes."""

    def __init__(self, token: str, address: str, options: dict[str, Any]) -> None:
        self.place = tempfile.TemporaryDirectory(prefix="plane")
        self.keys = DeviceKeys.generate()
        admission = Admission(self.keys)
        admission.join(parse(token))
        self.executor = ThreadPoolExecutor(1)
        files = Store(Path(self.place.name)).files if options.pop("files", True) else None
        self.transport = Transport(
            self.keys, admission, self, listen=(address, 0), executor=self.executor, files=files, **options
        )
        self.lag = LoopLag(LAG_PERIOD_S)
        self.handlers = Handlers()
        self.own_kb = 0
        self.known: dict[int, Contact] = {}
        self.pongs: dict[int, asyncio.Future[None]] = {}
        self.random = random.Random(self.keys.node_id)

    # TransportListener

    def on_message(self, sender: Contact, message: Message) -> None:
        if isinstance(message, Ping):
            self.transport.send(sender, Pong(message.request, True))
        elif isinstance(message, Pong) and message.request in self.pongs:
            self.pongs.pop(message.request).set_result(None)

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None: ...

    def on_link_lost(self, node_id: int) -> None: ...

    def on_admission_changed(self) -> None: ...

    # Commands

    async def meet(self, host: str, port: int) -> int:
        contact = (await self.transport.knock(host, port)).card.contact
        self.known[contact.node_id] = contact
        return contact.node_id

    async def subscribe(self, app: int, parent: int, max_bytes: int = 1 << 31) -> None:
        self.transport.subscribe(app, self.known[parent], max_bytes)

    async def unsubscribe(self, app: int) -> None:
        self.transport.unsubscribe(app)

    async def children(self, app: int, wanted: int) -> None:
        while len(self.transport.children(app)) != wanted:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)

    async def make(self, size: int, seed: int) -> tuple[str, int]:
        ref = await self.transport.add_blob(random.Random(seed).randbytes(size))
        return ref.id.hex(), ref.size

    async def publish(self, app: int, blob: str, size: int) -> float:
        began = time.monotonic()
        self.transport.publish(app, BlobRef(bytes.fromhex(blob), size))
        return began

    async def fetch(self, app: int | None, blob: str, size: int, sources: Sequence[int] = ()) -> float:
        """When the whole blob was here, verified."""
        ref = BlobRef(bytes.fromhex(blob), size)
        await self.transport.fetch(ref, [self.known[one] for one in sources], app=app, max_bytes=size)
        return time.monotonic()

    async def watch_lag(self) -> None:
        self.lag = LoopLag(LAG_PERIOD_S)
        self.lag.start()
        self.handlers.watch()
        self.watching = asyncio.create_task(self._watch_memory())

    async def _watch_memory(self) -> None:
        while True:
            self.own_kb = max(self.own_kb, own_kb())
            await asyncio.sleep(0.02)

    async def stand(self, seconds: float) -> int:
        """Stand still, and all of the loop with it; by how many kB the memory of this process has grown meanwhile."""
        before = own_kb()
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
        return own_kb() - before

    async def discard(self, blob: str) -> None:
        self.transport.discard_blob(bytes.fromhex(blob))

    async def ping(self, node: int, count: int, gap_s: float) -> list[float]:
        """Round trips of so many control messages, one after the other, in seconds."""
        trips = []
        for request in range(count):
            done = self.pongs[request] = asyncio.get_running_loop().create_future()
            began = time.monotonic()
            self.transport.send(self.known[node], Ping(request))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(done, 30.0)
            trips.append(time.monotonic() - began)
            await asyncio.sleep(gap_s)
        return trips

    async def drop(self, share: float) -> None:
        """From now on lose this share of the chunks that are pushed."""
        children = self.transport._broadcast._children
        honest = children.send

        def send(app: int, lane: bytes, parts: Any, sequence: int = 0) -> int:
            lost = isinstance(decode(bytes(parts[0])), BlobChunk) and self.random.random() < share
            return len(children.of(app)) if lost else honest(app, lane, parts, sequence)

        children.send = send  # type: ignore[method-assign]

    async def report(self) -> dict[str, Any]:
        children = self.transport._broadcast._children
        for child in children._children.values():
            child.look(time.monotonic())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "counters": dict(self.transport.counters),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024,
            "own_mb": self.own_kb / 1024,
            "acknowledged": sum(child.acked for child in children._children.values()),
            "bound_mb": self.transport.limits.total_bytes / 2**20,
            "longest_handler_ms": 1e3 * self.handlers.longest_s,
            "lag": self.lag.document(),
            "serving_rate": getattr(self.transport, "serving_rate", lambda: None)(),
        }


async def main() -> None:
    token, address, text = sys.argv[1:]
    options = json.loads(text)
    if limit_mb := options.pop("limit_mb"):
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mb << 20, limit_mb << 20))
        options["limits"] = limits_for(memory_limit())
    device = Device(token, address, options)
    host, port = await device.transport.start()
    print(json.dumps([device.keys.node_id, host, port]), flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()

    async def answer(number: int, command: str, arguments: list[Any]) -> None:
        try:
            result = await getattr(device, command)(*arguments)
        except Exception as error:
            result = {"error": repr(error)}
        print(json.dumps([number, result]), flush=True)

    while line := await reader.readline():
        number, command, *arguments = json.loads(line)
        running.add(task := loop.create_task(answer(number, command, arguments)))
        task.add_done_callback(running.discard)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
