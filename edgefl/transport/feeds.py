"""Receiving what parents push: one SUB per parent, and the blobs that arrive through it.

Each checked chunk goes into its assembly and from there, at once, to our own children (broadcast.py). What is missed is
asked for (pull.py): at once when a gap in the sequence, a broken connection or the parent's own word says that it will
not come, otherwise when the push has paused for too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from edgefl.errors import EdgeflError, WireError
from edgefl.transport.assembly import Assembly, Stored
from edgefl.transport.blobs import Blobs
from edgefl.transport.broadcast import Broadcast
from edgefl.transport.credit import Taking
from edgefl.transport.curve import open_subscriber
from edgefl.transport.dial import Dial, Line, Station
from edgefl.transport.links import BYE_LINGER_S
from edgefl.transport.pull import Pulls
from edgefl.transport.subscribers import APP_BYTES, MAX_APPS, TOPIC_BYTES
from edgefl.transport.visit import Card
from edgefl.transport.zmq_socket import Parts
from edgefl.wire.blob import BlobRef, blob_ref, is_marked
from edgefl.wire.codec import Message, decode
from edgefl.wire.contact import Contact
from edgefl.wire.link import BlobChunk, BlobHeader, BlobMissing, Taken

MAX_PUSHED_LOOSE = 2
"""Blobs of one application that a parent may push without anybody having asked for them: this round's, and the next."""


class _Feed:
    """The subscription at one parent."""

    def __init__(self, parent: Contact) -> None:
        self.parent = parent
        self.apps: dict[int, int] = {}
        self.sequences: dict[int, int] = {}
        self.arriving: dict[bytes, int] = {}
        self.taking = Taking()
        self.dial: Dial | None = None


class Feeds:
    """All subscriptions of one device. `send(parent, message)`: how it is told what was taken;
    `on_parent_lost(node_id)`: a parent's connection has broken."""

    def __init__(
        self,
        station: Station,
        blobs: Blobs,
        pulls: Pulls,
        broadcast: Broadcast,
        send: Callable[[Contact, Message], None],
        on_parent_lost: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._station = station
        self._blobs = blobs
        self._pulls = pulls
        self._broadcast = broadcast
        self._send = send
        self._on_parent_lost = on_parent_lost
        self._feeds: dict[int, _Feed] = {}
        self._parents: dict[int, int] = {}

    def subscribe(self, app: int, parent: Contact, max_bytes: int) -> None:
        """Take what `parent` pushes for `app`, blobs of at most `max_bytes`. Replaces an earlier parent."""
        if parent.node_id == self._station.keys.node_id:
            return
        if self._parents.get(app, parent.node_id) != parent.node_id:
            self.unsubscribe(app)
            for assembly in self._blobs.arriving(app):
                self._pulls.of(assembly, (parent,)).pump()
        if app not in self._parents and len(self._parents) >= MAX_APPS:
            self._station.counters["dropped.too-many-apps"] += 1
            return
        feed = self._feeds.get(parent.node_id)
        if feed is None:
            feed = self._feeds[parent.node_id] = _Feed(parent)
        moved, feed.parent = _place(feed.parent) != _place(parent), parent
        if app not in feed.apps and feed.dial is not None and feed.dial.socket is not None:
            feed.dial.socket.socket.subscribe(_topic(app))
            feed.dial.socket.touched()
        feed.apps[app] = max_bytes
        self._parents[app] = parent.node_id
        if feed.dial is None:
            feed.dial = self._new_dial(feed)
        feed.dial.want(parent)
        if moved:
            self._redial(feed)

    def leave_lost_addresses(self, left: frozenset[str]) -> None:
        """We have the addresses `left`: subscribe anew wherever our end of the connection has another one."""
        for feed in self._feeds.values():
            if feed.dial is not None and not feed.dial.leaves_from(left):
                self._redial(feed)

    def _redial(self, feed: _Feed) -> None:
        self._begin_anew(feed)
        if feed.dial is not None:
            feed.dial.redial()

    def unsubscribe(self, app: int) -> None:
        """Take no more pushes for `app`. What is arriving goes on by asking."""
        parent = self._parents.pop(app, None)
        feed = None if parent is None else self._feeds.get(parent)
        if feed is None:
            return
        del feed.apps[app]
        feed.sequences.pop(app, None)
        self._push_over(feed, app)
        if feed.dial is not None and feed.dial.socket is not None:
            feed.dial.socket.socket.unsubscribe(_topic(app))
            feed.dial.socket.touched()
        if not feed.apps:
            del self._feeds[feed.parent.node_id]
            if feed.dial is not None:
                # With time for the parent to hear that we unsubscribed: it would take silence for our death.
                feed.dial.close(BYE_LINGER_S)

    def parent(self, app: int) -> Contact | None:
        """Who pushes for `app`, if we are subscribed."""
        node_id = self._parents.get(app)
        return None if node_id is None else self._feeds[node_id].parent

    def cut(self, node_id: int) -> None:
        """Take nothing more from this peer."""
        feed = self._feeds.get(node_id)
        if feed is not None:
            for app in list(feed.apps):
                self.unsubscribe(app)

    def sweep(self) -> None:
        """Look after connections. Call about once a second."""
        for feed in list(self._feeds.values()):
            if feed.dial is not None:
                feed.dial.sweep()
            if feed.taking.sweep():
                self._tell(feed)

    def close(self) -> None:
        for feed in self._feeds.values():
            if feed.dial is not None:
                feed.dial.close()
        self._feeds.clear()
        self._parents.clear()

    def _new_dial(self, feed: _Feed) -> Dial:
        station = self._station

        def open_socket(card: Card) -> zmq.Socket[bytes]:
            socket = open_subscriber(station.context, station.keys, station.timing, card.curve)
            for app in feed.apps:
                socket.subscribe(_topic(app))
            return socket

        return Dial(
            station,
            feed.parent,
            Line(
                open_socket=open_socket,
                port=lambda card: card.broadcast_port,
                on_parts=lambda parts: self._on_parts(feed, parts),
                on_up=lambda: None,
                on_lost=lambda error: self._on_lost(feed, error),
                on_writable=lambda: None,
                wanted=lambda: bool(feed.apps),
            ),
        )

    def _on_lost(self, feed: _Feed, _error: EdgeflError | None) -> None:
        self._begin_anew(feed)
        self._on_parent_lost(feed.parent.node_id)

    def _begin_anew(self, feed: _Feed) -> None:
        """This connection brings nothing more."""
        feed.sequences.clear()
        feed.taking = Taking()
        self._push_over(feed, None)

    def _tell(self, feed: _Feed) -> None:
        self._send(feed.parent, Taken(*feed.taking.last))

    def _push_over(self, feed: _Feed, app: int | None) -> None:
        """Nothing more is pushed through this feed (for this application): ask for the rest now."""
        for blob_id, pushed_for in list(feed.arriving.items()):
            if app in (None, pushed_for):
                del feed.arriving[blob_id]
                self._ask_for_rest(blob_id)

    def _ask_for_rest(self, blob_id: bytes) -> None:
        assembly = self._blobs.assembly(blob_id)
        if assembly is not None:
            assembly.patience_until = 0.0
            self._pulls.of(assembly).pump()

    def _on_parts(self, feed: _Feed, parts: Parts) -> None:
        counters = self._station.counters
        size = sum(map(len, parts))
        counters["messages_received"] += 1
        counters["bytes_received"] += size
        try:
            app = int.from_bytes(parts[0].bytes[:APP_BYTES], "big")
            if not 2 <= len(parts) <= 3 or len(parts[0]) != TOPIC_BYTES:
                raise WireError("not a pushed message")
            message = decode(parts[1].bytes)
            if (len(parts) == 3) != isinstance(message, BlobHeader | BlobChunk):
                raise WireError("not a pushed message")
        except WireError:
            counters["dropped.garbage"] += 1
            return
        # Whatever becomes of it, it waits no longer.
        if isinstance(message, BlobHeader | BlobChunk) and feed.taking.took(app, message.sequence, size):
            self._tell(feed)
        if app not in feed.apps:
            counters["dropped.unsubscribed"] += 1
        elif isinstance(message, BlobHeader):
            self._in_sequence(feed, app, message.sequence)
            self._on_header(feed, app, message, parts[2].bytes)
        elif isinstance(message, BlobChunk):
            whole = self._in_sequence(feed, app, message.sequence)
            self._on_chunk(feed, app, message, parts[2].buffer, whole=whole)
        elif isinstance(message, BlobMissing):
            feed.arriving.pop(message.blob, None)
            self._ask_for_rest(message.blob)

    def _in_sequence(self, feed: _Feed, app: int, sequence: int) -> bool:
        """Whether nothing was lost since the last message (False for the first one)."""
        last = feed.sequences.get(app)
        feed.sequences[app] = sequence
        return last is not None and sequence == last % 0xFFFFFFFF + 1

    def _on_header(self, feed: _Feed, app: int, header: BlobHeader, hashes: bytes) -> None:
        counters, now = self._station.counters, self._station.clock()
        try:
            ref = blob_ref(header.size, hashes)
        except WireError:
            ref = BlobRef(b"", 0)
        if ref.id != header.blob:
            self._blobs.blame.peer(feed.parent.node_id, now)
            return
        if ref.size > feed.apps[app]:
            counters["dropped.too-big"] += 1
            return
        if self._blobs.peek(ref.id) is not None:
            self._broadcast.relay(app, ref)
            return
        self._forget_loose(feed, app, ref)
        if header.late and ref.id not in feed.arriving:
            feed.sequences.pop(app, None)  # chunks went before: the next one shows which
        assembly = self._blobs.open(ref, now, wanted=False)
        if assembly is None:
            counters["dropped.no-room"] += 1
            return
        if assembly.hashes is None:
            assembly.set_header(hashes)
            self._blobs.index.fill(assembly, self._loop)
        # What was pushed with the blob before will not be pushed again; if it is not here either, it is lost.
        will_not_come = {index for index in assembly.missing if is_marked(header.known, index)}
        assembly.lost |= will_not_come - assembly.local
        assembly.pushed = True
        assembly.apps.add(app)
        pull = self._pulls.of(assembly, (feed.parent,))
        if not pull.asking:
            assembly.patience_until = now + self._station.timing.push_stall
        feed.arriving[ref.id] = app
        self._broadcast.relay(app, ref)
        pull.pump()

    def _on_chunk(self, feed: _Feed, app: int, chunk: BlobChunk, data: memoryview, *, whole: bool) -> None:
        counters, now = self._station.counters, self._station.clock()
        assembly = self._blobs.assembly(chunk.blob)
        if assembly is None:
            held = self._blobs.peek(chunk.blob) is not None
            counters["blobs.duplicate" if held else "dropped.unknown-blob"] += 1
            return
        if not whole:
            # Something before this chunk never came: the header, or chunks; parents send them in ascending order.
            assembly.lost.update(index for index in assembly.missing if index < chunk.index)
        news = True
        if assembly.hashes is None:
            assembly.header_lost = True
            assembly.lost.add(chunk.index)
            counters["dropped.before-header"] += 1
        else:
            stored = assembly.put(chunk.index, data, now)
            if stored is Stored.WRONG:
                self._blobs.blame.peer(feed.parent.node_id, now)
                assembly.lost.add(chunk.index)
            elif stored is Stored.DUPLICATE:
                counters["blobs.duplicate"] += 1
                news = False
            # Children may have come since the header did, or the header was asked for.
            self._broadcast.relay(app, assembly.ref)
        assembly.pushed = True
        assembly.apps.add(app)
        # A parent may have nothing but what it has from us, or from whom we ask: that is not worth waiting for.
        if news:
            assembly.patience_until = now + self._station.timing.push_stall
        feed.arriving[chunk.blob] = app
        if assembly.lost or assembly.header_lost:
            self._pulls.of(assembly, (feed.parent,)).pump()

    def _forget_loose(self, feed: _Feed, app: int, ref: BlobRef) -> None:
        """Keep a parent from filling our memory with blobs that nobody wants."""
        loose: list[Assembly] = []
        for blob_id, pushed_for in list(feed.arriving.items()):
            assembly = self._blobs.assembly(blob_id)
            if assembly is None:
                del feed.arriving[blob_id]
            elif pushed_for == app and not assembly.wanted and blob_id != ref.id:
                loose.append(assembly)
        for assembly in loose[: len(loose) - MAX_PUSHED_LOOSE + 1]:
            self._blobs.give_up(assembly, WireError("pushed, and never asked for"))


def _place(contact: Contact) -> tuple[str, int]:
    return contact.host, contact.port


def _topic(app: int) -> bytes:
    return app.to_bytes(APP_BYTES, "big")
