"""A daemon keeps its contact true: it moves, it is found out of reach, it is reached again, and its neighbours know."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from edgefl.daemon.addresses import Here
from edgefl.daemon.daemon import Daemon
from edgefl.daemon.examination import examination
from edgefl.errors import StorageError
from edgefl.identity.revocation import pack_revocations
from edgefl.telemetry.capacity import Hardware, capacity_of, measure
from edgefl.transport import DialBack
from edgefl.wire import Capacity, Contact, Role, node_name
from tests.daemon.fleet import Addresses, Daemons, with_daemons


def as_known_to(other: Daemon, daemon: Daemon) -> Contact | None:
    """How another device has this one in its tables."""
    return next((c for c in other.overlay.contacts() if c.node_id == daemon.keys.node_id), None)


def host_known_to(other: Daemon, daemon: Daemon) -> str | None:
    contact = as_known_to(other, daemon)
    return None if contact is None else contact.host


@with_daemons
async def test_a_device_that_gets_another_address_is_known_by_it_at_once(fleet: Daemons) -> None:
    source = Addresses("127.0.0.2")
    first, mover, third = await fleet.start("a"), await fleet.start("b", source), await fleet.start("c")
    others = (first, third)
    for other in others:
        await fleet.until(lambda other=other: host_known_to(other, mover) == "127.0.0.2", "known by its first address")
    before = mover.overlay.contact
    source.here = Here("127.0.0.3", frozenset({"127.0.0.3"}))  # the address that its connections began at has gone
    mover.whereabouts.wake.set()
    for other in others:
        await fleet.until(lambda other=other: host_known_to(other, mover) == "127.0.0.3", "known by its new address")
    assert mover.overlay.contact.incarnation > before.incarnation
    assert mover.transport.contact == mover.overlay.contact
    assert all(not other.overlay.is_suspect(mover.keys.node_id) for other in others)
    owner, _ = await first.lookup(mover.keys.node_id, 10.0)
    assert owner.node_id == mover.keys.node_id


@with_daemons
async def test_an_unplugged_device_says_nothing_and_keeps_its_address(fleet: Daemons) -> None:
    source = Addresses("127.0.0.2")
    await fleet.start("a")
    device = await fleet.start("b", source)
    before = device.overlay.contact
    source.here = Here(None, frozenset({"127.0.0.1"}))
    await device.whereabouts.look()
    assert device.overlay.contact.host == before.host
    source.here = Here("127.0.0.2", frozenset({"127.0.0.1", "127.0.0.2"}))
    await device.whereabouts.look()
    assert device.overlay.contact.host == before.host


@with_daemons
async def test_peers_that_agree_where_they_see_us_are_believed_if_the_address_is_ours(fleet: Daemons) -> None:
    source = Addresses("127.0.0.2")
    await fleet.start("a")
    device = await fleet.start("b", source)
    for witness in (1, 2):
        device.transport.outside.note(witness, "10.9.9.9")
    await device.whereabouts.look()
    assert device.overlay.contact.host == "127.0.0.2", "not ours, and nobody has reached us there"
    source.here = Here("127.0.0.2", source.here.all | {"10.9.9.9"})
    await device.whereabouts.look()
    assert device.overlay.contact.host == "10.9.9.9"


@with_daemons
async def test_a_device_that_nobody_reaches_is_a_leaf_from_its_arrival_on_and_a_node_when_it_is_reached(
    fleet: Daemons,
) -> None:
    """Its door listens on 127.0.0.2 and is announced at 127.0.0.1, as behind a router that forwards nothing."""
    first, second = await fleet.start("a"), await fleet.start("b")
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    device = await fleet.start("c", listen=f"127.0.0.2:{port}", advertise=f"127.0.0.1:{port}")
    assert device.overlay.contact.role is Role.LEAF
    assert device.status()["role"] == "leaf"
    assert device.whereabouts.document()["dial_backs"][-1]["outcome"] == "refused"
    device.whereabouts.reachability.due_at = 0.0
    await device.whereabouts.look()  # now two are asked
    assert {answer.outcome for answer in device.whereabouts.reachability.history} == {DialBack.REFUSED}
    assert len({answer.peer for answer in device.whereabouts.reachability.history}) == 2
    for other in (first, second):
        assert as_known_to(other, device) is None, "it is in nobody's tables"
    owner, _ = await first.lookup(device.keys.node_id, 10.0)
    assert owner.node_id != device.keys.node_id

    # The router forwards the port now.
    forward = await asyncio.start_server(_forward_to("127.0.0.2", port), "127.0.0.1", port)
    device.whereabouts.willing = Role.HELPER
    device.whereabouts.reachability.due_at = 0.0
    device.whereabouts.wake.set()
    await fleet.until(lambda: device.overlay.contact.role is Role.HELPER, "reached again, and what it was")
    await device.whereabouts.look()
    assert device.overlay.contact.role is Role.HELPER
    for other in (first, second):
        await fleet.until(lambda other=other: as_known_to(other, device) is not None, "in everybody's tables")
    forward.close()


@with_daemons
async def test_a_device_that_others_reach_stays_a_node_and_asks_one_now_and_then(fleet: Daemons) -> None:
    await fleet.start("a")
    device = await fleet.start("b")
    found = device.whereabouts.reachability
    await fleet.until(lambda: found.known, "dialled back")
    assert (found.role, found.wanted(device.effects.now)) == (Role.NODE, 0)
    assert device.status()["reachability"]["dial_backs"][0]["outcome"] == "reached"


@with_daemons
async def test_a_peer_that_cannot_be_asked_is_no_answer(fleet: Daemons) -> None:
    first = await fleet.start("a")
    device = await fleet.start("b")
    await fleet.until(lambda: device.overlay.contacts(), "they know each other")
    await first.transport._door.close()
    history = list(device.whereabouts.reachability.history)
    device.whereabouts.reachability.due_at = 0.0
    await device.whereabouts.look()
    assert device.whereabouts.reachability.history == history
    assert device.overlay.contact.role is Role.NODE


@with_daemons
async def test_a_device_that_is_unplugged_steps_back_and_its_neighbours_know(fleet: Daemons) -> None:
    other = await fleet.start("a")
    device = await fleet.start("b")
    assert device.overlay.contact.capacity is capacity_of(measure())
    assert device.status()["capacity"]["chosen"] == "measured"

    def known_as(capacity: Capacity) -> bool:
        contact = as_known_to(other, device)
        return contact is not None and contact.capacity is capacity

    for on_mains, capacity in ((True, Capacity.STRONG), (False, Capacity.CONSTRAINED), (True, Capacity.STRONG)):
        before = device.overlay.contact
        device.whereabouts.hardware = lambda on_mains=on_mains: Hardware(8, 16 << 30, on_mains)
        await device.whereabouts.look()
        assert device.overlay.contact.capacity is capacity
        assert device.transport.contact == device.overlay.contact
        assert device.overlay.contact.incarnation > before.incarnation or before.capacity is capacity
        await fleet.until(lambda capacity=capacity: known_as(capacity), "known by its class")
    assert device.status()["capacity"] == {
        "class": "strong",
        "chosen": "measured",
        "cores": 8,
        "memory_bytes": 16 << 30,
        "on_mains": True,
    }


@with_daemons
async def test_a_device_is_of_the_class_that_it_is_told(fleet: Daemons) -> None:
    device = await fleet.start("a", capacity="gateway")
    before = device.overlay.contact
    assert before.capacity is Capacity.GATEWAY
    device.whereabouts.hardware = lambda: Hardware(1, 256 << 20, on_mains=False)
    await device.whereabouts.look()
    assert device.overlay.contact == before
    assert device.status()["capacity"]["class"] == "gateway"
    assert device.status()["capacity"]["chosen"] == "told"
    assert (await examination(device, ""))["capacity"] == device.status()["capacity"]


@with_daemons
async def test_a_full_disk_postpones_a_change(fleet: Daemons) -> None:
    device = await fleet.start("a")
    before, write = device.overlay.contact, device.store.next_incarnation

    def full() -> int:
        raise StorageError("the disk is full")

    device.store.next_incarnation = full  # type: ignore[method-assign]
    await device.whereabouts.change(role=Role.LEAF)
    assert device.overlay.contact == before
    device.store.next_incarnation = write  # type: ignore[method-assign]
    await device.whereabouts.change(role=Role.LEAF)
    assert device.overlay.contact.role is Role.LEAF


@with_daemons
async def test_a_listening_address_that_is_gone_is_a_problem_that_is_shown(fleet: Daemons) -> None:
    source = Addresses("127.0.0.2")
    device = await fleet.start("a", source, listen="127.0.0.2:0")
    assert device.status()["problems"] == []
    source.here = Here("127.0.0.3", frozenset({"127.0.0.3"}))
    await device.whereabouts.look()
    assert device.overlay.contact.host == "127.0.0.2", "the operator has chosen it"
    (problem,) = device.status()["problems"]
    assert "--listen" in problem


@with_daemons
async def test_the_doctor_is_told_whose_side_a_silent_peer_is(fleet: Daemons) -> None:
    """Given two peers whose doors do not open to us, one of which others reach, then they are told apart."""
    first, second, third = await fleet.start("a"), await fleet.start("b"), await fleet.start("c")
    await fleet.until(lambda: len(first.overlay.contacts()) == 2, "they know each other")
    absent = Contact(second.keys.node_id ^ 1, "127.0.0.1", 1, incarnation=1)
    for contact in (absent, second.overlay.contact):
        first.transport._cards.shut[contact.node_id] = (contact, "127.0.0.1 port 1 does not answer within 5 s")
    found = await examination(first, "")
    peers = {peer["node"]: peer["others_reach_it"] for peer in found["silent_peers"]}
    assert peers == {node_name(absent.node_id): False, node_name(second.keys.node_id): True}
    assert (found["joined"], found["token_revoked"], found["mdns"]) == (True, False, False)
    assert found["ports"][0] == first.transport.door_port
    assert len(found["ports"]) == 3
    told = await examination(third, "")
    assert told["clocks_ahead_s"]
    assert all(abs(ahead_s) < 5 for ahead_s in told["clocks_ahead_s"])
    assert told["silent_peers"] == []

    serial = fleet.key.invite(()).enrolment.serial
    first.admission.merge_revocations(pack_revocations(fleet.key.revoke(None, serials=[serial])))
    assert (await examination(first, serial.hex()))["token_revoked"]
    first.overlay.leave(first.effects.now)
    assert all(peer["others_reach_it"] is None for peer in (await examination(first, ""))["silent_peers"])


def _forward_to(
    host: str, port: int
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    return forward
