"""The transport of one device, put together: door, links, broadcast, blobs.

    port     the door: strangers, then members who need to know where we are
    port + 1 links: messages, and blobs that are asked for
    port + 2 broadcast: blobs that are pushed to children

With port 0 all three are chosen by the system; peers learn them at the door.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from random import Random
from typing import Protocol

import zmq

from edgefl.errors import ConfigError
from edgefl.identity.admission import Admission
from edgefl.identity.keys import DeviceKeys
from edgefl.transport.blame import Blame
from edgefl.transport.blobs import BlobFiles, Blobs, NoFiles
from edgefl.transport.broadcast import Broadcast
from edgefl.transport.bulk import Bulk
from edgefl.transport.calls import Calls
from edgefl.transport.cards import Cards
from edgefl.transport.counters import Counters
from edgefl.transport.curve import endpoint
from edgefl.transport.deliveries import Deliveries
from edgefl.transport.dial import Station
from edgefl.transport.door import Door
from edgefl.transport.feeds import Feeds
from edgefl.transport.limits import Limits
from edgefl.transport.links import Links
from edgefl.transport.penalties import Penalties
from edgefl.transport.pull import Pulls
from edgefl.transport.revoking import Revoking
from edgefl.transport.serve import Serving
from edgefl.transport.timing import Timing
from edgefl.transport.uplink import Uplink
from edgefl.transport.visit import Card, Knocked, Visitor
from edgefl.transport.zap import Zap
from edgefl.wire.blob import BlobRef
from edgefl.wire.codec import Message
from edgefl.wire.contact import Contact
from edgefl.wire.link import BlobChunk, BlobGet, BlobHeader, BlobMissing, Taken

log = logging.getLogger(__name__)

MAX_SOCKETS = 2048
"""ZeroMQ sockets of one process: two per link and per parent (the monitor), with room; ZeroMQ's default is 1,023."""

MAX_PORT = 65_535 - 2


class TransportListener(Protocol):
    """Who is told what the transport hears. Called on the loop; exceptions are logged and go no further."""

    def on_message(self, sender: Contact, message: Message) -> None:
        """A message of any type but wire/link.py's own, from an authenticated peer."""
        ...

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None:
        """The same for a message with a second frame. `data` is ZeroMQ's own memory: it is only read, and only now."""
        ...

    def on_link_lost(self, node_id: int) -> None:
        """The last connection with this peer has broken, or its door did not open. A hint, and a prompt one."""
        ...

    def on_admission_changed(self) -> None:
        """The admission's `export` has changed: write it down."""
        ...


class Transport:
    """One device's transport, on the running asyncio loop. Create, `start`, use, `close`.

    counters   counts by name (counters.py)
    limits     how many bytes of blobs it holds
    outside    our address as others see it
    contact    our own contact as it is told to peers
    door_port  where the door really listens
    may_have   whether a peer may be served a blob, by its id; a refused one gets no answer. Set by who knows why
    members_of  other devices that may have an application's blobs, asked when the parent and the sources have failed
    may_subscribe  the same for what is pushed for an application; None: a peer that has not said Hello
    """

    def __init__(
        self,
        keys: DeviceKeys,
        admission: Admission,
        listener: TransportListener,
        *,
        executor: Executor,
        listen: tuple[str, int] = ("0.0.0.0", 0),  # noqa: S104 - a peer-to-peer daemon is there to be reached
        advertise: tuple[str, int] | None = None,
        earlier_port: int = 0,
        files: BlobFiles | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
        uplink_bytes_s: float = 0.0,
    ) -> None:
        """`uplink_bytes_s`: all bulk together leaves no faster than this; 0 for as fast as the line takes it.

        `earlier_port`: the door's port of the time before. Where any port will do (`listen` names port 0), it is
        taken again if it is still free, so that peers find the device where they remember it."""
        self.counters: Counters = Counters()
        self.contact = Contact(keys.node_id, "0.0.0.0", 1)  # noqa: S104 - "unknown", until `start`
        self._keys = keys
        self._admission = admission
        self._listener = listener
        self._listen = listen
        self._advertise = advertise
        self._earlier_port = earlier_port
        self._executor = executor
        self._files = files if files is not None else NoFiles()
        self._timing = timing or Timing()
        self.limits = limits or Limits()
        self._uplink_bytes_s = uplink_bytes_s
        self._blame = Blame(self.counters)
        visitor = Visitor(admission, self._own_card, self._timing, self.counters, executor)
        self._door = Door(admission, self._own_card, self._on_visitor, self._timing, self.counters, visitor)
        self.door_port = 0
        self._ports = (0, 0)
        self._housekeeping: asyncio.TimerHandle | None = None
        self._change_reported = False
        self._random = Random(keys.node_id)
        self._calls = Calls(visitor, self._timing, self._random)
        self.outside = self._calls.outside
        self.may_have: Callable[[Contact, bytes], bool] = lambda peer, blob_id: True
        self.may_subscribe: Callable[[Contact | None, int], bool] = lambda peer, app: True
        self.members_of: Callable[[int], Sequence[Contact]] = lambda app: ()
        self._started = False
        self._on_change_before = admission.on_change

    # Life

    async def start(self) -> tuple[str, int]:
        """Open the ports. The host and port to tell others. Raises ConfigError."""
        host, port = self._listen
        address = _literal(host)
        if not 0 <= port <= MAX_PORT:
            raise ConfigError(
                f"port {port} is not possible", hint=f"use 1 to {MAX_PORT}: the next two are needed as well"
            )
        loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.setsockopt(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._assemble(loop.time)
        await self._blobs.start(loop.time())
        try:
            self.door_port = door_port = await self._open_door(address, port)
            link_port = _bind(self._links.bind, address, port and port + 1)
            broadcast_port = _bind(self._broadcast.bind, address, port and port + 2)
        except ConfigError:
            await self.close()
            raise
        told_host, told_port = self._advertise or (address, door_port)
        # Behind a router that forwards ports, the three stay side by side.
        shift = told_port - door_port if port else 0
        self._ports = (link_port + shift, broadcast_port + shift)
        self.contact = Contact(self._keys.node_id, _literal(told_host), told_port)
        self._links.set_contact(self.contact)
        self._on_change_before = self._admission.on_change
        self._admission.on_change = self._on_admission_change
        self._admission.on_revoked = self._revoking.on_revoked
        self._housekeeping = loop.call_later(self._timing.housekeeping, self._sweep)
        log.info("listening on %s, ports %d, %d and %d", address, door_port, link_port, broadcast_port)
        return self.contact.host, self.contact.port

    async def _open_door(self, address: str, port: int) -> int:
        if port == 0 and self._earlier_port:
            with contextlib.suppress(ConfigError):
                return await self._door.open(address, self._earlier_port)
        return await self._door.open(address, port)

    def _assemble(self, clock: Callable[[], float]) -> None:
        self._cards = Cards(self._knock_for_card)
        station = Station(
            context=self._context,
            keys=self._keys,
            cards=self._cards,
            timing=self._timing,
            counters=self.counters,
            clock=clock,
            random=self._random,
        )
        self._penalties = Penalties(clock, self._timing.penalty)
        self._penalties.on_excess = self._cut
        self._zap = Zap(self._context, self._allowed, self.counters)
        self._revoking = Revoking(
            self._admission,
            self._penalties,
            self.counters,
            self._cut,
            lambda message, but: self._links.broadcast(message, but=but),
        )
        self._links = Links(station, self._penalties, self.contact, _LinkEvents(self))
        self._uplink = Uplink(clock, self._timing.release_poll, self._uplink_bytes_s)
        self._blobs = Blobs(self._files, self._executor, self.counters, self._blame, self.limits, self._timing)
        self._pulls = Pulls(self._blobs, station, self._links.send, lambda app: self.members_of(app))
        self._broadcast = Broadcast(
            station,
            self._blobs,
            self._penalties,
            self._uplink,
            self._on_hint_of_loss,
            self._may_be_pushed,
            self._links.gives_credit,
            push_bytes=self.limits.push_bytes,
        )
        links, deliveries = self._links, Deliveries(self._links.carrier)
        self._uplink.measure(deliveries.look)
        self._serving = Serving(
            self._blobs, station, self._uplink, links.send_now, links.connected, deliveries, self._broadcast.will_push
        )
        self._bulk = Bulk(self._uplink, self.counters, links.send_now, links.connected, deliveries)
        self._feeds = Feeds(station, self._blobs, self._pulls, self._broadcast, self._links.send, self._on_hint_of_loss)
        self._started = True

    async def close(self) -> None:
        """Close everything. What is already on its way is sent for a moment longer (Timing.linger)."""
        if not self._started:
            return
        self._started = False
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        self._admission.on_change, self._admission.on_revoked = self._on_change_before, None
        self._uplink.close()
        await self._door.close()
        await self._cards.close()
        self._feeds.close()
        await self._serving.close()
        await self._broadcast.close(self._timing.linger)
        await self._blobs.close()
        self._links.close(self._timing.linger)
        self._zap.close()
        # Waits for what lingers, so not on the loop.
        await asyncio.get_running_loop().run_in_executor(self._executor, self._context.term)

    # Messages

    def set_contact(self, contact: Contact) -> None:
        """Our own contact from now on; connected peers are told."""
        if contact.node_id != self._keys.node_id:
            raise ValueError("a contact of another device")
        self.contact = contact
        self._links.set_contact(contact)

    def leave_lost_addresses(self, left: frozenset[str]) -> None:
        """This device has moved, and has the addresses `left` now: connections that began at another one are dead,
        though nothing says so before a time-out. Open them anew."""
        self.outside.clear()
        self._links.leave_lost_addresses(left)
        self._feeds.leave_lost_addresses(left)

    @property
    def ports(self) -> tuple[int, int, int]:
        """Door, links and broadcast, as they are announced."""
        return (self.contact.port, *self._ports)

    @property
    def connections(self) -> int:
        """Peers with a connection, whoever opened it."""
        return self._links.count_connected()

    def shut_doors(self) -> dict[int, tuple[Contact, str]]:
        """Devices whose door did not open when we last knocked, and why."""
        return self._cards.shut

    def connected(self, node_id: int) -> bool:
        """Whether there is a connection to this peer, whoever opened it."""
        return self._links.connected(node_id)

    async def knock(self, host: str, port: int, *, expect: int | None = None, dial_back: bool = False) -> Knocked:
        """Knock at a door; what the device there tells, its contact above all. Both sides then admit each other.

        With `dial_back` the device there tries to reach our own door. Raises UnreachableError, TryAgainError,
        WireError and NotAdmittedError, each with its next step.
        """
        knocked = await self._calls.patiently(host, port, expect, dial_back=dial_back)
        self._cards.learn(knocked.card)
        return knocked

    def send_bulk(self, app: int, node_id: int, message: Message, data: bytes | memoryview) -> bool:
        """Send a message with a second frame straight from `data`, which must not change any more, to a peer that is
        connected, in turn with all else that is large. Best effort; False when it is known to be lost."""
        return self._bulk.send(app, node_id, message, data)

    def send(self, to: Contact, message: Message) -> None:
        """Send, best effort: at most once, or not at all. Never waits, never raises."""
        self._links.send(to, message)

    # Blobs

    def subscribe(self, app: int, parent: Contact, max_bytes: int) -> None:
        """Take the blobs of at most `max_bytes` that `parent` pushes for `app`; they are pushed on to our children."""
        self._feeds.subscribe(app, parent, max_bytes)

    def unsubscribe(self, app: int) -> None:
        self._feeds.unsubscribe(app)

    def publish(self, app: int, blob: BlobRef) -> None:
        """Push a blob to the children of `app`."""
        self._broadcast.publish(app, blob)

    def children(self, app: int) -> list[int]:
        """Node ids of the devices that are subscribed to what we push for `app`."""
        return [child.node_id for child in self._broadcast.subscribers(app) if child.node_id is not None]

    async def add_blob(self, data: bytes | bytearray | memoryview) -> BlobRef:
        """Hold a blob, which must not change any more, for whoever asks, until it is discarded. Returns its name."""
        return await self._blobs.add(data)

    async def fetch(
        self, blob: BlobRef, sources: Sequence[Contact], *, app: int | None = None, max_bytes: int
    ) -> memoryview:
        """The content of a blob: from here, from the parent's push if `app` is given, or from one of `sources`.

        It is then held until it is discarded. Raises WireError (larger than `max_bytes`, or every source lied),
        UnreachableError (nobody known has it), TryAgainError (no source sent it), StorageError.
        """
        parent = None if app is None else self._feeds.parent(app)
        everybody = list(sources) if parent is None else [parent, *sources]
        return await self._pulls.fetch(blob, everybody, app=app, pushed_soon=parent is not None, max_bytes=max_bytes)

    def has_blob(self, blob: BlobRef | bytes) -> bool:
        """Whether the blob is at hand without asking anybody (in memory, or moved to disk by us)."""
        return self._blobs.has(_blob_id(blob))

    @property
    def uplink(self) -> Uplink:
        """Where whatever else is large takes its turn (uplink.py)."""
        return self._uplink

    def discard_blob(self, blob: BlobRef | bytes) -> None:
        """Forget a blob. Views of it stay valid."""
        self._blobs.discard(_blob_id(blob))

    def serving_rate(self) -> float | None:
        """Bytes a second that the uplink delivered while bulk waited, smoothed; None until it was measured."""
        return self._uplink.rate.bytes_s

    def wrong_data(self) -> dict[str, int]:
        """How often data did not match its hash, by source: the name of a peer, or "disk"."""
        return dict(self._blame.sources)

    # Events

    def _on_visitor(self, card: Card) -> None:
        self._cards.learn(card)
        self._calls.on_visitor(card.contact.node_id)

    async def _knock_for_card(self, host: str, port: int, node_id: int) -> Knocked:
        return await self._calls.once(host, port, node_id)

    def _own_card(self) -> Card:
        return Card(self.contact, self.contact.host, self._keys.curve_public, *self._ports)

    def _allowed(self, curve_key: bytes) -> int | None:
        node_id = self._admission.allowed(curve_key)
        return None if node_id is None or self._penalties.excluded(node_id) else node_id

    def _on_admission_change(self) -> None:
        if self._on_change_before is not None:
            self._on_change_before()
        if not self._change_reported:
            self._change_reported = True
            asyncio.get_running_loop().call_soon(self._report_change)

    def _report_change(self) -> None:
        self._change_reported = False
        self._listener.on_admission_changed()

    def _cut(self, node_id: int) -> None:
        """End every connection with a peer: revoked, or kept out for a while."""
        self._cards.forget(node_id)
        self._feeds.cut(node_id)
        self._broadcast.cut(node_id)
        self._links.cut(node_id)

    def _on_hint_of_loss(self, node_id: int) -> None:
        if not self._links.connected(node_id):
            asyncio.get_running_loop().call_soon(self._on_link_lost, node_id)

    def _on_link_lost(self, node_id: int) -> None:
        if self._started:
            self._pulls.on_link_lost(node_id)
            self._serving.on_link_lost(node_id)
            self._listener.on_link_lost(node_id)

    def _may_be_pushed(self, node_id: int, app: int) -> bool:
        return self.may_subscribe(self._links.contact_of(node_id), app)

    def _on_blob_message(self, node_id: int, message: Message, bulk: zmq.Frame | None) -> None:
        if isinstance(message, BlobGet):
            contact = self._links.contact_of(node_id)
            if contact is not None and self.may_have(contact, message.blob):
                self._serving.on_get(node_id, message)
        elif isinstance(message, BlobHeader | BlobChunk | BlobMissing):
            self._pulls.on_message(node_id, message, bulk)
        elif isinstance(message, Taken):
            self._broadcast.on_taken(node_id, message)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._housekeeping = loop.call_later(self._timing.housekeeping, self._sweep)
        self._links.sweep()
        self._broadcast.sweep()
        self._feeds.sweep()
        self._serving.sweep()
        self._bulk.sweep()
        self._blobs.sweep(loop.time())


class _LinkEvents:
    """What the links report, handed on to where it belongs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.on_message = transport._listener.on_message
        self.on_bulk = transport._listener.on_bulk
        self.on_blob_message = transport._on_blob_message
        self.on_revocations = transport._revoking.on_received
        self.on_link_lost = transport._on_link_lost
        self.revocations = transport._revoking.packed


def _literal(host: str) -> str:
    """`host` as an IP address. Raises ConfigError."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ConfigError(f"{host} is no address of this device: {error.strerror}", hint="give an IP address") from None


def _bind(bind: Callable[[str], int], host: str, port: int) -> int:
    try:
        return bind(endpoint(host, port or "*"))
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="a device needs three ports in a row: choose another --listen address",
        ) from None


def _blob_id(blob: BlobRef | bytes) -> bytes:
    return blob.id if isinstance(blob, BlobRef) else blob
