"""Order and sampling: everybody agrees, silent devices are replaced, and quickly."""

from __future__ import annotations

import hashlib
import heapq
from random import Random

from edgefl.learning.sampled.order import aggregators, handed_out, order
from edgefl.learning.sampled.sampling import Pace, Sampling
from edgefl.wire import Contact
from edgefl.wire.sampled import Entry

KEY = bytes(16)


def entry(node_id: int, uplink: int = 0) -> Entry:
    return Entry(Contact(node_id, "10.0.0.1", 4000), 1, 1, uplink=uplink)


def ids(listed: list[Entry]) -> list[int]:
    return [one.contact.node_id for one in listed]


def search(ordered: list[Entry], want: int, alive: set[int], pace: Pace, rtt_s: float = 0.1) -> tuple[list[int], float]:
    """Run one sampling; the devices it found, and the seconds it took."""
    now, sampling = 0.0, Sampling(ordered, want, pace, me=0)
    answers: list[tuple[float, int]] = []
    while True:
        for ping in sampling.step(now):
            if ping.contact.node_id in alive:
                heapq.heappush(answers, (now + rtt_s, ping.contact.node_id))
        if sampling.result is not None:
            return ids(sampling.result), now
        if answers and answers[0][0] <= sampling.deadline:
            now, node_id = heapq.heappop(answers)
            sampling.on_answer(node_id, now)
        else:
            now = max(now, sampling.deadline)


def test_the_order_is_the_keyed_hash_and_changes_with_the_round() -> None:
    members = [entry(node) for node in range(1, 50)]

    def digest(node: int, round_: int) -> bytes:
        return hashlib.blake2b(node.to_bytes(8, "big") + round_.to_bytes(4, "big"), digest_size=8, key=KEY).digest()

    assert ids(order(KEY, reversed(members), 3)) == sorted(range(1, 50), key=lambda node: digest(node, 3))
    assert ids(order(KEY, members, 3)) != ids(order(KEY, members, 4))
    assert ids(order(KEY, members, 3)) != ids(order(b"x" * 16, members, 3))


def test_the_fastest_of_the_sample_aggregates_but_not_always() -> None:
    ordered = [entry(1, 20), entry(2, 22), entry(3, 21), entry(4, 30)]
    assert ids(aggregators(ordered, 3, (), by_uplink=True)) == [2, 3, 1, 4]
    assert ids(aggregators(ordered, 3, (), by_uplink=False)) == [1, 2, 3, 4]
    assert ids(aggregators([entry(1, 22), entry(2, 22)], 2, (1,), by_uplink=True)) == [2, 1]


def test_the_first_live_ones_in_order_are_taken() -> None:
    random = Random(5)
    for _ in range(50):
        ordered = order(KEY, [entry(node) for node in range(1, 100)], random.randrange(1000))
        alive = set(random.sample(range(1, 100), random.randrange(100)))
        found, _ = search(ordered, 13, alive, Pace())
        assert found == [node for node in ids(ordered) if node in alive][:13]


def test_with_four_of_five_silent_a_sample_takes_a_few_timeouts_not_fifteen() -> None:
    random, pace, took = Random(1), Pace(), []
    for round_ in range(30):
        ordered = order(KEY, [entry(node) for node in range(1, 500)], round_)
        found, seconds = search(ordered, 13, set(random.sample(range(1, 500), 100)), pace)
        assert len(found) == 13
        took.append(seconds / pace.timeout_s)
    assert sum(took[10:]) / 20 < 2.5


def test_a_device_that_has_not_met_silent_ones_yet_finds_out_within_one_sampling() -> None:
    random, took = Random(1), []
    for round_ in range(30):
        pace = Pace()
        pace.answered(0.1)
        ordered = order(KEY, [entry(node) for node in range(1, 500)], round_)
        found, seconds = search(ordered, 13, set(random.sample(range(1, 500), 100)), pace)
        assert len(found) == 13
        took.append(seconds / pace.timeout_s)
    assert sum(took) / 30 < 3


def test_this_device_counts_as_live_and_an_exhausted_list_ends_the_search() -> None:
    assert search([entry(0), entry(1)], 5, {1}, Pace())[0] == [0, 1]
    assert search([], 5, set(), Pace())[0] == []


def test_a_network_slower_than_the_first_time_out_is_learned_from_late_answers() -> None:
    ordered, pace = [entry(node) for node in range(1, 40)], Pace()
    for _ in range(3):
        found, seconds = search(ordered, 5, set(range(1, 40)), pace, rtt_s=1.8)
        assert found == [1, 2, 3, 4, 5]
    assert pace.timeout_s > 1.8
    assert seconds == 1.8
    assert pace.silent < 0.2


def test_who_decides_when_the_round_ends_gets_the_model_first() -> None:
    seconds = {1: 9.0, 2: 1.0, 3: 5.0, 4: 7.0, 5: 3.0}
    assert handed_out([1, 2, 3, 4, 5], seconds, wanted=3) == [3, 5, 2, 4, 1]
    assert handed_out([1, 2, 3, 4, 5], seconds, wanted=5) == [1, 4, 3, 5, 2]


def test_whose_speed_is_not_known_counts_as_the_middle() -> None:
    assert handed_out([1, 2, 3, 4], {1: 9.0, 2: 1.0, 3: 5.0}, wanted=2) == [3, 2, 4, 1]
    assert handed_out([3, 1, 2], {}, wanted=2) == [1, 3, 2]
