"""Small fleets of real transports on loopback, in one asyncio loop, each with its own ZeroMQ context."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from edgefl.identity.admission import Admission
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.transport import Timing, Transport
from edgefl.transport.blobs import BlobFiles
from edgefl.wire.codec import Message
from edgefl.wire.contact import Contact, Role

FLEET = FleetKey.generate()

FAST = Timing(
    door=2.0,
    handshake=2.0,
    heartbeat=0.5,
    heartbeat_timeout=1.5,
    stall=2.0,
    connect=3.0,
    backoff_first=0.05,
    backoff_max=0.5,
    hello=1.0,
    patience=0.3,
    push_stall=0.6,
    pull_stall=1.0,
    pull_retry=0.05,
    release_poll=0.005,
    housekeeping=0.1,
    linger=0.3,
)
"""Everything shorter, so that tests are; the order of the durations is the same."""

PATIENT = replace(FAST, stall=30.0, heartbeat_timeout=30.0)
"""For tests with a peer that does not read: it is not to be cut off for that."""

DEADLINE_S = 8.0

T = TypeVar("T")


class Listener:
    """Remembers what a transport reports."""

    def __init__(self) -> None:
        self.messages: list[tuple[Contact, Message]] = []
        self.bulk: list[tuple[Message, bytes]] = []
        self.lost: list[int] = []
        self.changes = 0

    def on_message(self, sender: Contact, message: Message) -> None:
        self.messages.append((sender, message))

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None:
        self.bulk.append((message, bytes(data)))

    def on_link_lost(self, node_id: int) -> None:
        self.lost.append(node_id)

    def on_admission_changed(self) -> None:
        self.changes += 1

    def heard(self, message: Message) -> bool:
        return any(item == message for _, item in self.messages)


class Device:
    """One transport with everything around it."""

    def __init__(self, executor: ThreadPoolExecutor, admission: Admission, **options: Any) -> None:
        self.admission = admission
        self.listener = Listener()
        options = {"listen": ("127.0.0.1", 0), "timing": FAST, **options}
        self.transport = Transport(admission.keys, admission, self.listener, executor=executor, **options)

    @property
    def node_id(self) -> int:
        return self.admission.keys.node_id

    @property
    def contact(self) -> Contact:
        return self.transport.contact

    async def meet(self, other: Device) -> Contact:
        """Knock at the other one's door."""
        return (await self.transport.knock(other.contact.host, other.contact.port, expect=other.node_id)).card.contact

    def be_leaf(self) -> None:
        """From now on nobody can dial this device."""
        self.transport.set_contact(replace(self.contact, role=Role.LEAF, incarnation=self.contact.incarnation + 1))

    def count(self, name: str) -> int:
        return self.transport.counters[name]


class Fleet:
    """Makes devices, and closes them all in the end."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(2)
        self.devices: list[Device] = []

    async def device(self, *, admission: Admission | None = None, fleet: FleetKey = FLEET, **options: Any) -> Device:
        """A running device: a member of `fleet`, unless an admission is given."""
        if admission is None:
            admission = Admission(DeviceKeys.generate())
            admission.join(fleet.invite(()))
        files: BlobFiles | None = options.pop("files", None)
        device = Device(self.executor, admission, files=files, **options)
        await device.transport.start()
        self.devices.append(device)
        return device

    async def some(self, count: int, **options: Any) -> list[Device]:
        return [await self.device(**options) for _ in range(count)]

    async def close(self) -> None:
        await asyncio.gather(*(device.transport.close() for device in self.devices))
        self.executor.shutdown()


@contextlib.asynccontextmanager
async def a_fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    try:
        yield fleet
    finally:
        await fleet.close()


def run(test: Callable[[Fleet], Awaitable[None]]) -> None:
    """Run a test with a fleet of its own, within a hard limit."""

    async def main() -> None:
        async with a_fleet() as fleet:
            await asyncio.wait_for(_as_coroutine(test(fleet)), 30.0)

    asyncio.run(main())


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def until(condition: Callable[[], object], what: str = "", *, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition, or fail with its name."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"not within {deadline_s} s: {what or condition}")
        await asyncio.sleep(0.005)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Decorator: a test that takes a Fleet becomes an ordinary one."""

    def wrapper() -> None:
        run(test)

    wrapper.__name__ = test.__name__
    wrapper.__doc__ = test.__doc__
    return wrapper
