"""The door on real sockets: who gets in, who does not, what both sides are told, and that it stays open for others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from edgefl.errors import (
    EXIT_NOT_ADMITTED,
    EXIT_UNREACHABLE,
    ConfigError,
    EdgeflError,
    TryAgainError,
    UnreachableError,
    WireError,
)
from edgefl.identity.admission import Admission
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.revocation import pack_revocations
from edgefl.transport import door as module
from edgefl.transport.door_exchange import FRAME_BYTES, KNOCK_BYTES, DialBack, Introduction, VisitorExchange
from edgefl.wire.contact import Contact
from tests.transport.fleet import FAST, FLEET, Device, Fleet, asynchronous, until


async def error_of(knock: Awaitable[object]) -> EdgeflError:
    try:
        await knock
    except EdgeflError as error:
        return error
    raise AssertionError("the door opened")


async def refusal_of(knock: Awaitable[object]) -> Reason:
    error = await error_of(knock)
    assert isinstance(error, RefusedError), error
    assert error.exit_code == EXIT_NOT_ADMITTED
    assert error.hint
    return error.reason


@asynchronous
async def test_after_a_knock_both_sides_admit_each_other(fleet: Fleet) -> None:
    host, visitor = await fleet.some(2)
    contact = await visitor.meet(host)
    assert contact == host.contact
    assert host.admission.admits(visitor.node_id)
    assert visitor.admission.admits(host.node_id)
    assert len(visitor.transport.outside) == 0, "a peer on the same machine tells nothing about our address"
    await until(lambda: host.listener.changes and visitor.listener.changes, "both were told to write it down")


@asynchronous
async def test_the_host_can_try_to_dial_the_visitor_back(fleet: Fleet) -> None:
    host, visitor, other = await fleet.some(3)

    async def asked(**changes: Any) -> DialBack:
        visitor.transport.set_contact(replace(visitor.contact, **changes))
        knocked = await visitor.transport.knock(host.contact.host, host.contact.port, dial_back=True)
        assert knocked.seen == "127.0.0.1"
        return knocked.dial_back

    home = visitor.contact.port
    assert await asked() is DialBack.REACHED
    assert await asked(port=_unused_port()) is DialBack.REFUSED
    assert await asked(port=other.contact.port) is DialBack.OTHER
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    assert await asked(port=silent.sockets[0].getsockname()[1]) is DialBack.SILENT
    silent.close()
    web = await asyncio.start_server(_speak_http, "127.0.0.1", 0)
    assert await asked(port=web.sockets[0].getsockname()[1]) is DialBack.OTHER
    web.close()
    assert await asked(port=home) is DialBack.REACHED
    assert host.count("dial_backs") == 6


@asynchronous
async def test_a_host_that_only_says_that_it_reached_us_is_not_believed(fleet: Fleet) -> None:
    liar, visitor = await fleet.some(2)

    async def claim(card: object, seen: str) -> DialBack:
        return DialBack.REACHED

    liar.transport._door._dial_back = claim  # type: ignore[method-assign, assignment]
    knocked = await visitor.transport.knock(liar.contact.host, liar.contact.port, dial_back=True)
    assert knocked.dial_back is DialBack.NOT_TRIED


@asynchronous
async def test_a_host_dials_back_nowhere_but_where_the_visitor_comes_from(fleet: Fleet) -> None:
    """Given a visitor that announces a third party's address, when it asks to be dialled back, then the host dials the
    address that it came from."""
    victims: list[object] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        victims.append(writer.get_extra_info("peername"))
        writer.close()

    victim = await asyncio.start_server(note, "127.0.0.3", 0)
    host, visitor = await fleet.some(2)
    port = victim.sockets[0].getsockname()[1]
    visitor.transport.set_contact(replace(visitor.contact, host="127.0.0.3", port=port))
    knocked = await visitor.transport.knock(host.contact.host, host.contact.port, dial_back=True)
    assert (knocked.seen, knocked.dial_back) == ("127.0.0.1", DialBack.REFUSED)
    assert victims == []
    victim.close()


@asynchronous
async def test_one_visitor_is_not_dialled_back_without_end(fleet: Fleet) -> None:
    host, visitor, other = await fleet.some(3)

    async def asks(device: Device) -> DialBack:
        return (await device.transport.knock(host.contact.host, host.contact.port, dial_back=True)).dial_back

    answers = [await asks(visitor) for _ in range(int(module.DIAL_BACKS_AT_ONCE) + 2)]
    assert answers[: int(module.DIAL_BACKS_AT_ONCE)] == [DialBack.REACHED] * int(module.DIAL_BACKS_AT_ONCE)
    assert answers[-1] is DialBack.NOT_TRIED
    assert host.count("refused.dial-back") >= 1
    assert await asks(other) is DialBack.REACHED, "another visitor has its own share"


@asynchronous
async def test_a_door_that_refuses_us_for_another_reason_is_no_evidence(fleet: Fleet) -> None:
    """The visitor's door is there, but has no place free: the visitor is not out of reach."""
    host, visitor = await fleet.some(2)
    crowd = [
        await asyncio.open_connection(visitor.contact.host, visitor.contact.port)
        for _ in range(module.MAX_VISITORS_PER_HOST)
    ]
    await until(lambda: len(visitor.transport._door._visitors) == module.MAX_VISITORS_PER_HOST)
    knocked = await visitor.transport.knock(host.contact.host, host.contact.port, dial_back=True)
    assert knocked.dial_back is DialBack.NOT_TRIED
    for _, writer in crowd:
        writer.close()


@asynchronous
async def test_a_device_that_does_not_know_its_address_is_where_it_was_met(fleet: Fleet) -> None:
    host = await fleet.device(listen=("0.0.0.0", 0))
    visitor = await fleet.device()
    assert host.contact.host == "0.0.0.0"
    contact = (await visitor.transport.knock("127.0.0.1", host.contact.port)).card.contact
    assert contact.host == "127.0.0.1"


@asynchronous
async def test_a_bootstrap_can_be_a_host_name(fleet: Fleet) -> None:
    host, visitor = await fleet.some(2)
    assert (await visitor.transport.knock("localhost", host.contact.port)).card.contact == host.contact


@asynchronous
async def test_a_stranger_waits_is_approved_and_is_a_member_at_its_next_knock(fleet: Fleet) -> None:
    host = await fleet.device()
    stranger = await fleet.device(admission=Admission(DeviceKeys.generate(), site="barn"))
    assert await refusal_of(stranger.meet(host)) is Reason.PENDING
    assert await refusal_of(stranger.meet(host)) is Reason.PENDING
    (waiting,) = host.admission.pending
    assert (waiting.node_id, waiting.site, waiting.host) == (stranger.node_id, "barn", "127.0.0.1")
    assert host.count("refused.pending") == 2

    host.admission.approve(FLEET.approve(waiting.claim()))
    await stranger.meet(host)
    assert stranger.admission.fleet == FLEET.public
    assert stranger.admission.certificate is not None
    assert host.admission.admits(stranger.node_id)
    await until(lambda: stranger.listener.changes)


@asynchronous
async def test_another_fleets_device_is_told_so_and_so_is_the_host(fleet: Fleet) -> None:
    host = await fleet.device()
    foreign = await fleet.device(fleet=FleetKey.generate())
    assert await refusal_of(foreign.meet(host)) is Reason.WRONG_FLEET
    await until(lambda: host.count("refused.wrong-fleet") == 1)
    assert not host.admission.admits(foreign.node_id)


@asynchronous
async def test_a_visitor_that_does_not_mind_the_wrong_fleet_is_refused_by_the_host(fleet: Fleet) -> None:
    host = await fleet.device()
    foreign = Admission(DeviceKeys.generate())
    foreign.join(FleetKey.generate().invite(()))
    exchange = VisitorExchange(foreign.keys)
    reader, writer = await asyncio.open_connection(host.contact.host, host.contact.port)
    writer.write(exchange.knock())
    exchange.read_welcome(await reader.readexactly(FRAME_BYTES), expect=None)
    keys = foreign.keys
    contact = Contact(keys.node_id, "127.0.0.1", 1)
    shown = Introduction(keys.public, keys.curve_public, keys.binding, contact, 1, 1, foreign.certificate)
    writer.write(exchange.introduce(shown))
    answer = exchange.read_answer(await reader.readexactly(FRAME_BYTES))
    assert (answer.reason, answer.contact) == (Reason.WRONG_FLEET, None)
    await until(lambda: host.count("refused.wrong-fleet") == 1)
    writer.close()


@asynchronous
async def test_revoked_and_used_up_are_told(fleet: Fleet) -> None:
    host, revoked = await fleet.some(2)
    host.admission.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=[revoked.node_id])))
    assert await refusal_of(revoked.meet(host)) is Reason.REVOKED
    assert host.count("refused.revoked") == 1
    assert revoked.admission.revoked_self, "it was given the proof"
    await until(lambda: revoked.listener.changes)

    token = FLEET.invite((), uses=1)
    for expected in (None, Reason.TOKEN_USED_UP):
        admission = Admission(DeviceKeys.generate())
        admission.join(token)
        guest = await fleet.device(admission=admission)
        if expected is None:
            await guest.meet(host)
        else:
            assert await refusal_of(guest.meet(host)) is expected
    assert host.count("refused.token-used-up") == 1


@asynchronous
async def test_a_revoked_host_is_not_trusted_by_a_visitor_that_knows(fleet: Fleet) -> None:
    host, visitor = await fleet.some(2)
    visitor.admission.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=[host.node_id])))
    assert await refusal_of(visitor.meet(host)) is Reason.REVOKED
    assert not host.admission.admits(visitor.node_id)


@asynchronous
async def test_news_of_revocations_are_handed_out_at_the_door(fleet: Fleet) -> None:
    host, visitor = await fleet.some(2)
    nodes = range(2000)
    host.admission.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=nodes)))
    await visitor.meet(host)
    assert visitor.admission.revocations == host.admission.revocations
    await visitor.meet(host)


@asynchronous
async def test_a_device_without_a_fleet_lets_nobody_in(fleet: Fleet) -> None:
    lone = await fleet.device(admission=Admission(DeviceKeys.generate()))
    visitor = await fleet.device()
    assert await refusal_of(visitor.meet(lone)) is Reason.NO_FLEET
    await until(lambda: lone.count("refused.no-fleet") == 1)


@asynchronous
async def test_another_device_at_the_address_is_noticed(fleet: Fleet) -> None:
    host, visitor, third = await fleet.some(3)
    knock = visitor.transport.knock(host.contact.host, host.contact.port, expect=third.node_id)
    assert await refusal_of(knock) is Reason.OTHER_DEVICE


@asynchronous
async def test_addresses_where_nobody_answers(fleet: Fleet) -> None:
    visitor = await fleet.device(timing=replace(FAST, door=0.5))
    error = await error_of(visitor.transport.knock("127.0.0.1", _unused_port()))
    assert isinstance(error, UnreachableError)
    assert (error.exit_code, "edgefl" in error.hint) == (EXIT_UNREACHABLE, True)
    error = await error_of(visitor.transport.knock("no-such-host.invalid", 7600))
    assert isinstance(error, UnreachableError)

    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    error = await error_of(visitor.transport.knock("127.0.0.1", silent.sockets[0].getsockname()[1]))
    assert isinstance(error, UnreachableError)
    assert "does not answer" in error.cause
    silent.close()


@asynchronous
async def test_what_answers_is_no_edgefl_device(fleet: Fleet) -> None:
    visitor = await fleet.device()

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 2000)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    error = await error_of(visitor.transport.knock("127.0.0.1", server.sockets[0].getsockname()[1]))
    assert isinstance(error, WireError)
    assert "no edgefl device" in error.cause
    server.close()


@asynchronous
async def test_garbage_and_silence_do_not_keep_members_out(fleet: Fleet) -> None:
    """Given every place taken by silent connections and garbage in between, when a member knocks, then it gets in."""
    host, visitor = await fleet.some(2)
    address = host.contact.host, host.contact.port
    crowd = []
    for number in range(2 * module.MAX_VISITORS):
        _, writer = await asyncio.open_connection(*address)
        if number % 4 == 1:
            writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        elif number % 4 == 2:
            writer.write(VisitorExchange(DeviceKeys.generate()).knock() + bytes(2 * FRAME_BYTES))
        elif number % 4 == 3:
            writer.write(bytes(KNOCK_BYTES - 1))
        crowd.append(writer)

    async def get_in() -> bool:
        try:
            await visitor.meet(host)
        except (TryAgainError, UnreachableError):
            return False
        return True

    for _ in range(20):
        if await get_in():
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("the member never got in")
    for writer in crowd:
        writer.close()
    assert host.count("refused.garbage") > 0
    assert host.count("refused.busy") > 0
    await until(lambda: not host.transport._door._visitors, "all places are free again")


@asynchronous
async def test_more_visitors_than_places_from_one_address_are_told_to_try_again(fleet: Fleet) -> None:
    host, visitor = await fleet.some(2)
    crowd = [
        await asyncio.open_connection(host.contact.host, host.contact.port) for _ in range(module.MAX_VISITORS_PER_HOST)
    ]
    await until(lambda: len(host.transport._door._visitors) == module.MAX_VISITORS_PER_HOST)
    error = await error_of(visitor.meet(host))
    assert isinstance(error, TryAgainError)
    assert error.hint
    for _, writer in crowd:
        writer.close()
    await until(lambda: not host.transport._door._visitors)
    await visitor.meet(host)


@asynchronous
async def test_many_devices_may_knock_at_the_same_time(fleet: Fleet) -> None:
    host = await fleet.device()
    visitors = await fleet.some(12)
    await asyncio.gather(*(visitor.meet(host) for visitor in visitors))
    assert all(host.admission.admits(visitor.node_id) for visitor in visitors)


def test_ports_that_are_taken_or_impossible_are_a_configuration_error() -> None:
    from tests.transport.fleet import run

    async def test(fleet: Fleet) -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        for listen in [("127.0.0.1", taken.getsockname()[1]), ("127.0.0.1", 65_535), ("no-such-host.invalid", 0)]:
            with pytest.raises(ConfigError) as caught:
                await fleet.device(listen=listen)
            assert caught.value.hint
        taken.close()

    run(test)


@asynchronous
async def test_a_fixed_port_takes_the_next_two_as_well(fleet: Fleet) -> None:
    for _ in range(20):
        port = _unused_port()
        try:
            host = await fleet.device(listen=("127.0.0.1", port), advertise=("127.0.0.1", port))
            break
        except ConfigError:
            continue
    assert host.contact.port == port
    assert host.transport._ports == (port + 1, port + 2)


async def _speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(FRAME_BYTES))
    await reader.read()
    writer.close()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
