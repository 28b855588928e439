"""Messages between devices: both ways, through losses and restarts, and within bounds."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefl.identity.admission import Admission
from edgefl.identity.revocation import pack_revocations
from edgefl.transport import dial as dial_module
from edgefl.transport import links as links_module
from edgefl.transport.dial import TRANSITIONS, State
from edgefl.transport.outbox import MAX_PEER_BYTES, MAX_TOTAL_BYTES, MESSAGE_OVERHEAD_BYTES, Budget, Outbox
from edgefl.wire.codec import encode
from edgefl.wire.contact import Contact, Role
from edgefl.wire.learning import UpdateChunk
from edgefl.wire.overlay import Adverts, Ping, Pong
from tests.transport.fleet import FAST, FLEET, PATIENT, Device, Fleet, asynchronous, run, until
from tests.transport.insider import an_insider


def state_of(device: Device, peer: Device) -> State | None:
    known = device.transport._links._peers.get(peer.node_id)
    return known.dial.state if known is not None and known.dial is not None else None


@asynchronous
async def test_a_message_to_a_device_never_met_knocks_connects_and_arrives(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    assert b.listener.messages == [(a.contact, Ping(1))]
    assert (a.count("knocks"), a.count("links_opened")) == (1, 1)


@asynchronous
async def test_one_connection_serves_both_directions(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    b.transport.send(a.contact, Pong(1, True))
    await until(lambda: a.listener.heard(Pong(1, True)))
    assert (b.count("knocks"), b.count("links_opened")) == (0, 0)


@asynchronous
async def test_many_messages_arrive_once_and_in_order(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    for number in range(3000):
        a.transport.send(b.contact, Ping(number))
    await until(lambda: len(b.listener.messages) == 3000)
    assert [message.request for _, message in b.listener.messages] == list(range(3000))  # type: ignore[attr-defined]


@asynchronous
async def test_bulk_goes_from_one_memory_to_the_other_without_a_copy_in_ours(fleet: Fleet) -> None:
    """2 MB from an array, through ZeroMQ, into a sum: Python's allocators see none of it on either side."""
    a, b = await fleet.some(2)
    assert not a.transport.send_bulk(1, b.node_id, UpdateChunk(1, 1, 1, 1, 0), b"x"), "there is no connection yet"
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    vector = np.arange(8 * 65536, dtype=np.float32)
    total, arrived = np.zeros_like(vector), []

    def on_bulk(sender: Contact, message: UpdateChunk, data: memoryview) -> None:
        view = total[message.index * 65536 : (message.index + 1) * 65536]
        np.add(view, np.frombuffer(data, np.float32), out=view)
        arrived.append(message.index)

    b.transport._links._listener.on_bulk = on_bulk  # type: ignore[attr-defined]
    tracemalloc.start()
    for index in range(8):
        chunk = memoryview(vector[index * 65536 : (index + 1) * 65536]).cast("B").toreadonly()
        assert a.transport.send_bulk(1, b.node_id, UpdateChunk(1, 1, 1, 1, index), chunk)
    await until(lambda: len(arrived) == 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert arrived == list(range(8))
    np.testing.assert_array_equal(total, vector)
    assert peak < 128 * 1024


@asynchronous
async def test_a_leaf_is_answered_through_its_own_link_and_never_dialled(fleet: Fleet) -> None:
    leaf, node = await fleet.some(2)
    leaf.be_leaf()
    node.transport.send(leaf.contact, Ping(0))
    await until(lambda: node.listener.lost == [leaf.node_id], "told that it is out of reach")
    leaf.transport.send(node.contact, Ping(1))
    await until(lambda: node.listener.heard(Ping(1)))
    sender, _ = node.listener.messages[0]
    assert sender.role is Role.LEAF
    for number in range(50):
        node.transport.send(sender, Pong(number, True))
    await until(lambda: leaf.listener.heard(Pong(49, True)))
    assert leaf.listener.heard(Ping(0)), "what waited for it was sent as well"
    assert node.count("knocks") == 0


@asynchronous
async def test_a_new_contact_is_told_to_everybody_connected(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    a.transport.set_contact(replace(a.contact, zone=7, incarnation=3))
    a.transport.send(b.contact, Ping(2))
    await until(lambda: b.listener.heard(Ping(2)))
    assert b.listener.messages[-1][0] == a.contact
    b.transport.set_contact(replace(b.contact, zone=8, incarnation=4))
    b.transport.send(a.contact, Pong(2, True))
    await until(lambda: a.listener.messages)
    assert a.listener.messages[-1][0] == b.contact


@asynchronous
async def test_after_a_move_connections_from_the_old_address_are_opened_anew(fleet: Fleet) -> None:
    """Given links both ways, when the device has lost the address that they began at, then the next message goes
    through a new connection, and nothing counts as lost."""
    a, b, c = await fleet.some(3)
    a.transport.send(b.contact, Ping(1))
    c.transport.send(a.contact, Ping(1))
    await until(lambda: b.listener.messages and a.listener.messages)
    a.transport.leave_lost_addresses(frozenset({"127.0.0.1"}))
    assert a.transport.connected(b.node_id)
    assert a.transport.connected(c.node_id)
    a.transport.leave_lost_addresses(frozenset({"192.0.2.1"}))
    assert not a.transport.connected(b.node_id)
    assert not a.transport.connected(c.node_id)
    for peer in (b, c):
        a.transport.send(peer.contact, Ping(2))
        await until(lambda peer=peer: peer.listener.heard(Ping(2)))
    assert a.listener.lost == []
    assert a.count("links_opened") == 3


@asynchronous
async def test_what_waits_for_room_in_a_connection_from_the_old_address_finds_the_new_one(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    b.transport.send(a.contact, Ping(1))
    await until(lambda: a.listener.messages)
    peer = a.transport._links._peers[b.node_id]
    assert peer.outbox.put(encode(Ping(2)), peer.used)
    a.transport.leave_lost_addresses(frozenset({"192.0.2.1"}))
    await until(lambda: b.listener.heard(Ping(2)))


@asynchronous
async def test_a_peer_that_comes_from_a_new_address_is_not_sent_to_the_old_one(fleet: Fleet) -> None:
    """Given a link that we dialled and whose far end has gone silent, when the peer dials us from its new address, then
    messages to it take that way at once."""
    a, b = await fleet.some(2)
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    old, moved = b.contact, replace(b.contact, host="127.0.0.2", incarnation=1)
    b.transport._links._own = moved  # before it tells us through the link that is about to be dead
    b.transport._links._peers[a.node_id].routes.clear()
    b.transport.send(a.contact, Ping(2))
    await until(lambda: a.listener.heard(Ping(2)))
    dial = a.transport._links._peers[b.node_id].dial
    assert dial is not None
    assert dial.state is State.IDLE
    a.transport.send(old, Pong(2, True))
    await until(lambda: b.listener.heard(Pong(2, True)))
    assert a.count("knocks") == 1


@asynchronous
async def test_a_device_that_was_restarted_is_found_again_through_its_door(fleet: Fleet) -> None:
    """Same identity, other ports, nobody on its allow list: given only its new contact, then messages flow again."""
    a, b = await fleet.some(2)
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    old = b.contact
    await b.transport.close()
    await until(lambda: b.node_id in a.listener.lost, "the loss is reported")

    again = Admission(b.admission.keys)
    again.adopt(b.admission.certificate)  # type: ignore[arg-type]
    reborn = await fleet.device(admission=again)
    reborn.transport.set_contact(replace(reborn.contact, incarnation=old.incarnation + 1))
    a.transport.send(reborn.contact, Ping(2))
    await until(lambda: reborn.listener.heard(Ping(2)))
    reborn.transport.send(a.contact, Pong(2, True))
    await until(lambda: a.listener.heard(Pong(2, True)))


@asynchronous
async def test_a_device_restarted_on_its_old_port_is_found_again_without_news(fleet: Fleet) -> None:
    a, b = await fleet.some(2, timing=replace(FAST, queue_age=30.0))
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    port = b.contact.port
    await b.transport.close()
    a.transport.send(b.contact, Ping(2))  # nobody there: it waits, and the door is asked again and again
    again = Admission(b.admission.keys)
    again.restore(b.admission.export())
    # Only the door keeps its port: links and broadcast are somewhere else now.
    reborn = await fleet.device(admission=again)
    await reborn.transport._door.close()
    await reborn.transport._door.open("127.0.0.1", port)
    await until(lambda: reborn.listener.heard(Ping(2)))


@asynchronous
async def test_a_link_refused_with_400_recovers_through_the_door(fleet: Fleet) -> None:
    """Given a card at hand but no place on the peer's allow list, then the refusal leads to its door, and in."""
    a, b = await fleet.some(2)
    await a.meet(b)
    b.admission._allowed.clear()
    b.admission._curve_of.clear()
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.heard(Ping(1)))
    assert b.count("refused.zap") == 1
    assert (a.count("knocks"), a.listener.lost) == (2, [])


@asynchronous
async def test_a_door_that_stays_shut_is_reported_and_asked_ever_more_rarely(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    nobody = Contact(b.node_id, "127.0.0.1", 1)
    a.transport.send(nobody, Ping(1))
    await until(lambda: len(a.listener.lost) >= 3)
    assert set(a.listener.lost) == {b.node_id}
    assert state_of(a, b) in (State.LOST, State.KNOCKING)
    assert not b.listener.messages


@asynchronous
async def test_messages_for_nobody_expire_and_the_attempts_end(fleet: Fleet) -> None:
    a = await fleet.device(timing=replace(FAST, queue_age=0.3))
    a.transport.send(Contact(1, "127.0.0.1", 1), Ping(1))
    await until(lambda: a.count("dropped.expired") == 1)
    peer = a.transport._links._peers[1]
    await until(lambda: peer.dial is not None and peer.dial.state is State.IDLE)
    assert a.transport._links.waiting_bytes == 0


@asynchronous
async def test_what_waits_for_one_peer_and_for_all_is_bounded(fleet: Fleet) -> None:
    a = await fleet.device()
    large = Adverts((bytes(6000),) * 8)
    for _ in range(60):
        a.transport.send(Contact(1, "127.0.0.1", 1), large)
    assert 0.9 * MAX_PEER_BYTES < a.transport._links.waiting_bytes <= MAX_PEER_BYTES
    for node_id in range(2, 20):
        for _ in range(30):
            a.transport.send(Contact(node_id, "127.0.0.1", 1), large)
    assert 0.9 * MAX_TOTAL_BYTES < a.transport._links.waiting_bytes <= MAX_TOTAL_BYTES
    assert a.count("dropped.queue-full") > 0


def test_an_outbox_counts_what_it_holds() -> None:
    from collections import Counter

    counters: Counter[str] = Counter()
    budget = Budget(1000)
    first, second = Outbox(budget, counters, 5.0), Outbox(budget, counters, 5.0)
    size = 300 + MESSAGE_OVERHEAD_BYTES
    assert first.put(bytes(300), now=0.0)
    assert second.put(bytes(300), now=1.0)
    assert not second.put(bytes(300), now=1.0)
    assert (first.bytes, budget.used, counters["dropped.queue-full"]) == (size, 2 * size, 1)
    first.expire(now=4.9)
    assert len(first) == 1
    first.expire(now=5.0)
    assert (len(first), budget.used, counters["dropped.expired"]) == (0, size, 1)
    assert not second.flush(lambda data: False)
    assert len(second) == 1
    second.clear()
    assert (budget.used, counters["dropped.peer-gone"]) == (0, 1)


@asynchronous
async def test_a_peer_that_does_not_read_fills_its_own_queue_only(fleet: Fleet) -> None:
    """Given a connected peer that reads nothing, when we send far more than fits, then the rest is dropped and counted,
    others are served as before, and once it reads, what was kept arrives."""
    device, other = await fleet.some(2, timing=PATIENT)
    with an_insider() as slow:
        link = slow.dealer(device, receive_limit=1)
        await until(lambda: device.transport._links.connected(slow.node_id))
        leaf = replace(slow.contact, role=Role.LEAF)
        large = Adverts((bytes(6000),) * 8)
        for _ in range(2000):
            device.transport.send(leaf, large)
            if device.count("dropped.queue-full"):
                break
            await asyncio.sleep(0)
        else:
            raise AssertionError("no bound")
        assert device.transport._links.waiting_bytes <= MAX_PEER_BYTES
        device.transport.send(other.contact, Ping(7))
        await until(lambda: other.listener.heard(Ping(7)))

        def read() -> bool:
            while link.poll(0):
                link.recv()
            return device.transport._links.waiting_bytes == 0

        await until(read, "the queue drains")


@asynchronous
async def test_idle_links_are_closed_without_alarm_and_opened_again(fleet: Fleet) -> None:
    a, b = await fleet.some(2, timing=replace(FAST, idle=0.3))
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    await until(lambda: not a.transport._links.connected(b.node_id))
    await until(lambda: not b.transport._links.connected(a.node_id))
    await until(lambda: not b.transport._links._inbound.connections(), "the connection is gone")
    a.transport.send(b.contact, Ping(2))
    await until(lambda: b.listener.heard(Ping(2)))
    assert (a.listener.lost, b.listener.lost) == ([], [])


def test_the_number_of_links_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_OUTBOUND", 2)

    async def test(fleet: Fleet) -> None:
        a, *others = await fleet.some(5)
        for other in others:
            a.transport.send(other.contact, Ping(1))
            await until(lambda other=other: other.listener.messages)
        up = [other for other in others if state_of(a, other) is State.UP]
        assert up == others[-2:], "the least recently used were closed"
        assert a.listener.lost == []

    run(test)


def test_the_number_of_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_PEERS", 5)

    async def test(fleet: Fleet) -> None:
        a = await fleet.device()
        for node_id in range(1, 30):
            a.transport.send(Contact(node_id, "127.0.0.1", 1), Ping(1))
        assert len(a.transport._links._peers) == 5
        assert a.transport._links.waiting_bytes < 5 * 1000

    run(test)


@asynchronous
async def test_revocation_cuts_existing_links_and_spreads(fleet: Fleet) -> None:
    """Given a connected triangle, when one device hears that another is revoked, then nobody talks to that one."""
    a, b, bad = await fleet.some(3)
    for number, (x, y) in enumerate([(a, b), (a, bad), (bad, b)]):
        x.transport.send(y.contact, Ping(number))
        await until(lambda y=y, number=number: y.listener.heard(Ping(number)))
    revocations = pack_revocations(FLEET.revoke(None, nodes=[bad.node_id]))
    assert a.admission.merge_revocations(revocations)
    await until(lambda: b.admission.revocations is not None, "the news spread")
    for device in (a, b):
        await until(lambda device=device: not device.transport._links.connected(bad.node_id))
        await until(lambda device=device: not device.transport._links._inbound.of(bad.node_id))
        await until(lambda device=device: bad.node_id in device.listener.lost)
        device.listener.messages.clear()
    bad.transport.send(a.contact, Ping(2))
    bad.transport.send(b.contact, Ping(2))
    await until(lambda: a.count("refused.revoked") and b.count("refused.revoked"))
    a.transport.send(b.contact, Ping(3))
    await until(lambda: b.listener.heard(Ping(3)))
    assert a.listener.messages == []
    assert b.listener.messages == [(a.contact, Ping(3))]


@asynchronous
async def test_older_lists_are_brought_up_to_date_at_the_first_hello(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    await a.meet(b)
    a.admission.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=[1, 2, 3])))
    b.transport.send(a.contact, Ping(1))
    await until(lambda: b.admission.revocations == a.admission.revocations)


@contextmanager
def a_process(*greets: object) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A device in its own process: the process, its node id and its port."""
    script = Path(__file__).with_name("device_process.py")
    command = [sys.executable, str(script), FLEET.invite(()).text, *map(str, greets)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            node_id, port = map(int, process.stdout.readline().split())
            yield process, node_id, port
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def test_a_killed_process_that_we_had_dialled_is_noticed_at_once() -> None:
    async def test(fleet: Fleet) -> None:
        device = await fleet.device()
        contact = (await device.transport.knock("127.0.0.1", port)).card.contact
        device.transport.send(contact, Ping(1))
        await until(lambda: device.listener.heard(Pong(1, True)))
        process.kill()
        await until(lambda: node_id in device.listener.lost, deadline_s=1.0)

    with a_process() as (process, node_id, port):
        run(test)


def test_a_killed_process_that_had_dialled_us_is_noticed_at_once() -> None:
    async def test(fleet: Fleet) -> None:
        device = await fleet.device()
        here = device.contact
        with a_process(here.host, here.port, here.node_id) as (process, node_id, _):
            await until(lambda: device.listener.heard(Ping(1)))
            assert device.count("knocks") == 0
            process.kill()
            await until(lambda: node_id in device.listener.lost, deadline_s=1.0)

    run(test)


@asynchronous
async def test_a_lost_visitor_is_named_though_only_it_had_dialled(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    a.transport.send(b.contact, Ping(1))
    await until(lambda: b.listener.messages)
    dial = a.transport._links._peers[b.node_id].dial
    assert dial is not None
    dial.close()  # without a Bye, as if the process had died
    await until(lambda: b.listener.lost == [a.node_id], deadline_s=1.0)


def test_a_process_that_hangs_is_noticed_by_heartbeats() -> None:
    async def test(fleet: Fleet) -> None:
        device = await fleet.device()
        contact = (await device.transport.knock("127.0.0.1", port)).card.contact
        device.transport.send(contact, Ping(1))
        await until(lambda: device.listener.heard(Pong(1, True)))
        process.send_signal(signal.SIGSTOP)
        await until(lambda: node_id in device.listener.lost)

    with a_process() as (process, node_id, port):
        run(test)


def test_the_state_machine_has_a_way_out_of_every_state() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in State:
        assert state is State.IDLE or State.IDLE in TRANSITIONS[state]
    assert dial_module.__doc__ is not None
    assert all(state.name in dial_module.__doc__ for state in State)
