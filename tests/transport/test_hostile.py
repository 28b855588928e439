"""Strangers and bad members at the ZeroMQ ports: nothing gets through, memory stays bounded, the fleet goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

import pytest
import zmq
from zmq.utils import z85

from edgefl.identity.keys import DeviceKeys
from edgefl.transport import inbound as inbound_module
from edgefl.transport import tcp_info
from edgefl.transport.counters import Notices
from edgefl.transport.curve import MAX_FRAME_BYTES
from edgefl.transport.inbound import MAX_PER_PEER
from edgefl.transport.penalties import MAX_GARBAGE, MAX_TRACKED, Penalties
from edgefl.wire.blob import CHUNK_BYTES, HASH_BYTES
from edgefl.wire.codec import encode
from edgefl.wire.link import BlobChunk, Hello
from edgefl.wire.overlay import Ping
from tests.transport.curve_client import CurveClient
from tests.transport.fleet import Device, Fleet, asynchronous, run, until
from tests.transport.insider import an_insider


async def goes_on(a: Device, b: Device, number: int = 4711) -> None:
    """Messages still flow between two members."""
    a.transport.send(b.contact, Ping(number))
    await until(lambda: b.listener.heard(Ping(number)), "the fleet goes on")


@pytest.mark.parametrize("port", [0, 1], ids=["links", "broadcast"])
def test_raw_garbage_and_silence_from_strangers(port: int) -> None:
    """Given hundreds of connections that send nonsense, half a greeting, or nothing, then they are bounded and cut."""

    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2)
        address = "127.0.0.1", b.transport._ports[port]
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL".ljust(55, b"\0")
        kinds = [b"", b"\xff", greeting, greeting[:30], os.urandom(200), b"GET / HTTP/1.1\r\n\r\n", bytes(3000)]
        crowd = []
        for number in range(3 * inbound_module.MAX_ANONYMOUS):
            stranger = socket.create_connection(address)
            stranger.sendall(kinds[number % len(kinds)])
            crowd.append(stranger)
            if number % 20 == 0:
                await asyncio.sleep(0)
        inbound = (b.transport._links._inbound, b.transport._broadcast._children.inbound)[port]
        await until(lambda: len(inbound) <= inbound_module.MAX_ANONYMOUS)
        await goes_on(a, b, 1)
        await goes_on(b, a, 2)
        await until(lambda: not inbound._anonymous, "the silent ones are cut as well")
        assert b.listener.messages
        for stranger in crowd:
            stranger.close()

    run(test)


@asynchronous
async def test_plain_zeromq_and_unknown_keys_get_nowhere(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.setsockopt(zmq.LINGER, 0)
    plain, unknown = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    public, secret = DeviceKeys.generate().curve_z85()
    unknown.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(b.admission.keys.curve_public))
    unknown.setsockopt(zmq.CURVE_PUBLICKEY, public)
    unknown.setsockopt(zmq.CURVE_SECRETKEY, secret)
    for stranger in (plain, unknown):
        stranger.connect(f"tcp://127.0.0.1:{b.transport._ports[0]}")
        stranger.send(encode(Hello(a.contact)))
    await until(lambda: b.count("refused.zap") > 0 and b.count("refused.handshake") > 0)
    await goes_on(a, b)
    assert [message for _, message in b.listener.messages] == [Ping(4711)]
    context.destroy(linger=0)


@asynchronous
async def test_a_member_that_sends_nonsense_is_kept_out_after_a_while(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    with an_insider() as bad:
        link = bad.dealer(b)
        await until(lambda: b.transport._links.connected(bad.node_id))
        nonsense = [
            b"",
            b"\xa0",
            os.urandom(100),
            b"\xff" * 1000,
            encode(Hello(a.contact)),
            encode(BlobChunk(bytes(32), 0)),
        ]
        for number in range(MAX_GARBAGE):
            link.send(nonsense[number % len(nonsense)])
        await until(lambda: b.transport._penalties.excluded(bad.node_id))
        await until(lambda: not b.transport._links._inbound.of(bad.node_id), "it was cut")
        assert bad.node_id in b.listener.lost
        assert b.count("dropped.garbage") + b.count("dropped.impostor") >= MAX_GARBAGE
        await until(lambda: b.count("refused.zap") > 0, "it tries again")
    await goes_on(a, b)


@asynchronous
async def test_nobody_speaks_before_hello_or_for_others(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    with an_insider() as bad:
        link = bad.dealer(b, hello=False)
        link.send(encode(Ping(1)))
        link.send(encode(Hello(a.contact)))
        link.send(encode(Ping(2)))
        link.send(encode(Hello(bad.contact)))
        link.send(encode(Ping(3)))
        await until(lambda: b.listener.heard(Ping(3)))
        assert b.listener.messages == [(bad.contact, Ping(3))]
        assert (b.count("dropped.before-hello"), b.count("dropped.impostor")) == (2, 1)
    await goes_on(a, b)


@asynchronous
async def test_messages_of_a_later_version_are_dropped_without_blame(fleet: Fleet) -> None:
    import cbor2

    device = await fleet.device()
    with an_insider() as newer:
        link = newer.dealer(device)
        for _ in range(2 * MAX_GARBAGE):
            link.send(cbor2.dumps({0: 9999, 1: "something new"}))
        await until(lambda: device.count("dropped.unknown-type") == 2 * MAX_GARBAGE)
        link.send(encode(Hello(newer.contact, oldest=90, newest=91)))
        await until(lambda: device.count("dropped.protocol-version") == 1)
        assert not device.transport._penalties.excluded(newer.node_id)


@asynchronous
async def test_frames_that_are_too_large_end_the_connection(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    with an_insider() as bad:
        link = bad.dealer(b)
        await until(lambda: b.transport._links.connected(bad.node_id))
        link.send(bytes(MAX_FRAME_BYTES + 1000))
        await until(lambda: bad.node_id in b.listener.lost)
    assert MAX_FRAME_BYTES > CHUNK_BYTES
    await goes_on(a, b)


@pytest.mark.parametrize("port", [0, 1], ids=["links", "broadcast"])
def test_a_message_of_endlessly_many_parts_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a member that sends one message without end, then its connection is cut, and with it goes its memory."""
    monkeypatch.setattr(tcp_info, "MAX_UNDELIVERED_BYTES", 8_000_000)

    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2)
        await goes_on(a, b, 1)
        with an_insider() as bad:
            bad.admit_at(b)
            client = CurveClient(bad.keys, b.admission.keys.curve_public, (b"DEALER", b"SUB")[port])
            await client.connect("127.0.0.1", b.transport._ports[port])
            await client.send((encode(Hello(bad.contact, reply=True)), b"\x01" + bytes(8))[port], more=False)
            inbound = (b.transport._links._inbound, b.transport._broadcast._children.inbound)[port]
            await until(lambda: inbound.of(bad.node_id))
            sent = 0
            try:
                while sent < 200_000_000:
                    await asyncio.wait_for(client.send(bytes(100_000), more=True), 1.0)
                    sent += 100_000
            except (OSError, asyncio.TimeoutError):
                pass  # cut: nobody reads what it sends any more
            await until(lambda: bad.node_id in b.listener.lost)
            assert b.count("dropped.endless-message") == 1
            assert b.count("messages_received") < 10, "not one part was delivered"
            client.close()
        await goes_on(a, b, 2)

    run(test)


def test_what_came_while_the_loop_stood_still_is_read_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given whole messages, more than one that is endless may have, then nothing is cut and all are handled."""
    monkeypatch.setattr(tcp_info, "MAX_UNDELIVERED_BYTES", 4_000_000)

    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2)
        with an_insider() as sender:
            link = sender.dealer(b)
            await until(lambda: b.transport._links.connected(sender.node_id))
            (connection,) = b.transport._links._inbound.of(sender.node_id)
            for index in range(40):
                link.send_multipart([encode(BlobChunk(bytes(HASH_BYTES), index)), bytes(CHUNK_BYTES)])
            deadline = time.monotonic() + 20.0
            while (known := tcp_info.counts(connection.descriptor)) is None or known.received < 8_000_000:
                assert time.monotonic() < deadline
            b.transport._links.sweep()
            await until(lambda: b.count("dropped.unsolicited") == 40)
            assert b.count("dropped.endless-message") == 0
            assert b.transport._links._inbound.of(sender.node_id) == [connection]
            monkeypatch.setattr(tcp_info, "MAX_UNREAD_BYTES", 4_000_000)
            for index in range(40):
                link.send_multipart([encode(BlobChunk(bytes(HASH_BYTES), index)), bytes(CHUNK_BYTES)])
            while (known := tcp_info.counts(connection.descriptor)) is None or known.received < 18_000_000:
                assert time.monotonic() < deadline
            b.transport._links.sweep()
            assert b.count("dropped.endless-message") == 1
        await goes_on(a, b)

    run(test)


@asynchronous
async def test_one_member_has_few_connections(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    with an_insider() as bad:
        for number in range(3 * MAX_PER_PEER):
            bad.dealer(b)
            await until(lambda number=number: b.count("messages_received") == number + 1)
        await until(lambda: len(b.transport._links._inbound.of(bad.node_id)) == MAX_PER_PEER)
        assert bad.node_id not in b.listener.lost
    await goes_on(a, b)


def test_the_number_of_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_module, "MAX_CONNECTIONS", 3)

    async def test(fleet: Fleet) -> None:
        device, *others = await fleet.some(6)
        for other in others:
            await goes_on(other, device, other.node_id & 0xFFFF)
        await until(lambda: len(device.transport._links._inbound) == 3)
        await goes_on(others[-1], device, 7)

    run(test)


def test_penalties_are_bounded_in_number_and_time() -> None:
    now = [0.0]
    penalties = Penalties(lambda: now[0], duration_s=60.0)
    cut: list[int] = []
    penalties.on_excess = cut.append
    for _ in range(MAX_GARBAGE - 1):
        penalties.garbage(1)
    assert not penalties.excluded(1)
    penalties.garbage(1)
    assert (penalties.excluded(1), cut) == (True, [1])
    now[0] = 59.9
    assert penalties.excluded(1)
    now[0] = 60.0
    assert not penalties.excluded(1)
    for node_id in range(2 * MAX_TRACKED):
        penalties.garbage(node_id)
        penalties.exclude(node_id)
    assert max(len(penalties._counts), len(penalties._until)) <= MAX_TRACKED


def test_a_flood_of_log_lines_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices(logging.getLogger("test"))
    for number in range(100):
        notices.say("garbage", number * 1.0, "%s knocked", "somebody")
    assert len(caplog.records) == 2
    for kind in range(1000):
        notices.say(str(kind), 0.0, "x")
    assert len(notices._silent_until) <= Notices.MAX_KINDS
