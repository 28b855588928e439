"""The registry: merging is a law, views shrink to deltas, a liar changes nothing of others' own word."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from edgefl.learning.sampled import registry as registry_module
from edgefl.learning.sampled.registry import MAX_LEAP, Registry, merged
from edgefl.wire import Contact
from edgefl.wire.sampled import MAX_ENTRIES, Entry


def contact(node_id: int) -> Contact:
    return Contact(node_id, "10.0.0.1", 4000)


entries = st.builds(
    Entry,
    contact=st.integers(1, 6).map(contact),
    active=st.integers(0, 50),
    counter=st.integers(0, 4),
    left=st.booleans(),
    uplink=st.integers(0, 3),
)


def known(registry: Registry) -> dict[int, Entry]:
    return {entry.contact.node_id: entry for entry in registry.entries()}


def test_a_newer_counter_is_no_activity() -> None:
    """The published code stored the counter as the activity round: a device that re-joined for the 40th time looked
    active in round 40."""
    registry = Registry(contact(99), window=10)
    registry.merge([Entry(contact(1), active=3, counter=1)])
    registry.merge([Entry(contact(1), active=2, counter=40)])
    assert known(registry)[1] == Entry(contact(1), active=3, counter=40)
    assert [entry.contact.node_id for entry in registry.candidates(30)] == [99]


@given(st.lists(entries, max_size=12), st.integers(0, 2**32))
def test_order_and_repetition_do_not_matter(news: list[Entry], seed: int) -> None:
    first, second = Registry(contact(99), 10), Registry(contact(99), 10)
    first.merge(news)
    shuffled = news * 2
    Random(seed).shuffle(shuffled)
    for entry in shuffled:
        second.merge([entry])
    assert known(first) == known(second)
    assert first.digest == second.digest


@given(entries, entries, entries)
def test_activity_and_membership_are_each_the_newest(a: Entry, b: Entry, c: Entry) -> None:
    both = merged(merged(a, b), c)
    assert both.active == max(a.active, b.active, c.active)
    assert both.counter == max(a.counter, b.counter, c.counter)
    assert both == merged(a, merged(b, c)) == merged(c, merged(b, a))


def test_only_a_device_itself_changes_its_membership() -> None:
    registry = Registry(contact(1), window=10)
    registry.merge([Entry(contact(1), active=7, counter=50, left=True)])
    assert registry.me == Entry(contact(1), active=7, counter=51), "what is not true is answered with a higher counter"
    registry.merge([Entry(contact(1), active=7, counter=51 + MAX_LEAP + 1, left=True)])
    assert registry.me.counter == 51, "a leap that nobody makes is a lie"


def test_the_window_and_leaving() -> None:
    registry = Registry(contact(99), window=5)
    registry.merge([Entry(contact(1), 10, 1), Entry(contact(2), 4, 1), Entry(contact(3), 10, 2, left=True)])
    assert {entry.contact.node_id for entry in registry.candidates(10)} == {99, 1}
    assert {entry.contact.node_id for entry in registry.candidates(9)} == {99, 1, 2}


def test_deltas_carry_news_alone_and_bring_the_peer_up_to_date() -> None:
    here, there = Registry(contact(1), 10), Registry(contact(2), 10)
    here.merge([Entry(contact(node), 1, 1) for node in range(10, 10 + MAX_ENTRIES + 20)])
    sizes = []
    for _ in range(3):
        view = here.delta(2)
        there.merge(view.entries)
        sizes.append(len(view.entries))
    assert sizes == [MAX_ENTRIES, 21, 0]
    here.touch(10, 4)
    assert [entry.contact.node_id for entry in here.delta(2).entries] == [10]
    here.merge(there.entries())
    assert here.digest == there.digest


def test_the_whole_view_comes_in_parts() -> None:
    here, there = Registry(contact(1), 10), Registry(contact(2), 10)
    here.merge([Entry(contact(node), 1, 1) for node in range(10, 10 + 2 * MAX_ENTRIES)])
    after, more = 0, True
    while more:
        view, more = here.part(after)
        there.merge(view.entries)
        after = view.entries[-1].contact.node_id
    assert set(known(here)) <= set(known(there))


def test_an_absurd_round_is_not_believed() -> None:
    registry = Registry(contact(1), 10)
    registry.merge([Entry(contact(2), MAX_LEAP + 1, 1)])
    assert len(registry) == 1
    assert registry.rejected == 1


def test_strangers_push_nobody_out(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(registry_module, "MAX_VIEW", 4)
    registry = Registry(contact(1), 10)
    registry.merge([Entry(contact(2), 1, 1), Entry(contact(3), 1, 2, left=True), Entry(contact(4), 1, 1)])
    registry.merge([Entry(contact(5), 1, 1), Entry(contact(6), 1, 1)])
    assert set(known(registry)) == {1, 2, 4, 5}
    fresh = Registry(contact(1), 10)
    fresh.merge([entry for entry in registry.entries() if entry.contact.node_id != 1])
    assert fresh.digest == registry.digest
