"""The transport as a whole: what the rest of the house may rely on."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgefl.errors import UnreachableError
from edgefl.transport import cards as cards_module
from edgefl.transport.cards import Cards
from edgefl.transport.door_exchange import DialBack
from edgefl.transport.feeds import Feeds
from edgefl.transport.subscribers import FAST_LANE, topic_of
from edgefl.transport.visit import Card, Knocked
from edgefl.wire.blob import ref_of
from edgefl.wire.codec import MAX_MESSAGE_BYTES
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Adverts, Leaving, Ping
from tests.transport.fleet import FAST, Fleet, asynchronous, run, until
from tests.transport.test_broadcast import APP, LIMIT, adopt


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_everything_works_over_ipv6() -> None:
    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2, listen=("::1", 0))
        assert a.contact.host == "::1"
        a.transport.send(b.contact, Ping(1))
        await until(lambda: b.listener.messages == [(a.contact, Ping(1))])
        await adopt(a, b)
        data = os.urandom(1_000_000)
        ref = await a.transport.add_blob(data)
        a.transport.publish(APP, ref)
        assert await b.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data

    run(test)


@asynchronous
async def test_last_words_arrive_although_the_sender_closes_at_once(fleet: Fleet) -> None:
    """Whoever had opened the connection."""
    for dialled_by_leaver in (True, False):
        leaver, other = await fleet.some(2)
        first, second = (leaver, other) if dialled_by_leaver else (other, leaver)
        first.transport.send(second.contact, Ping(1))
        await until(lambda second=second: second.listener.heard(Ping(1)))
        leaver.transport.send(other.contact, Leaving())
        await leaver.transport.close()
        await until(lambda other=other: other.listener.heard(Leaving()))
        await until(lambda other=other, leaver=leaver: leaver.node_id in other.listener.lost)


@asynchronous
async def test_sending_never_raises(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    a.transport.send(a.contact, Ping(1))
    assert a.count("dropped.own-or-closed") == 1
    a.transport.send(b.contact, Adverts((bytes(6000),) * (MAX_MESSAGE_BYTES // 6000 + 1)))
    assert a.count("dropped.too-long") == 1
    a.transport.send(Contact(1, "127.0.0.1", 1), Ping(1))
    a.transport.send(Contact(2, "::ffff:1.2.3.4", 65_535), Ping(1))
    await a.transport.close()
    a.transport.send(b.contact, Ping(1))


@asynchronous
async def test_a_listener_with_a_bug_does_not_stop_the_transport(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    heard: list[object] = []

    def on_message(sender: Contact, message: object) -> None:
        heard.append(message)
        raise RuntimeError("a bug")

    b.transport._links._listener.on_message = on_message  # type: ignore[method-assign]
    for number in range(3):
        a.transport.send(b.contact, Ping(number))
    await until(lambda: heard == [Ping(0), Ping(1), Ping(2)])


@asynchronous
async def test_closing_twice_and_right_after_the_start_is_fine(fleet: Fleet) -> None:
    device = await fleet.device()
    await device.transport.close()
    await device.transport.close()


@asynchronous
async def test_a_device_may_not_take_another_ones_contact(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    with pytest.raises(ValueError, match="another device"):
        a.transport.set_contact(b.contact)


@asynchronous
async def test_nonsense_from_a_parent_is_counted_and_dropped(fleet: Fleet) -> None:
    parent, child = await fleet.some(2)
    await adopt(parent, child)
    topic = topic_of(APP, FAST_LANE)
    raw = parent.transport._broadcast._children.socket
    for parts in ([topic], [topic, b"\xff"], [topic + b"x", b""], [topic, b"\xa0", b"", b""], [topic, b"", bytes(100)]):
        raw.socket.send_multipart(parts)
        raw.touched()
    await until(lambda: child.count("dropped.garbage") == 5)
    data = os.urandom(500_000)
    ref = await parent.transport.add_blob(data)
    parent.transport.publish(APP, ref)
    assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data


@asynchronous
async def test_one_device_takes_part_in_a_bounded_number_of_applications(fleet: Fleet) -> None:
    from edgefl.transport.subscribers import MAX_APPS

    parent, child = await fleet.some(2)
    for app in range(MAX_APPS + 5):
        child.transport.subscribe(app, parent.contact, 1)
    feeds: Feeds = child.transport._feeds
    assert len(feeds._parents) == MAX_APPS
    assert child.count("dropped.too-many-apps") == 5
    child.transport.subscribe(1, child.contact, 1)
    for app in range(MAX_APPS + 5):
        child.transport.unsubscribe(app)
    assert feeds._feeds == {}


def test_a_card_that_was_asked_for_by_many_is_asked_for_once() -> None:
    async def main() -> None:
        knocks: list[int] = []
        contact = Contact(7, "192.0.2.1", 1, incarnation=3)

        async def knock(host: str, port: int, node_id: int) -> Knocked:
            knocks.append(node_id)
            await asyncio.sleep(0)
            if len(knocks) == 2:
                raise UnreachableError("nobody there")
            if len(knocks) == 3:
                raise ZeroDivisionError
            return Knocked(Card(contact, host, bytes(32), 2, 3), "192.0.2.9", DialBack.NOT_TRIED)

        cards, answers = Cards(knock), []
        for _ in range(3):
            cards.ask(contact, answers.append)
        await until(lambda: len(answers) == 3)
        assert knocks == [7]
        assert cards.get(7) == answers[0]
        cards.learn(Card(replace(contact, incarnation=2), "192.0.2.1", bytes(32), 8, 9))
        assert cards.get(7) == answers[0], "older news are none"
        for count in (4, 5):
            cards.ask(contact, answers.append)
            await until(lambda count=count: len(answers) == count)
        assert [isinstance(answer, UnreachableError) for answer in answers] == [False] * 3 + [True] * 2
        await cards.close()

    logging.getLogger("edgefl.transport.cards").setLevel(logging.CRITICAL)
    asyncio.run(main())


def test_importing_the_transport_is_light() -> None:
    heavy = {"numpy", "onnxruntime", "onnx", "psutil", "sqlite3"}
    program = f"import sys, edgefl.transport, edgefl.identity.admission; print(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "[]", done.stderr


@asynchronous
async def test_a_device_that_was_away_long_is_reached_as_soon_as_it_is_heard_of(fleet: Fleet) -> None:
    """Given a long back-off, when a newer contact is named, then nobody waits for the back-off to end."""
    a, b = await fleet.some(2, timing=replace(FAST, backoff_first=60.0, backoff_max=60.0))
    a.transport.send(Contact(b.node_id, "127.0.0.1", 1), Ping(1))
    await until(lambda: a.listener.lost)
    a.transport.send(replace(b.contact, incarnation=1), Ping(2))
    await until(lambda: b.listener.heard(Ping(2)))


@asynchronous
async def test_discarding_forgets_and_views_stay_valid(fleet: Fleet) -> None:
    device = await fleet.device()
    data = os.urandom(100_000)
    ref = await device.transport.add_blob(data)
    view = await device.transport.fetch(ref, [], max_bytes=ref.size)
    assert device.transport.has_blob(ref)
    assert device.transport.has_blob(ref.id)
    device.transport.discard_blob(ref.id)
    assert not device.transport.has_blob(ref)
    assert ref_of(view) == ref


def test_doors_that_do_not_open_are_remembered_until_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards_module, "MAX_SHUT", 2)

    async def main() -> None:
        shut = True

        async def knock(host: str, port: int, node_id: int) -> Knocked:
            if shut:
                raise UnreachableError("nobody there")
            return Knocked(Card(Contact(node_id, host, port), host, bytes(32), 2, 3), "192.0.2.9", DialBack.NOT_TRIED)

        cards, answers = Cards(knock), []
        for node_id in (7, 8, 9):
            cards.ask(Contact(node_id, "192.0.2.1", 1), answers.append)
            await until(lambda node_id=node_id: len(answers) == node_id - 6)
        assert {node_id: cause for node_id, (_, cause) in cards.shut.items()} == {8: "nobody there", 9: "nobody there"}
        shut = False
        cards.ask(Contact(9, "192.0.2.1", 1), answers.append)
        await until(lambda: len(answers) == 4)
        assert list(cards.shut) == [8]
        await cards.close()

    asyncio.run(main())
