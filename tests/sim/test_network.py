"""The network loses, repeats, delays and cuts as told, and counts honestly; devices keep their timers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from edgefl.sim import network as network_module
from edgefl.sim.clock import Clock
from edgefl.sim.network import PACKET_OVERHEAD_BYTES, Network, SimNode
from edgefl.sim.rtt_model import RttModel
from edgefl.wire import Contact, Message, Role, encode
from edgefl.wire.overlay import Ping


class Sink:
    """Takes every message and timer and remembers it."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.got: list[tuple[float, object]] = []

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        self.got.append((now, message))
        return self.takes

    def on_timer(self, key: object, now: float) -> bool:
        self.got.append((now, key))
        return self.takes


def pair(*, wire: bool = False, seed: int = 1) -> tuple[Network, SimNode, SimNode, Sink]:
    clock, model = Clock(), RttModel(Random(seed), 50)
    network = Network(clock, model, Random(seed), wire=wire)
    a = SimNode(network, Contact(1, "10.0.0.1", 7000), model.place(), 1)
    b = SimNode(network, Contact(2, "10.0.0.2", 7000), model.place(), 2)
    sink = Sink()
    b.handlers = [sink]
    return network, a, b, sink


@pytest.mark.parametrize("wire", [False, True])
def test_a_message_takes_half_a_round_trip_and_a_little_jitter(wire: bool) -> None:
    network, a, b, sink = pair(wire=wire)
    a.send(b.contact, Ping(7))
    network.clock.run(10)
    ((at, message),) = sink.got
    assert message == Ping(7)
    assert 1.0 <= at / (network.model.rtt_s(a.place, b.place) / 2) <= 1.1


def test_traffic_is_counted_by_what_it_is_on_the_wire() -> None:
    network, a, b, _ = pair()
    a.send(b.contact, Ping(2**31))
    a.send(Contact(9, "10.9.9.9", 1), Ping(1))  # nobody there: it was sent all the same
    size = len(encode(Ping(2**31))) + len(encode(Ping(1))) + 2 * PACKET_OVERHEAD_BYTES
    assert (network.messages, network.bytes, a.sent_bytes, b.sent_bytes) == (2, size, size, 0)
    assert network.by_type == {"Ping": size}


def test_losses_and_repetitions_come_as_often_as_told() -> None:
    network, a, b, sink = pair()
    network.faults.loss = 0.3
    for n in range(2000):
        a.send(b.contact, Ping(n))
    network.clock.run(100)
    assert len(sink.got) == pytest.approx(1400, rel=0.07)
    sink.got.clear()
    network.faults.loss, network.faults.duplicate, network.faults.reorder = 0.0, 0.5, 0.5
    for n in range(2000):
        a.send(b.contact, Ping(n))
    network.clock.run(200)
    assert len(sink.got) == pytest.approx(3000, rel=0.07)
    order = [message.request for _, message in sink.got if isinstance(message, Ping)]
    assert order != sorted(order)


def test_a_link_that_is_new_or_was_idle_is_dialled_first() -> None:
    network, a, b, sink = pair()
    network.faults.dial_rtts = 6
    rtt_s = network.model.rtt_s(a.place, b.place)
    for wait_s in (0.0, rtt_s, 100.0, 200.0):
        network.clock.run(network.clock.now + wait_s)
        b.send(a.contact, Ping(0))
        a.send(b.contact, Ping(int(network.clock.now)))
    sent = [0.0, rtt_s, rtt_s + 100, rtt_s + 300]
    network.clock.run(1000)
    waited = [(at - start) / rtt_s for start, (at, _) in zip(sent, sink.got, strict=True)]
    assert waited == pytest.approx([6.5, 5.5, 0.5, 6.5], abs=0.06)


def test_partitions_cut_both_ways_until_they_end() -> None:
    network, a, b, sink = pair()
    network.sides = lambda node: node.contact.node_id
    a.send(b.contact, Ping(1))
    network.clock.run(5)
    network.sides = None
    a.send(b.contact, Ping(2))
    network.clock.run(10)
    assert [message for _, message in sink.got] == [Ping(2)]


def test_the_dead_neither_send_nor_receive_nor_keep_time() -> None:
    network, a, b, sink = pair()
    b.set_timer(("t",), 1.0)
    a.send(b.contact, Ping(1))
    b.die()
    b.send(a.contact, Ping(2))
    network.clock.run(5)
    assert sink.got == []
    assert network.messages == 1
    b.die()  # twice is once


def test_only_the_right_device_at_an_address_gets_a_message() -> None:
    network, a, b, sink = pair()
    a.send(Contact(3, b.contact.host, b.contact.port), Ping(1))
    network.clock.run(5)
    assert sink.got == []


def test_who_cannot_be_dialled_is_reached_only_by_those_it_has_dialled() -> None:
    network, a, b, sink = pair()
    b.contact = Contact(2, "10.0.0.2", 7000, role=Role.LEAF)
    a.send(b.contact, Ping(1))
    b.send(a.contact, Ping(2))
    a.send(b.contact, Ping(3))
    network.clock.run(5)
    assert [message for _, message in sink.got] == [Ping(3)]


def test_a_slow_device_gets_round_to_things_later() -> None:
    network, a, b, sink = pair()
    b.slow_s = 2.0
    b.set_timer(("t",), 1.0)
    a.send(b.contact, Ping(1))
    network.clock.run(10)
    (first, _), (second, _) = sink.got
    assert 2.0 < first < 2.5
    assert second == 3.0


def test_timers_fire_once_can_be_moved_and_cancelled() -> None:
    network, _, b, sink = pair()
    b.set_timer(("moved",), 1.0)
    b.set_timer(("moved",), 2.0)
    b.set_timer(("cancelled",), 1.0)
    b.cancel_timer(("cancelled",))
    b.cancel_timer(("unknown",))
    b.set_timer(("past",), -5.0)
    network.clock.run(10)
    assert sink.got == [(0.0, ("past",)), (2.0, ("moved",))]


def test_handlers_are_asked_in_turn_until_one_takes_it() -> None:
    network, a, b, second = pair()
    first, third = Sink(takes=False), Sink()
    b.handlers = [first, second, third]
    a.send(b.contact, Ping(1))
    b.set_timer(("t",), 1.0)
    network.clock.run(5)
    assert (len(first.got), len(second.got), len(third.got)) == (2, 2, 0)
    first.takes, second.takes, third.takes = False, False, False
    a.send(b.contact, Ping(1))
    b.set_timer(("t",), 6.0)
    network.clock.run(9)
    assert len(third.got) == 2


def test_what_does_not_survive_the_wire_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    _, a, b, _ = pair(wire=True)
    nothing: Callable[[bytes], None] = lambda data: None  # noqa: E731
    monkeypatch.setattr(network_module, "decode", nothing)
    with pytest.raises(ValueError, match="Ping does not survive"):
        a.send(b.contact, Ping(1))


def test_a_clock_that_leaps_ahead_makes_timers_due() -> None:
    network, _, b, sink = pair()
    b.set_timer(("soon",), 5.0)
    b.set_timer(("late",), 100.0)
    network.clock.run(1)
    b.jump(30.1)
    network.clock.run(2)
    assert sink.got == [(pytest.approx(31.1), ("soon",))]
    network.clock.run(100)
    assert sink.got[1] == (pytest.approx(100.0), ("late",))
    assert network.clock.now + 30.1 == pytest.approx(b.now)


def test_equal_runs_have_equal_digests() -> None:
    digests = []
    for request in (1, 1, 2):
        network, a, b, _ = pair()
        a.send(b.contact, Ping(request))
        digests.append(network.digest)
    assert digests[0] == digests[1] != digests[2]
