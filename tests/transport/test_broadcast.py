"""Pushing blobs down a tree: once, in order, as they arrive, repaired when something is lost, and within bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import zmq

from edgefl.errors import TryAgainError
from edgefl.identity.revocation import pack_revocations
from edgefl.transport import blobs as blobs_module
from edgefl.transport import slow_lane
from edgefl.transport import subscribers as subscribers_module
from edgefl.transport.dial import State
from edgefl.transport.feeds import MAX_PUSHED_LOOSE
from edgefl.transport.limits import MAX_PUSH_BYTES, Limits
from edgefl.transport.subscribers import MAX_APPS, MIN_WINDOW_BYTES
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, ref_of
from edgefl.wire.codec import Message, decode
from edgefl.wire.link import BlobChunk, BlobHeader, BlobMissing
from edgefl.wire.overlay import Ping
from tests.transport.fleet import FAST, FLEET, PATIENT, Device, Fleet, asynchronous, run, until
from tests.transport.insider import an_insider

APP = 0x0123456789ABCDEF
LIMIT = 100_000_000
MEGABYTES_2 = os.urandom(2_000_000)


async def adopt(parent: Device, *children: Device) -> None:
    """Subscribe the children at the parent, and wait until it knows."""
    for child in children:
        child.transport.subscribe(APP, parent.contact, LIMIT)
    wanted = {child.node_id for child in children}
    await until(lambda: wanted <= {item.node_id for item in parent.transport._broadcast.subscribers(APP)}, "subscribed")


def intercept(parent: Device, keep: Callable[[Message], bool]) -> None:
    """Lose pushed messages on purpose: those for which `keep` is False."""
    children = parent.transport._broadcast._children
    honest = children.send

    def send(app: int, lane: bytes, parts: list[bytes | zmq.Frame], sequence: int = 0) -> int:
        message = decode(bytes(parts[0]))
        assert message is not None
        return honest(app, lane, parts, sequence) if keep(message) else len(children.of(app))

    children.send = send  # type: ignore[method-assign]


def a_gate_after(chunks: int, parent: Device) -> asyncio.Event:
    """Push so many chunks, and the rest once the event is set."""
    broadcast, gate = parent.transport._broadcast, asyncio.Event()
    send_next = broadcast.send_next

    def gated(stream: object) -> tuple[int, int]:
        if gate.is_set() or parent.count("blobs.pushed") < chunks:
            return send_next(stream)  # type: ignore[arg-type]
        return 0, 0

    broadcast.send_next = gated  # type: ignore[method-assign]
    return gate


@asynchronous
async def test_what_a_parent_has_from_its_child_is_not_waited_for(fleet: Fleet) -> None:
    """The parent has lost its own, asks its child, and pushes what it gets back to it: the child goes on asking."""
    source, parent = await fleet.device(uplink_bytes_s=4e6), await fleet.device()
    child = await fleet.device(timing=replace(FAST, push_stall=60.0))
    await adopt(parent, child)
    ref = await source.transport.add_blob(os.urandom(24 * CHUNK_BYTES))
    first = asyncio.ensure_future(child.transport.fetch(ref, [source.contact], app=APP, max_bytes=LIMIT))
    await until(lambda: missing(child, ref) < ref.chunks)
    second = asyncio.ensure_future(parent.transport.fetch(ref, [child.contact], app=APP, max_bytes=LIMIT))
    await until(lambda: missing(parent, ref) < ref.chunks)
    parent.transport._broadcast.relay(APP, ref)
    await asyncio.wait_for(asyncio.gather(first, second), 8.0)
    assert parent.count("blobs.pushed")
    assert child.count("blobs.duplicate")


def missing(device: Device, ref: BlobRef) -> int:
    """Chunks of an arriving blob that are not here yet."""
    assembly = device.transport._blobs.assembly(ref.id)
    return ref.chunks if assembly is None else len(assembly.missing)


@asynchronous
async def test_a_pushed_blob_reaches_all_children_and_is_not_downloaded_twice(fleet: Fleet) -> None:
    root, *children = await fleet.some(4)
    await adopt(root, *children)
    ref = await root.transport.add_blob(MEGABYTES_2)
    fetches = [child.transport.fetch(ref, [root.contact], app=APP, max_bytes=LIMIT) for child in children]
    waiting = asyncio.gather(*fetches)
    await asyncio.sleep(0)
    root.transport.publish(APP, ref)
    assert all(got == MEGABYTES_2 for got in await waiting)
    for child in children:
        assert child.count("blobs.pulled") == 0
        assert child.count("bytes_received") < 1.01 * len(MEGABYTES_2)
    assert root.count("blobs.pushed") == ref.chunks


@asynchronous
async def test_what_was_pushed_before_anybody_asked_is_here_when_asked_for(fleet: Fleet) -> None:
    root, child = await fleet.some(2)
    await adopt(root, child)
    ref = await root.transport.add_blob(MEGABYTES_2)
    root.transport.publish(APP, ref)
    await until(lambda: child.transport.has_blob(ref))
    assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2


@asynchronous
async def test_a_chain_of_three_relays_each_chunk_as_it_arrives(fleet: Fleet) -> None:
    """root -> a -> b -> c: given the root stops in the middle, then c has every chunk that a has."""
    root, a, b, c = await fleet.some(4)
    for parent, child in ((root, a), (a, b), (b, c)):
        await adopt(parent, child)
    data = os.urandom(25_000_000)
    ref = await root.transport.add_blob(data)
    gate = a_gate_after(20, root)
    root.transport.publish(APP, ref)

    await until(lambda: missing(c, ref) == ref.chunks - 20)
    assert missing(a, ref) == missing(b, ref) == ref.chunks - 20
    gate.set()
    fetches = [device.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) for device in (a, b, c)]
    assert all(got == data for got in await asyncio.gather(*fetches))
    assert [device.count("blobs.pulled") for device in (a, b, c)] == [0, 0, 0]
    assert [device.count("blobs.pushed") for device in (root, a, b)] == [ref.chunks] * 3


@asynchronous
async def test_lost_chunks_are_asked_for_and_passed_on(fleet: Fleet) -> None:
    """root -> a -> b: given chunks lost on the first hop, then both have all of them, and only those were pulled."""
    root, a, b = await fleet.some(3)
    await adopt(root, a)
    await adopt(a, b)
    data = os.urandom(8_000_000)
    ref = await root.transport.add_blob(data)
    lost = {3, 4, 15, 30}
    intercept(root, lambda message: not (isinstance(message, BlobChunk) and message.index in lost))
    root.transport.publish(APP, ref)
    fetches = [device.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) for device in (a, b)]
    assert all(got == data for got in await asyncio.gather(*fetches))
    assert a.count("blobs.pulled") == len(lost)
    assert b.count("blobs.pulled") <= len(lost)
    assert a.count("blobs.pushed") == ref.chunks


@asynchronous
async def test_a_gap_is_repaired_at_once_although_the_push_goes_on(fleet: Fleet) -> None:
    """The sequence tells: chunk 2 is pulled while later chunks are still to be pushed."""
    root, child = await fleet.some(2, timing=replace(FAST, patience=5.0, push_stall=5.0))
    await adopt(root, child)
    ref = await root.transport.add_blob(MEGABYTES_2)
    held_back: list[int] = []

    def keep(message: Message) -> bool:
        if isinstance(message, BlobChunk) and message.index in (2, 7):
            held_back.append(message.index)
            return False
        return True

    intercept(root, keep)
    root.transport.publish(APP, ref)
    await until(lambda: child.count("blobs.pulled") == 1, "chunk 2 was pulled", deadline_s=2.0)
    assembly = child.transport._blobs.assembly(ref.id)
    assert assembly is not None
    assert assembly.missing == {7}, "the last one shows no gap: patience decides"
    assert held_back == [2, 7]


@asynchronous
async def test_a_lost_header_is_asked_for(fleet: Fleet) -> None:
    root, child = await fleet.some(2)
    await adopt(root, child)
    ref = await root.transport.add_blob(MEGABYTES_2)
    intercept(root, lambda message: not isinstance(message, BlobHeader))
    fetch = asyncio.ensure_future(child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT))
    await until(lambda: child.transport._blobs.assembly(ref.id))
    root.transport.publish(APP, ref)
    assert await fetch == MEGABYTES_2


@asynchronous
async def test_a_late_subscriber_asks_for_what_it_missed(fleet: Fleet) -> None:
    root, early, late = await fleet.some(3)
    await adopt(root, early)
    data = os.urandom(8_000_000)
    ref = await root.transport.add_blob(data)
    gate = a_gate_after(10, root)
    root.transport.publish(APP, ref)
    await until(lambda: root.count("blobs.pushed") == 10)
    await adopt(root, late)
    fetch = asyncio.ensure_future(late.transport.fetch(ref, [], app=APP, max_bytes=LIMIT))
    await until(lambda: late.transport._blobs.assembly(ref.id))
    gate.set()
    assert await fetch == data
    assert late.count("blobs.pulled") == 10, "what went before; the header was repeated"
    assert early.count("blobs.pulled") == 0
    assert await early.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data


@asynchronous
async def test_a_subscriber_after_the_push_asks_for_everything(fleet: Fleet) -> None:
    root, child = await fleet.some(2)
    ref = await root.transport.add_blob(MEGABYTES_2)
    root.transport.publish(APP, ref)
    await adopt(root, child)
    assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
    assert child.count("blobs.pulled") == ref.chunks


@asynchronous
async def test_when_the_parent_dies_in_the_middle_the_rest_comes_from_others(fleet: Fleet) -> None:
    root, other, child = await fleet.some(3, timing=replace(FAST, patience=8.0, push_stall=8.0))
    await adopt(root, child)
    data = os.urandom(8_000_000)
    ref = await root.transport.add_blob(data)
    await other.transport.add_blob(data)
    a_gate_after(10, root)
    fetch = asyncio.ensure_future(child.transport.fetch(ref, [other.contact], app=APP, max_bytes=LIMIT))
    await asyncio.sleep(0)
    root.transport.publish(APP, ref)
    await until(lambda: root.count("blobs.pushed") == 10)
    await until(lambda: missing(child, ref) == ref.chunks - 10)
    await root.transport.close()
    assert await fetch == data
    assert other.count("blobs.served") >= ref.chunks - 10
    await until(lambda: root.node_id in child.listener.lost)


@asynchronous
async def test_a_parent_that_pushes_wrong_bytes_is_not_believed(fleet: Fleet) -> None:
    root, honest, child = await fleet.some(3)
    await adopt(root, child)
    ref = await root.transport.add_blob(MEGABYTES_2)
    await honest.transport.add_blob(MEGABYTES_2)
    root.transport._broadcast._flight.frame = lambda data: zmq.Frame(bytes(len(data)))  # type: ignore[method-assign]
    fetch = asyncio.ensure_future(child.transport.fetch(ref, [honest.contact], app=APP, max_bytes=LIMIT))
    await asyncio.sleep(0)
    root.transport.publish(APP, ref)
    assert await fetch == MEGABYTES_2
    assert child.count("blobs.lying") > 0


@asynchronous
async def test_a_relay_passes_no_wrong_byte_on(fleet: Fleet) -> None:
    root, relay, child = await fleet.some(3)
    await adopt(root, relay)
    await adopt(relay, child)
    ref = await root.transport.add_blob(MEGABYTES_2)
    root.transport._broadcast._flight.frame = lambda data: zmq.Frame(bytes(len(data)))  # type: ignore[method-assign]
    root.transport.publish(APP, ref)
    fetches = [device.transport.fetch(ref, [root.contact], app=APP, max_bytes=LIMIT) for device in (relay, child)]
    assert all(got == MEGABYTES_2 for got in await asyncio.gather(*fetches)), "asking for them gives the right ones"
    assert relay.count("blobs.lying") > 0
    assert child.count("blobs.lying") == 0


def limited(monkeypatch: pytest.MonkeyPatch, push_bytes: int) -> Limits:
    monkeypatch.setattr(subscribers_module, "LAGGING_BYTES", push_bytes // 2)
    return Limits(push_bytes=push_bytes)


def test_a_child_that_never_reads_holds_bounded_memory_and_nobody_else_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a child that reads nothing, when far more is pushed than may be under way, then it is cut off, the other
    child gets every blob by push alone, and at no time is more under way than the bound."""
    push_bytes = 16 * 1024 * 1024
    limits = limited(monkeypatch, push_bytes)

    async def test(fleet: Fleet) -> None:
        root, good = await fleet.some(2, timing=PATIENT, limits=limits)
        with an_insider() as slow:
            slow.subscriber(root, APP.to_bytes(8, "big"))
            await adopt(root, good)
            await until(lambda: len(root.transport._broadcast.subscribers(APP)) == 2)
            for _ in range(15):
                data = os.urandom(4_000_000)
                ref = await root.transport.add_blob(data)
                root.transport.publish(APP, ref)
                assert await good.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data
                assert root.transport._broadcast.in_flight <= push_bytes + CHUNK_BYTES
                root.transport.discard_blob(ref)
                good.transport.discard_blob(ref)
            assert root.count("dropped.lagging-child") >= 1
            assert good.count("blobs.pulled") == 0
            await until(lambda: slow.node_id in root.listener.lost)

    run(test)


def test_when_all_children_are_slow_the_stream_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    push_bytes = 12 * 1024 * 1024
    limits = limited(monkeypatch, push_bytes)

    async def test(fleet: Fleet) -> None:
        root = await fleet.device(timing=PATIENT, limits=limits)
        with an_insider() as slow:
            socket = slow.subscriber(root, APP.to_bytes(8, "big"))
            await until(lambda: root.transport._broadcast.subscribers(APP))
            ref = await root.transport.add_blob(os.urandom(40_000_000))
            root.transport.publish(APP, ref)
            (child,) = root.transport._broadcast.subscribers(APP)
            await until(lambda: child.window == MIN_WINDOW_BYTES and child.backlog >= child.window)
            assert root.count("blobs.pushed") < ref.chunks
            got = 0

            def read() -> bool:
                nonlocal got
                while socket.poll(0):
                    socket.recv_multipart()
                    got += 1
                assert root.transport._broadcast.in_flight <= push_bytes + CHUNK_BYTES
                return got == ref.chunks + 1  # and the header

            await until(read)
            assert root.count("dropped.lagging-child") == 0

    run(test)


def test_a_child_that_stopped_reading_is_dropped_by_tcp_itself_in_the_end() -> None:
    async def test(fleet: Fleet) -> None:
        root = await fleet.device(timing=replace(FAST, stall=1.0, heartbeat_timeout=30.0))
        with an_insider() as slow:
            slow.subscriber(root, APP.to_bytes(8, "big"))
            await until(lambda: root.transport._broadcast.subscribers(APP))
            ref = await root.transport.add_blob(os.urandom(30_000_000))
            root.transport.publish(APP, ref)
            await until(lambda: root.transport._broadcast.in_flight > 0)
            await until(lambda: slow.node_id in root.listener.lost)
            await until(lambda: root.transport._broadcast.in_flight == 0, "its memory is free")

    run(test)


@asynchronous
async def test_a_newer_blob_replaces_one_that_is_still_being_pushed(fleet: Fleet) -> None:
    root, child = await fleet.some(2)
    await adopt(root, child)
    first, second = os.urandom(4_000_000), os.urandom(4_000_000)
    ref1, ref2 = await root.transport.add_blob(first), await root.transport.add_blob(second)
    gate = a_gate_after(5, root)
    root.transport.publish(APP, ref1)
    await until(lambda: root.count("blobs.pushed") == 5)
    told: list[Message] = []
    intercept(root, lambda message: told.append(message) is None)
    root.transport.publish(APP, ref2)
    gate.set()
    assert await child.transport.fetch(ref2, [], app=APP, max_bytes=LIMIT) == second
    assert BlobMissing(ref1.id) in told
    assert await child.transport.fetch(ref1, [], app=APP, max_bytes=LIMIT) == first, "the rest was asked for"
    assert child.count("blobs.pulled") == ref1.chunks - 5


@asynchronous
async def test_blobs_that_are_too_big_or_too_many_are_not_taken(fleet: Fleet) -> None:
    root, child = await fleet.some(2)
    child.transport.subscribe(APP, root.contact, 1_000_000)
    await until(lambda: root.transport._broadcast.subscribers(APP))
    ref = await root.transport.add_blob(MEGABYTES_2)
    root.transport.publish(APP, ref)
    await until(lambda: child.count("dropped.too-big") == 1)
    assert child.transport._blobs.arriving_bytes == 0

    intercept(root, lambda message: not isinstance(message, BlobChunk))
    for _ in range(5):
        root.transport.publish(APP, await root.transport.add_blob(os.urandom(900_000)))
    await until(lambda: root.count("blobs.pushed") >= 5 * 4)
    assert len(child.transport._blobs._assemblies) <= MAX_PUSHED_LOOSE


def test_pushed_blobs_that_nobody_asks_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "LOOSE_S", 0.3)

    async def test(fleet: Fleet) -> None:
        root, child = await fleet.some(2)
        await adopt(root, child)
        wanted = await root.transport.add_blob(MEGABYTES_2)
        root.transport.publish(APP, wanted)
        await child.transport.fetch(wanted, [], app=APP, max_bytes=LIMIT)
        for _ in range(3):
            root.transport.publish(APP, await root.transport.add_blob(os.urandom(1_000_000)))
        await until(lambda: root.count("blobs.pushed") == wanted.chunks + 3 * 4)
        await until(lambda: child.transport._blobs.cached_bytes == wanted.size)
        assert child.transport.has_blob(wanted)

    run(test)


@asynchronous
async def test_a_child_that_changes_its_parent_is_not_reported_as_lost(fleet: Fleet) -> None:
    old, new, child = await fleet.some(3)
    await adopt(old, child)
    await adopt(new, child)
    await until(lambda: not old.transport._broadcast._children.inbound.connections(), "gone from the old one")
    await asyncio.sleep(0)
    assert old.listener.lost == []
    ref = await new.transport.add_blob(MEGABYTES_2)
    new.transport.publish(APP, ref)
    assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2


@asynchronous
async def test_a_lost_child_is_named(fleet: Fleet) -> None:
    parent, child = await fleet.some(2)
    await adopt(parent, child)
    await child.transport.close()
    await until(lambda: parent.listener.lost == [child.node_id], deadline_s=1.0)
    assert parent.transport._broadcast.subscribers(APP) == []


@asynchronous
async def test_a_restarted_parent_is_subscribed_again(fleet: Fleet) -> None:
    """Given the parent closes and comes back with other ports behind the same door, then pushes arrive again."""
    parent, child = await fleet.some(2)
    await adopt(parent, child)
    port = parent.contact.port
    await parent.transport.close()
    reborn = await fleet.device(admission=parent.admission)
    await reborn.transport._door.close()
    await reborn.transport._door.open("127.0.0.1", port)
    await until(lambda: reborn.transport._broadcast.subscribers(APP))
    ref = await reborn.transport.add_blob(MEGABYTES_2)
    reborn.transport.publish(APP, ref)
    await until(lambda: child.transport.has_blob(ref))


@asynchronous
async def test_a_child_that_moves_subscribes_anew_and_misses_nothing(fleet: Fleet) -> None:
    """Given a push under way, when the child loses the address that its subscription began at, then it subscribes
    through a new connection, and what it missed it asks for."""
    parent, child = await fleet.some(2)
    await adopt(parent, child)
    first = await parent.transport.add_blob(MEGABYTES_2)
    parent.transport.publish(APP, first)
    child.transport.leave_lost_addresses(frozenset({"127.0.0.1"}))
    assert child.transport._feeds._feeds[parent.node_id].dial.state is State.UP  # type: ignore[union-attr]
    child.transport.leave_lost_addresses(frozenset({"192.0.2.1"}))
    assert child.transport._feeds._feeds[parent.node_id].dial.state is not State.UP  # type: ignore[union-attr]
    assert await child.transport.fetch(first, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
    await until(lambda: child.transport._feeds._feeds[parent.node_id].dial.up)  # type: ignore[union-attr]
    await until(lambda: parent.transport._broadcast.subscribers(APP))
    second = await parent.transport.add_blob(MEGABYTES_2[:-1])
    parent.transport.publish(APP, second)
    await until(lambda: child.transport.has_blob(second))
    assert child.listener.lost == []


@asynchronous
async def test_a_parent_that_moves_is_subscribed_at_its_new_place(fleet: Fleet) -> None:
    parent, child = await fleet.some(2)
    await adopt(parent, child)
    knocks = child.count("knocks")
    port = await parent.transport._door.open("127.0.0.1", 0)
    moved = replace(parent.contact, port=port, incarnation=parent.contact.incarnation + 1)
    child.transport.subscribe(APP, moved, LIMIT)
    dial = child.transport._feeds._feeds[parent.node_id].dial
    assert dial is not None
    assert not dial.up
    await until(lambda: dial.up)
    assert child.count("knocks") == knocks + 1
    child.transport.subscribe(APP, replace(moved, zone=3, incarnation=9), LIMIT)
    assert dial.up, "still in its place"


@asynchronous
async def test_nothing_goes_round_in_a_circle(fleet: Fleet) -> None:
    """Trees have no circles; should two devices take each other for parents all the same, each pushes a blob once."""
    a, b = await fleet.some(2)
    await adopt(a, b)
    await adopt(b, a)
    ref = await a.transport.add_blob(MEGABYTES_2)
    a.transport.publish(APP, ref)
    assert await b.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
    await until(lambda: b.count("blobs.pushed") == ref.chunks)
    second = await a.transport.add_blob(os.urandom(2_000_000))
    a.transport.publish(APP, second)
    await until(lambda: b.count("blobs.pushed") == ref.chunks + second.chunks)
    assert a.count("blobs.pushed") == ref.chunks + second.chunks


@asynchronous
async def test_several_applications_share_one_subscription(fleet: Fleet) -> None:
    root, child = await fleet.some(2)
    for app in (1, 2, 3):
        child.transport.subscribe(app, root.contact, LIMIT)
    await until(lambda: all(root.transport._broadcast.subscribers(app) for app in (1, 2, 3)))
    assert len(root.transport._broadcast._children.inbound) == 1
    child.transport.unsubscribe(2)
    await until(lambda: not root.transport._broadcast.subscribers(2))
    for app in (1, 2, 3):
        root.transport.publish(app, await root.transport.add_blob(bytes([app]) * 100_000))
    await until(lambda: child.transport.has_blob(ref_of(bytes([3]) * 100_000)))
    assert child.transport.has_blob(ref_of(bytes([1]) * 100_000))
    assert not child.transport.has_blob(ref_of(bytes([2]) * 100_000))


@asynchronous
async def test_a_blob_on_disk_can_be_published(fleet: Fleet) -> None:
    from tests.transport.test_blobs import Disk

    disk = Disk()
    root, child = await fleet.device(files=disk), await fleet.device()
    await adopt(root, child)
    ref = ref_of(MEGABYTES_2)
    disk.files[ref.id] = MEGABYTES_2
    root.transport.publish(APP, ref)
    await until(lambda: child.transport.has_blob(ref))
    root.transport.publish(APP, ref_of(b"unknown"))
    await until(lambda: root.count("dropped.publish-unknown") == 1)


@asynchronous
async def test_a_revoked_child_gets_nothing_more(fleet: Fleet) -> None:
    root, child, other = await fleet.some(3)
    await adopt(root, child, other)
    root.admission.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=[child.node_id])))
    await until(lambda: len(root.transport._broadcast.subscribers(APP)) == 1)
    ref = await root.transport.add_blob(MEGABYTES_2)
    root.transport.publish(APP, ref)
    assert await other.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
    assert not child.transport.has_blob(ref)
    with pytest.raises(TryAgainError):
        await child.transport.fetch(ref, [root.contact], max_bytes=LIMIT)


@asynchronous
async def test_who_may_not_subscribe_is_cut_and_pushed_nothing(fleet: Fleet) -> None:
    root, child, stranger = await fleet.some(3)
    await adopt(root, child, stranger)
    connections = root.transport._broadcast.subscribers(APP)
    before = next(item for item in connections if item.node_id == stranger.node_id)
    pushed = before.pushed
    root.transport._broadcast._children._may_subscribe = lambda node_id, app: node_id != stranger.node_id
    ref = await root.transport.add_blob(MEGABYTES_2)
    fetching = asyncio.ensure_future(child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT))
    await asyncio.sleep(0)
    root.transport.publish(APP, ref)  # it had subscribed before it was in another zone
    assert await fetching == MEGABYTES_2
    assert before.pushed == pushed
    await until(lambda: root.count("refused.subscription") >= 2, "refused again when it came back")
    assert {item.node_id for item in root.transport._broadcast.subscribers(APP)} == {child.node_id}
    assert stranger.count("blobs.pulled") == 0
    assert not stranger.transport.has_blob(ref)


@asynchronous
async def test_a_flood_of_subscriptions_is_cut_and_the_others_are_served(fleet: Fleet) -> None:
    """Given an admitted device that subscribes to far too much, then it is kept out, and its topics are forgotten."""
    root, child = await fleet.some(2)
    await adopt(root, child)
    with an_insider() as flooder:
        socket = flooder.subscriber(root, APP.to_bytes(8, "big"))
        await until(lambda: len(root.transport._broadcast.subscribers(APP)) == 2)
        for number in range(20_000):
            socket.subscribe(number.to_bytes(8, "big"))
        await until(lambda: root.transport._penalties.excluded(flooder.node_id))
        await until(lambda: not root.transport._broadcast._children.inbound.of(flooder.node_id))
        await until(lambda: root.count("refused.zap"), "it tries again, and is refused")
    assert max(len(item.apps) for item in root.transport._broadcast._children._children.values()) <= MAX_APPS
    assert len(root.transport._broadcast._children._by_app) <= MAX_APPS + 1
    ref = await root.transport.add_blob(MEGABYTES_2)
    root.transport.publish(APP, ref)
    assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
    root.transport.send(child.contact, Ping(1))
    await until(lambda: child.listener.heard(Ping(1)))


def test_the_bounds_fit_each_other() -> None:
    assert MAX_PUSH_BYTES >= 2 * 25_000_000
    assert subscribers_module.MIN_WINDOW_BYTES < subscribers_module.LAGGING_BYTES < MAX_PUSH_BYTES


@asynchronous
async def test_what_did_not_change_since_the_last_blob_is_not_pushed_again(fleet: Fleet) -> None:
    """root -> a -> b, and a newcomer at the root: those who have the blob before get the one chunk that is new; the
    newcomer asks for the others."""
    root, a, b, newcomer = await fleet.some(4)
    await adopt(root, a)
    await adopt(a, b)
    before = os.urandom(8 * CHUNK_BYTES)
    after = before[: 3 * CHUNK_BYTES] + os.urandom(CHUNK_BYTES) + before[4 * CHUNK_BYTES :]
    first, second = await root.transport.add_blob(before), await root.transport.add_blob(after)
    root.transport.publish(APP, first)
    await until(lambda: a.transport.has_blob(first) and b.transport.has_blob(first))
    await adopt(root, newcomer)
    received = [device.count("bytes_received") for device in (a, b)]
    root.transport.publish(APP, second)
    for device in (a, b, newcomer):
        assert await device.transport.fetch(second, [], app=APP, max_bytes=LIMIT) == after
    assert root.count("blobs.pushed") == a.count("blobs.pushed") == 9
    assert [device.count("blobs.pulled") for device in (a, b, newcomer)] == [0, 0, 7]
    for device, then in zip((a, b), received, strict=True):
        assert device.count("bytes_received") - then < 1.1 * CHUNK_BYTES


def test_a_slow_child_is_told_of_blobs_and_asks_for_them_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a child that fell far behind, when it has come back, then it gets headers alone and fetches the chunks;
    after a time it gets another chance."""
    monkeypatch.setattr(subscribers_module, "LAGGING_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(subscribers_module, "LAG_S", 0.0)

    async def test(fleet: Fleet) -> None:
        root, good, slow = await fleet.some(3)
        await adopt(root, good, slow)
        behind = next(child for child in root.transport._broadcast.subscribers(APP) if child.node_id == slow.node_id)
        behind.pushed += LIMIT
        for child in root.transport._broadcast.subscribers(APP):
            child._bytes, child._seconds = 1e3 if child is behind else 1e9, 1.0
        first = await root.transport.add_blob(MEGABYTES_2)
        root.transport.publish(APP, first)
        assert await good.transport.fetch(first, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
        assert root.count("dropped.lagging-child") == 1
        assert await slow.transport.fetch(first, [], app=APP, max_bytes=LIMIT) == MEGABYTES_2
        await until(lambda: any(child.slow for child in root.transport._broadcast.subscribers(APP)))
        pulled = slow.count("blobs.pulled")
        data = os.urandom(2_000_000)
        second = await root.transport.add_blob(data)
        root.transport.publish(APP, second)
        assert await slow.transport.fetch(second, [], app=APP, max_bytes=LIMIT) == data
        assert slow.count("blobs.pulled") - pulled == second.chunks
        assert good.count("blobs.pulled") == 0

        monkeypatch.setattr(slow_lane, "SLOW_S", 0.1)
        monkeypatch.setattr(subscribers_module, "LAGGING_BYTES", LIMIT)
        subscribers = root.transport._broadcast.subscribers
        await until(lambda: [child.slow for child in subscribers(APP)] == [False, False], "another chance")
        pulled, third = slow.count("blobs.pulled"), await root.transport.add_blob(data[::-1])
        root.transport.publish(APP, third)
        assert await slow.transport.fetch(third, [], app=APP, max_bytes=LIMIT) == data[::-1]
        assert slow.count("blobs.pulled") == pulled

    run(test)


def test_who_is_cut_off_again_waits_longer_for_the_next_chance() -> None:
    lane = slow_lane.SlowLane()
    waits = []
    for _ in range(9):
        lane.cut_off(7)
        waits.append(lane.seconds(7))
        assert [lane.takes(7), lane.takes(7)] == [True, False]
    assert [lane.takes(8), lane.seconds(8)] == [False, 0.0]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


@asynchronous
async def test_a_subscription_that_is_refused_is_sent_nothing_at_all(fleet: Fleet) -> None:
    """Given a push under way to an honest child, when somebody who may not subscribes again and again, then not one
    message reaches it: a subscription counts once it was checked."""
    root, child = await fleet.some(2)
    await adopt(root, child)
    children = root.transport._broadcast._children
    with an_insider() as foreigner:
        children._may_subscribe = lambda node_id, app: node_id != foreigner.node_id
        sockets = []
        for _ in range(8):
            ref = await root.transport.add_blob(os.urandom(2_000_000))
            root.transport.publish(APP, ref)
            sockets.append(foreigner.subscriber(root, b""))
            sockets.append(foreigner.subscriber(root, APP.to_bytes(8, "big")))
            await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT)
        await until(lambda: root.count("refused.subscription") >= 8)
        assert not any(socket.poll(0) for socket in sockets)


@asynchronous
async def test_a_new_parent_goes_on_where_the_old_one_stopped(fleet: Fleet) -> None:
    """root -> old, new; old -> child. Given old dies in the middle, when the child turns to new, then no chunk comes
    twice."""
    root, old, new, child = await fleet.some(4)
    await adopt(root, old, new)
    await adopt(old, child)
    data = os.urandom(20 * CHUNK_BYTES)
    ref = await root.transport.add_blob(data)
    gate = a_gate_after(10, root)
    root.transport.publish(APP, ref)
    await until(lambda: missing(child, ref) == 10 and missing(new, ref) == 10)
    await old.transport.close()
    await adopt(new, child)
    gate.set()
    assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data
    assert child.count("blobs.duplicate") == 0
    assert child.count("bytes_received") < 1.05 * len(data)
