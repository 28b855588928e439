"""The root hears the weighted mean, every device counted once, whatever is lost and whoever gets another parent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.program_world import ProgramWorld

from edgefl.errors import UsageError
from edgefl.learning.program.root_sum import MAX_WEIGHT
from edgefl.learning.program.sums import MAX_HELD, MAX_OPEN, MAX_REMEMBERED
from edgefl.wire import Message
from edgefl.wire.program import ProgramStanding, ProgramSum, ProgramSumAck

BUSHY = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 6}


def vector(number: int) -> np.ndarray:
    return np.array([number, -number / 2], np.float32)


def give_all(world: ProgramWorld, round_: int, numbers: Any = None) -> None:
    for number in numbers or world.devices:
        assert world.devices[number].give(round_, vector(number), weight=number)


def expected(numbers: Any) -> np.ndarray:
    return np.average([vector(n) for n in numbers], axis=0, weights=list(numbers))


def assert_result(world: ProgramWorld, root: int, round_: int, numbers: Any) -> None:
    (result,) = [one for device in world.devices.values() for one in device.sums if one.round == round_]
    assert world.devices[root].sums[-1] is result
    assert result.participants == len(list(numbers))
    assert result.weight == sum(numbers)
    np.testing.assert_allclose(result.mean, expected(numbers), rtol=1e-5)


@pytest.mark.parametrize(
    "parents",
    [{}, {2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6}, dict.fromkeys(range(2, 8), 1), BUSHY],
    ids=["alone", "chain", "star", "bushy"],
)
def test_the_mean_is_exact_in_any_tree(parents: dict[int, int]) -> None:
    world = ProgramWorld(max(parents, default=1))
    world.start(parents)
    give_all(world, 1)
    world.run(1.5)
    assert_result(world, 1, 1, range(1, len(world.devices) + 1))
    give_all(world, 2)
    world.run(0.5)  # the number of members has stood still: nobody waits
    assert_result(world, 1, 2, range(1, len(world.devices) + 1))
    assert all(not device.tree_.sums.open for device in world.devices.values())


def test_who_gives_nothing_is_not_waited_for_longer_than_the_deadline() -> None:
    world = ProgramWorld(7)
    world.start(BUSHY)
    givers = [1, 2, 5, 7]
    give_all(world, 1, givers)
    world.run(9.0)
    assert world.devices[1].sums == []
    world.run(2.0)
    assert_result(world, 1, 1, givers)
    assert not world.devices[3].give(1, vector(3))  # too late, and it is told so


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 0.3))
def test_lost_messages_are_sent_again_and_counted_once(seed: int, loss: float) -> None:
    world = ProgramWorld(7, seed=seed, loss=loss)
    world.start(BUSHY)
    give_all(world, 1)
    world.run(40.0)
    (result,) = world.devices[1].sums
    # The deadline may be over before the last one has got through; but the mean is that of those who are in it.
    assert result.weight <= 28
    if result.participants == 7:
        np.testing.assert_allclose(result.mean, expected(range(1, 8)), rtol=1e-5)
    assert result.participants >= 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_devices_that_get_other_parents_are_counted_once(data: st.DataObject) -> None:
    """At any moments, with acknowledgements and sums lost at will before the last move: the sum that comes out is
    exactly that of the devices it claims."""
    world = ProgramWorld(7, values=7)
    world.start(BUSHY)
    lost = data.draw(st.floats(0, 0.5))
    world.tap = lambda sender, to, message: (
        not isinstance(message, (ProgramSum, ProgramSumAck)) or world.random.random() >= lost
    )
    for number in data.draw(st.permutations(list(world.devices))):
        world.devices[number].give(1, np.eye(7, dtype=np.float32)[number - 1])
        world.run(data.draw(st.sampled_from([0.0, 0.005, 0.02, 1.0])))
        if data.draw(st.booleans()):
            child = data.draw(st.integers(2, 7))
            world.attach(child, data.draw(st.integers(1, child - 1)))  # a smaller number outranks a larger one
    world.tap = lambda sender, to, message: True
    world.run(30.0)
    (result,) = [one for device in world.devices.values() for one in device.sums]
    counts = result.mean * result.weight
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    assert set(np.round(counts)) <= {0.0, 1.0}  # nobody twice
    assert np.round(counts).sum() == result.participants == result.weight == 7  # and nobody left out


def test_the_subtree_of_a_dead_parent_delivers_over_another_one() -> None:
    world = ProgramWorld(7)
    world.start(BUSHY)
    give_all(world, 1, [4, 5, 6, 7])
    world.run(0.1)
    world.kill(2)  # it had taken the vectors of 4 and 5, and not passed them on
    world.attach(4, 3)
    world.attach(5, 1)
    give_all(world, 1, [1, 3])
    world.run(3.0)
    assert_result(world, 1, 1, [1, 3, 4, 5, 6, 7])


def test_a_repeated_batch_does_not_keep_out_what_is_still_on_its_way() -> None:
    """4 delivers to 2, then moves to 3 and delivers again, which comes first; 2 is not lost by it."""
    world = ProgramWorld(4)
    world.start({2: 1, 3: 1, 4: 2})
    give_all(world, 1, [4])
    world.run(0.1)
    world.attach(4, 3)
    give_all(world, 1, [3])
    world.run(0.1)
    give_all(world, 1, [2])  # its sum has 4 in it
    world.run(0.1)
    give_all(world, 1, [1])
    world.run(3.0)
    assert_result(world, 1, 1, [1, 2, 3, 4])


def test_a_root_that_dies_in_a_round_is_replaced_and_nobody_is_lost_but_the_dead() -> None:
    world = ProgramWorld(7)
    world.start(BUSHY)
    give_all(world, 1, [2, 3, 4, 5, 6])
    world.run(0.5)
    world.kill(1)
    world.crown(2)
    world.attach(3, 2)
    world.run(0.1)
    give_all(world, 1, [7])
    world.run(12.0)
    assert_result(world, 2, 1, [2, 3, 4, 5, 6, 7])


def test_a_higher_ranked_newcomer_takes_over_a_round_with_what_the_old_root_has() -> None:
    world = ProgramWorld(5)
    world.start({3: 2, 4: 2, 5: 4, 1: 2})
    world.detach(1)
    world.run(1.0)
    give_all(world, 1, [2, 4, 5])
    world.run(0.2)
    world.crown(1)
    world.attach(2, 1)
    give_all(world, 1, [1, 3])
    world.run(12.0)
    assert_result(world, 1, 1, [1, 2, 3, 4, 5])


def test_a_round_that_the_dead_root_has_closed_is_not_closed_again() -> None:
    world = ProgramWorld(7)
    world.start(BUSHY)
    give_all(world, 1)
    world.run(2.0)
    assert_result(world, 1, 1, range(1, 8))
    world.kill(1)
    world.crown(2)
    world.attach(3, 2)
    world.run(40.0)
    assert_result(world, 1, 1, range(1, 8))
    assert not world.devices[7].give(1, vector(7))


def test_several_rounds_are_open_at_once_and_no_more_than_that() -> None:
    world = ProgramWorld(3)
    world.start({2: 1, 3: 1})
    for round_ in range(MAX_OPEN):
        give_all(world, round_, [2])
    with pytest.raises(UsageError, match="open already"):
        world.devices[2].give(99, vector(2))
    for round_ in range(MAX_OPEN):
        give_all(world, round_, [3, 1])
    world.run(2.0)
    assert sorted(one.round for one in world.devices[1].sums) == list(range(MAX_OPEN))


def test_rounds_that_only_a_child_knows_do_not_keep_out_the_own() -> None:
    world = ProgramWorld(3)
    world.start({2: 1, 3: 1})
    for round_ in range(100, 100 + 2 * MAX_OPEN):
        world.post(world.devices[3], 1, claim(world, round_, 3))
    world.run(0.1)
    assert len(world.devices[1].tree_.sums.open) == MAX_OPEN
    give_all(world, 1, [1])
    world.run(0.1)
    assert 1 in world.devices[1].tree_.sums.open
    assert len(world.devices[1].tree_.sums.open) == MAX_OPEN


def claim(world: ProgramWorld, round_: int, sender: int, **changes: Any) -> ProgramSum:
    values: dict[str, Any] = {
        "app": world.devices[1].tree_.id,
        "round": round_,
        "batch": 1,
        "weight": 1,
        "participants": 1,
        "contributors": (sender,),
        "values": vector(sender).tobytes(),
    }
    return ProgramSum(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"values": b"1234"},
        {"values": np.array([np.nan, 0], np.float32).tobytes()},
        {"values": np.array([3e38, 0], np.float32).tobytes()},
        {"weight": 0},
        {"weight": MAX_WEIGHT + 1},
        {"participants": 0, "contributors": ()},
        {"participants": 2},
        {"contributors": (3, 3), "participants": 2},
        {"contributors": ()},
        {"contributors": (), "participants": 5000, "again": True},
        {"again": True, "weight": MAX_WEIGHT + 1},
        {"again": True, "values": np.array([np.inf, 0], np.float32).tobytes()},
    ],
)
def test_what_cannot_be_true_is_refused_and_the_round_goes_on(changes: dict[str, Any]) -> None:
    world = ProgramWorld(3)
    world.start({2: 1, 3: 1})
    world.post(world.devices[3], 1, claim(world, 1, 3, **changes))
    world.run(0.1)
    give_all(world, 1, [1, 2])
    world.run(12.0)
    assert_result(world, 1, 1, [1, 2])
    assert world.devices[1].tree_.counters["sum_refused"] == 1


def test_a_stranger_is_not_counted_and_cannot_end_a_round() -> None:
    world = ProgramWorld(4)
    world.start({2: 1, 3: 1})
    app = world.devices[1].tree_.id
    stranger = world.devices[4]
    lies: list[Message] = [claim(world, 1, 4), ProgramStanding(app, 0, 0, (1,)), ProgramSumAck(app, 1, 1, True)]
    for lie in lies:
        world.post(stranger, 1, lie)
    world.post(world.devices[2], 1, ProgramStanding(app, 0, 0, (1,)))  # nor can a child of a root in office
    world.run(0.1)
    give_all(world, 1, [1, 2, 3])
    world.run(3.0)
    assert_result(world, 1, 1, [1, 2, 3])


def test_repeated_batches_are_held_up_to_a_bound() -> None:
    world = ProgramWorld(2 * MAX_HELD)
    world.start(dict.fromkeys(range(2, 2 * MAX_HELD + 1), 1))
    for number in range(2 * MAX_HELD):
        world.post(world.devices[3], 1, claim(world, 1, 100 + number, batch=number, again=True))
    world.run(0.1)
    assert len(world.devices[1].tree_.sums.open[1].held) == MAX_HELD
    assert world.devices[1].tree_.counters["sum_no_room"] == MAX_HELD


def test_a_crowd_without_names_is_counted_once() -> None:
    world = ProgramWorld(3)
    world.start({2: 1, 3: 1})
    crowd = claim(world, 1, 3, participants=5000, contributors=(), weight=5000)
    give_all(world, 1, [1, 2])
    world.run(0.1)
    for _ in range(2):
        world.post(world.devices[3], 1, crowd)
    world.run(12.0)
    (result,) = world.devices[1].sums
    assert (result.participants, result.weight) == (5002, 5003)


@pytest.mark.parametrize(
    ("given_vector", "weight"),
    [
        (np.zeros(3, np.float32), 1),
        (np.array([np.nan, 0], np.float32), 1),
        (np.array([1e18, 0], np.float32), MAX_WEIGHT),
        (vector(1), 0),
        (vector(1), MAX_WEIGHT + 1),
    ],
)
def test_a_program_is_told_what_it_cannot_give(given_vector: np.ndarray, weight: int) -> None:
    world = ProgramWorld(2)
    world.start({2: 1})
    with pytest.raises(UsageError):
        world.devices[1].give(1, given_vector, weight)
    assert world.devices[1].give(1, vector(1))
    with pytest.raises(UsageError, match="already"):
        world.devices[1].give(1, vector(1))


def test_what_is_remembered_of_closed_rounds_is_bounded() -> None:
    world = ProgramWorld(2)
    world.start({2: 1})
    for round_ in range(MAX_REMEMBERED + 20):
        give_all(world, round_)
        world.run(2.0)
    for device in world.devices.values():
        assert len(device.tree_.sums._closed) == MAX_REMEMBERED
    assert len(world.devices[1].sums) == MAX_REMEMBERED + 20


def test_leaving_forgets_timers() -> None:
    world = ProgramWorld(2)
    world.start({2: 1})
    give_all(world, 1, [2])
    device = world.devices[2]
    device.programs.drop(device.tree_, world.now)
    assert device.programs.trees == {}
    device.programs.drop(device.tree_, world.now)
    sent: list[int] = []
    world.tap = lambda sender, to, message: sent.append(sender) or False  # type: ignore[func-returns-value]
    world.run(60.0)
    assert 2 not in sent
