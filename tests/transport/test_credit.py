"""What a parent may push before its child has taken it: enough for any line, and not more than a child can hold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from edgefl.transport import Timing, tcp_info
from edgefl.transport import subscribers as subscribers_module
from edgefl.transport.credit import (
    CREDIT_BYTES,
    HOLD_S,
    MAX_CREDIT_BYTES,
    MAX_STEP_S,
    SPARE_CREDIT_BYTES,
    TELL_BYTES,
    Credit,
    Hold,
    Taking,
    limit_bytes,
)
from edgefl.transport.inbound import Connection
from edgefl.transport.subscribers import Child
from edgefl.transport.tcp_info import Counts
from edgefl.wire.blob import CHUNK_BYTES
from tests.transport.fleet import FAST, PATIENT, Device, Fleet, run, until
from tests.transport.test_broadcast import APP, LIMIT, adopt
from tests.transport.test_subscribers import Line

T = TypeVar("T")

SLACK_BYTES = 2 * CHUNK_BYTES
"""The chunk that uses the credit up, the header, the framing."""


# The account


def test_a_word_pays_for_the_message_and_all_before_it() -> None:
    credit = Credit(1.0)
    for at, (app, sequence, size) in enumerate([(1, 7, 100), (2, 7, 20), (1, 8, 3)]):
        credit.push(app, sequence, size, 2.0 + at)
    assert (credit.untaken, credit.moved_at) == (123, 2.0)
    assert credit.take(2, 7, 9.0)
    assert (credit.untaken, credit.moved_at) == (3, 9.0)


def test_a_word_about_what_was_not_pushed_changes_nothing() -> None:
    """A late one of an earlier connection, a lie, or the same once more."""
    credit = Credit(1.0)
    credit.push(1, 7, 100, 2.0)
    for app, sequence in [(1, 6), (1, 8), (2, 7)]:
        assert not credit.take(app, sequence, 3.0)
    assert (credit.untaken, credit.moved_at) == (100, 2.0)
    assert credit.take(1, 7, 3.0)
    assert not credit.take(1, 7, 4.0)
    assert (credit.untaken, credit.moved_at) == (0, 3.0)


def test_what_nobody_wants_any_more_is_not_waited_for() -> None:
    credit = Credit(1.0)
    for sequence in range(3):
        credit.push(1, sequence, 100, 2.0)
        credit.push(2, sequence, 10, 2.0)
    credit.forget(1)
    assert credit.untaken == 30
    assert credit.take(2, 1, 3.0)
    assert credit.untaken == 10


def test_the_child_has_something_to_say_after_every_four_mebibytes_and_in_the_end() -> None:
    taking = Taking()
    told = [taking.took(1, sequence, 4 * CHUNK_BYTES) for sequence in range(10)]
    assert told == [False, False, False, True] * 2 + [False, False]
    assert taking.last == (1, 9)
    assert [taking.sweep() for _ in range(3)] == [True, False, False]
    assert [taking.took(2, sequence, 4 * CHUNK_BYTES) for sequence in range(4)] == [False, False, False, True]
    assert [taking.sweep() for _ in range(2)] == [True, False], "once more: the last word may have been lost"


def test_a_child_holds_the_others_up_for_half_a_second_in_all() -> None:
    def held(share: float, looks: int) -> int | None:
        """At which look it is too much, if it holds them up in this share of the time."""
        hold, holding = Hold(), 0.0
        for look in range(looks):
            holding += share
            if hold.note(look * 0.02, holding=holding >= 1.0):
                return look
            holding -= holding >= 1.0
        return None

    assert held(1.0, 1000) == pytest.approx(HOLD_S / 0.02, abs=1)
    assert held(0.75, 1000) == pytest.approx(HOLD_S / 0.02 / 0.5, rel=0.1)
    assert held(0.5, 10_000) is None


def test_a_pause_between_two_looks_is_our_own() -> None:
    hold = Hold()
    hold.note(100.0, holding=True)
    assert not hold.note(160.0, holding=True)
    assert hold.held_s == MAX_STEP_S


def test_the_limits_fit_each_other() -> None:
    assert 2 * TELL_BYTES <= CREDIT_BYTES == limit_bytes(0.0)
    assert TELL_BYTES + CHUNK_BYTES < CREDIT_BYTES - SPARE_CREDIT_BYTES, "taken, and not said yet"
    assert limit_bytes(1e9) == MAX_CREDIT_BYTES
    assert MAX_CREDIT_BYTES + 2 * SPARE_CREDIT_BYTES + SLACK_BYTES < tcp_info.MAX_UNREAD_BYTES


@pytest.mark.parametrize(("mbit", "rtt_s"), [(5, 0.6), (100, 0.6), (200, 0.1), (400, 0.2), (1000, 0.001), (1000, 0.1)])
def test_a_line_of_any_length_is_filled_on_credit(mbit: int, rtt_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without it (test_subscribers.py): what is acknowledged was taken, and the word comes with the acknowledgement
    each time."""
    now, half, seconds, rate = 0.0, 0, 2 + 20 * rtt_s, mbit * 125_000.0
    line, taking = Line(rate, rtt_s), Taking()
    child = Child(Connection(0, 0.0, 0.0), 1, False, since=now, credit=Credit(now))
    monkeypatch.setattr(subscribers_module, "counts", lambda descriptor: line.counts(now))
    pushed = told = taken = 0
    while now < seconds:
        child.look(now)
        while taken < line.acked // CHUNK_BYTES:
            taken += 1
            if taking.took(1, taken, CHUNK_BYTES):
                assert child.credit is not None
                assert child.credit.take(1, taken, now)
                told += 1
        while not child.full:
            pushed += 1
            child.push(CHUNK_BYTES, now)
            assert child.credit is not None
            child.credit.push(1, pushed, CHUNK_BYTES, now)
            line.push(CHUNK_BYTES, now)
            assert child.credit.untaken <= MAX_CREDIT_BYTES + CHUNK_BYTES
        half = line.acked if now < seconds / 2 else half
        now += 0.005
    assert (line.acked - half) / (seconds / 2) >= 0.9 * rate
    assert told <= line.acked / TELL_BYTES


@pytest.mark.parametrize(("acked", "standing"), [(0, False), (4, False), (5, False), (6, True), (8, True)])
def test_a_slow_line_is_not_a_loop_that_stands_still(
    acked: int, standing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a near child that has used its credit up, then nobody waits for it unless most of that has arrived there:
    4 MiB may have been taken, and not been told yet."""
    child = Child(Connection(0, 0.0, 0.0), 1, False, credit=Credit(0.0))
    assert child.credit is not None
    for sequence in range(8):
        child.push(1 << 20, 1.0)
        child.credit.push(1, sequence, 1 << 20, 1.0)
    monkeypatch.setattr(subscribers_module, "counts", lambda descriptor: Counts(acked << 20, 0, 0.0))
    child.look(2.0)
    assert (child.spent, child.standing) == (True, standing)


def test_a_child_without_an_account_has_all_the_room_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the previous release."""
    child = Child(Connection(0, 0.0, 0.0), 1, False)
    child.push(10 * CREDIT_BYTES, 1.0)
    monkeypatch.setattr(subscribers_module, "counts", lambda descriptor: Counts(10 * CREDIT_BYTES, 0, 0.001))
    child.look(2.0)
    assert (child.full, child.spent, child.unread) == (False, False, 0)


# Real sockets


class Elsewhere:
    """A device with a loop of its own, which can stand still while ZeroMQ's threads go on."""

    def __init__(self, timing: Timing) -> None:
        self.device: Device
        self._loop = asyncio.new_event_loop()
        self._go_on = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._fleet = Fleet()
        self.device = self.call(self._fleet.device(timing=timing))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this there, and wait for it: what it needs of the loop here has to be done already."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20.0)

    async def on_its_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def stand_still(self) -> None:
        self._go_on.clear()
        self._loop.call_soon_threadsafe(self._go_on.wait)

    def go_on(self) -> None:
        self._go_on.set()

    async def follow(self, parent: Device) -> None:
        """Subscribe there, with a link to it: the parent knows its Hello before its subscription."""

        async def there() -> None:
            await self.device.transport.knock(parent.contact.host, parent.contact.port, expect=parent.node_id)
            self.device.transport._links.reach(parent.contact)
            await until(lambda: self.device.transport.connected(parent.node_id))

        await self.on_its_loop(there())
        await until(lambda: parent.transport._links.contact_of(self.device.node_id) is not None, "greeted")
        await self.on_its_loop(_subscribe(self.device, parent))
        children = parent.transport._broadcast.subscribers
        await until(lambda: any(child.node_id == self.device.node_id for child in children(APP)), "subscribed")

    def unread(self, parent: Device) -> int:
        """Bytes that its connection to the parent has brought, and its loop has not taken."""
        dial = self.device.transport._feeds._feeds[parent.node_id].dial
        assert dial is not None
        assert dial.socket is not None
        return tcp_info.undelivered(dial.descriptor, dial.socket.delivered, 0.0)

    def close(self) -> None:
        self.go_on()
        self.call(self._fleet.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _subscribe(child: Device, parent: Device) -> None:
    child.transport.subscribe(APP, parent.contact, LIMIT)


@contextlib.contextmanager
def elsewhere(timing: Timing = PATIENT) -> Iterator[Elsewhere]:
    other = Elsewhere(timing)
    try:
        yield other
    finally:
        other.close()


async def settled(parent: Device) -> int:
    """Chunks that were pushed, once no more are."""
    pushed = -1
    while pushed != parent.count("blobs.pushed"):
        pushed = parent.count("blobs.pushed")
        await asyncio.sleep(0.3)
    return pushed


def test_a_child_whose_loop_stands_still_holds_no_more_than_its_credit() -> None:
    """Given a child whose loop stands still while ZeroMQ reads on, when 40 MB are pushed, then the push waits at the
    credit; and when the loop goes on, then so does the push, and nothing has to be asked for."""

    async def test(fleet: Fleet) -> None:
        parent = await fleet.device(timing=PATIENT)
        with elsewhere() as child:
            await child.follow(parent)
            data = os.urandom(40_000_000)
            ref = await parent.transport.add_blob(data)
            child.stand_still()
            parent.transport.publish(APP, ref)
            assert await settled(parent) < ref.chunks
            assert CREDIT_BYTES <= child.unread(parent) <= CREDIT_BYTES + SLACK_BYTES
            child.go_on()
            fetch = child.device.transport.fetch(ref, [], app=APP, max_bytes=LIMIT)
            assert await child.on_its_loop(fetch) == data
            assert child.device.count("blobs.pulled") == 0
            assert parent.count("connections_cut") == child.device.count("dropped.endless-message") == 0

    run(test)


def test_a_child_whose_loop_stands_still_does_not_hold_the_others_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given another child, then that one waits for half a second, gets everything by push, and the first one holds no
    more than its credit; it asks for the rest once its loop goes on."""
    credits: list[int] = []

    def noted(under_way: float) -> int:
        credits.append(limit_bytes(under_way))
        return credits[-1]

    monkeypatch.setattr(subscribers_module, "limit_bytes", noted)

    async def test(fleet: Fleet) -> None:
        parent, good = await fleet.some(2, timing=PATIENT)
        with elsewhere() as child:
            await child.follow(parent)
            await adopt(parent, good)
            data = os.urandom(40_000_000)
            ref = await parent.transport.add_blob(data)
            child.stand_still()
            parent.transport.publish(APP, ref)
            assert await good.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data
            assert good.count("blobs.pulled") == 0
            assert parent.count("dropped.lagging-child") == 1
            assert child.unread(parent) <= CREDIT_BYTES + SLACK_BYTES
            child.go_on()
            fetch = child.device.transport.fetch(ref, [], app=APP, max_bytes=LIMIT)
            assert await child.on_its_loop(fetch) == data
            most = (
                MAX_CREDIT_BYTES + SLACK_BYTES
            )  # on a loaded machine the way there and back takes long, and is credited
            assert child.device.count("blobs.pulled") >= (len(data) - most) // CHUNK_BYTES
            assert child.device.count("blobs.duplicate") == 0

    run(test)


def test_a_child_whose_loop_has_stopped_for_good_is_cut_off() -> None:
    async def test(fleet: Fleet) -> None:
        parent = await fleet.device(timing=replace(FAST, stall=1.0))
        with elsewhere() as child:
            await child.follow(parent)
            ref = await parent.transport.add_blob(os.urandom(20_000_000))
            child.stand_still()
            parent.transport.publish(APP, ref)
            await until(lambda: parent.count("dropped.standing-child") == 1)
            await until(lambda: parent.transport._broadcast.in_flight == 0, "its memory is free")
            child.go_on()
            fetch = child.device.transport.fetch(ref, [], app=APP, max_bytes=LIMIT)
            assert len(await child.on_its_loop(fetch)) == ref.size

    run(test)


def test_a_child_of_the_previous_release_is_pushed_to_as_before() -> None:
    """Given a child that never says a word, nor that it would, then what its line takes is pushed to it."""

    async def test(fleet: Fleet) -> None:
        parent = await fleet.device(timing=PATIENT)
        with elsewhere() as child:
            links, feeds = child.device.transport._links, child.device.transport._feeds
            hello = links._hello
            links._hello = lambda *, reply: replace(hello(reply=reply), credit=False)  # type: ignore[method-assign]
            feeds._tell = lambda feed: None  # type: ignore[method-assign]
            await child.follow(parent)
            data = os.urandom(20_000_000)
            ref = await parent.transport.add_blob(data)
            child.stand_still()
            parent.transport.publish(APP, ref)
            assert await settled(parent) == ref.chunks
            child.go_on()
            fetch = child.device.transport.fetch(ref, [], app=APP, max_bytes=LIMIT)
            assert await child.on_its_loop(fetch) == data
            assert child.device.count("blobs.pulled") == 0

    run(test)


def test_a_parent_of_the_previous_release_is_cut_off_where_it_sends_too_much_at_once() -> None:
    """Given a parent that heeds no word, when more has come than any honest one would send, then the child gives the
    connection up once its loop goes on, opens another, and keeps what it has."""

    async def test(fleet: Fleet) -> None:
        parent = await fleet.device(timing=PATIENT)
        children = parent.transport._broadcast._children
        children._gives_credit = lambda node_id: False
        children.on_taken = lambda node_id, app, sequence: False  # type: ignore[method-assign]
        with elsewhere() as child:
            await child.follow(parent)
            data = os.urandom(tcp_info.MAX_UNREAD_BYTES + 4_000_000)
            ref = await parent.transport.add_blob(data)
            child.stand_still()
            parent.transport.publish(APP, ref)
            assert await settled(parent) == ref.chunks
            feeds = child.device.transport._feeds
            feeds._loop.call_soon_threadsafe(feeds.sweep)  # before it reads anything
            child.go_on()
            fetch = child.device.transport.fetch(ref, [parent.contact], app=APP, max_bytes=LIMIT)
            assert await child.on_its_loop(fetch) == data
            assert child.device.count("dropped.endless-message") == 1
            await until(lambda: parent.transport._broadcast.subscribers(APP), "another connection")

    run(test)


def test_a_word_that_comes_before_the_hello_opens_an_account() -> None:
    """Given a child that subscribes without a link, then its first word makes one, and counts from then on."""

    async def test(fleet: Fleet) -> None:
        parent, child = await fleet.some(2)
        await adopt(parent, child)
        (known,) = parent.transport._broadcast.subscribers(APP)
        assert known.credit is None
        data = os.urandom(8_000_000)
        ref = await parent.transport.add_blob(data)
        parent.transport.publish(APP, ref)
        assert await child.transport.fetch(ref, [], app=APP, max_bytes=LIMIT) == data
        await until(lambda: known.credit is not None)
        await until(lambda: known.credit is not None and known.credit.untaken == 0)
        assert child.count("blobs.pulled") == 0

    run(test)
