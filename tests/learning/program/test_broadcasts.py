"""Every member hears every broadcast once, all in one order, whatever is lost and whoever dies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.program_world import Device, ProgramWorld

from edgefl.errors import UsageError
from edgefl.learning.program.broadcasts import KEPT, MAX_NUMBERED_S, MAX_PENDING
from edgefl.learning.program.programs import MAX_TREES
from edgefl.learning.program.tree import tree_id
from edgefl.wire import Contact, Message
from edgefl.wire.overlay import Detach, Refusal
from edgefl.wire.program import MAX_PAYLOAD_BYTES, MAX_VALUES, ProgramBroadcast, ProgramPublish, ProgramStanding

CHAIN = {2: 1, 3: 2, 4: 3}
BUSHY = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 6}


@pytest.mark.parametrize("origin", [1, 2, 7])
def test_a_broadcast_of_any_member_reaches_all(origin: int) -> None:
    world = ProgramWorld(7)
    world.start(BUSHY)
    serial = world.devices[origin].publish(b"hello")
    world.run(1.0)
    for device in world.devices.values():
        assert device.payloads == [b"hello"]
        assert device.heard[0].origin == origin
    assert world.devices[origin].published == [(serial, True)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 0.3))
def test_loss_costs_time_but_neither_order_nor_a_broadcast(seed: int, loss: float) -> None:
    world = ProgramWorld(7, seed=seed, loss=loss)
    world.start(BUSHY)
    for number in range(10):
        assert world.devices[world.random.randint(1, 7)].publish(b"%d" % number, patience_s=300.0) is not None
        world.run(0.5)
    world.run(300.0)
    order = world.devices[1].payloads
    assert sorted(order) == sorted(b"%d" % number for number in range(10))
    assert all(device.payloads == order for device in world.devices.values())


def test_a_device_with_another_parent_gets_what_it_lacks() -> None:
    world = ProgramWorld(4)
    world.start(CHAIN)
    world.tap = lambda sender, to, message: 3 not in (sender, to)
    for number in range(5):
        world.devices[1].publish(b"%d" % number)
    world.run(1.0)
    assert world.devices[4].payloads == []
    world.tap = lambda sender, to, message: True
    world.attach(3, 1)
    world.run(1.0)
    assert world.devices[4].payloads == world.devices[3].payloads == [b"%d" % number for number in range(5)]


def test_who_comes_late_gets_the_newest_that_are_kept() -> None:
    world = ProgramWorld(4)
    world.start({2: 1, 3: 2})
    for number in range(KEPT + 5):
        world.devices[1].publish(b"%d" % number)
        world.run(0.1)
    world.attach(4, 3)
    world.run(5.0)
    assert world.devices[4].payloads == [b"%d" % number for number in range(5, KEPT + 5)]


def test_large_broadcasts_go_to_a_late_device_window_by_window() -> None:
    world = ProgramWorld(2)
    world.crown(1)
    world.run(2.0)
    sent = [bytes([number]) * MAX_PAYLOAD_BYTES for number in range(KEPT)]
    for payload in sent:
        world.devices[1].publish(payload)
        world.run(0.1)
    world.attach(2, 1)
    world.run(60.0)
    assert world.devices[2].payloads == sent


def test_a_new_root_goes_on_where_the_old_one_was_and_repeats_nothing() -> None:
    world = ProgramWorld(5)
    world.start({2: 1, 3: 1, 4: 2, 5: 3})
    world.devices[5].publish(b"before")
    world.run(1.0)
    world.devices[5].publish(b"during")
    world.kill(1)
    world.crown(2)
    world.attach(3, 2)
    world.run(30.0)
    world.devices[4].publish(b"after")
    world.run(5.0)
    for number in (2, 3, 4, 5):
        assert world.devices[number].payloads == [b"before", b"during", b"after"]
        assert world.devices[number].heard[0].epoch < world.devices[number].heard[1].epoch


def test_what_only_a_child_has_heard_of_the_old_root_comes_to_the_others() -> None:
    world = ProgramWorld(4)
    world.start({2: 1, 3: 1, 4: 3})
    world.tap = lambda sender, to, message: not (to == 2 and isinstance(message, ProgramBroadcast))
    world.devices[1].publish(b"last word")
    world.run(0.5)
    assert world.devices[4].payloads == [b"last word"]
    assert world.devices[2].payloads == []
    world.tap = lambda sender, to, message: True
    world.kill(1)
    world.crown(2)
    world.attach(3, 2)
    world.run(5.0)
    assert world.devices[2].payloads == [b"last word"]


def test_two_parts_of_a_fleet_go_on_in_one_order() -> None:
    """Each part had a root; the lower epoch ends where they meet, and what was broadcast under it is late."""
    world = ProgramWorld(4)
    world.start({2: 1, 3: 1, 4: 3})
    world.devices[1].publish(b"all")
    world.run(1.0)
    world.detach(3)
    world.crown(3)
    world.root = 3
    world.run(2.0)
    world.devices[4].publish(b"part")
    world.run(1.0)
    assert world.devices[3].payloads == [b"all", b"part"]
    world.root = 1
    world.attach(3, 1)
    world.run(5.0)
    world.devices[2].publish(b"together")
    world.run(5.0)
    assert world.devices[1].payloads == [b"all", b"part", b"together"]
    assert world.devices[2].payloads == world.devices[4].payloads == world.devices[1].payloads


def test_nobody_answers_and_the_program_hears_of_it() -> None:
    world = ProgramWorld(2)
    world.start({2: 1})
    world.tap = lambda sender, to, message: not isinstance(message, ProgramPublish)
    serial = world.devices[2].publish(b"lost", patience_s=5.0)
    world.run(6.0)
    assert world.devices[2].published == [(serial, False)]
    world.tap = lambda sender, to, message: True
    world.devices[2].publish(b"found")
    world.run(1.0)
    assert world.devices[1].payloads == [b"found"]


def test_only_so_many_wait_and_each_is_told_apart() -> None:
    world = ProgramWorld(1)
    serials = [world.devices[1].publish(b"x") for _ in range(MAX_PENDING)]
    assert len(set(serials)) == MAX_PENDING
    assert world.devices[1].publish(b"one too many") is None
    world.crown(1)
    world.run(3.0)
    assert world.devices[1].published == [(serial, True) for serial in serials]


def test_a_flood_of_one_child_is_numbered_at_a_bounded_rate() -> None:
    world = ProgramWorld(3)
    world.start({2: 1, 3: 1})
    app = world.devices[1].tree_.id
    for serial in range(10 * MAX_NUMBERED_S):
        world.post(world.devices[2], 1, ProgramPublish(app, 2, serial + 1, b""))
    world.run(0.1)
    assert len(world.devices[3].payloads) <= 2 * MAX_NUMBERED_S
    assert world.devices[1].tree_.counters["publish_over_rate"] >= 8 * MAX_NUMBERED_S


def test_strangers_and_liars_are_not_believed() -> None:
    world = ProgramWorld(4)
    world.start({2: 1, 3: 1})  # 4 is no neighbour of anybody
    app = world.devices[1].tree_.id
    lies: list[tuple[int, Message]] = [
        (4, ProgramPublish(app, 4, 1, b"stranger")),
        (4, ProgramBroadcast(app, 1 << 16, 1, 0, 0, 4, 1, b"stranger")),
        (4, ProgramStanding(app, 1 << 16, 9, (), True)),
        (2, ProgramBroadcast(app, 2**63, 1, 0, 0, 2, 1, b"leap")),
        (2, ProgramStanding(app, 2**63, 1)),
    ]
    for sender, lie in lies:
        world.post(world.devices[sender], 1, lie)
    world.run(2.0)
    assert world.devices[1].payloads == world.devices[3].payloads == []
    world.devices[1].publish(b"truth")
    world.run(1.0)
    assert world.devices[2].payloads == world.devices[3].payloads == [b"truth"]


def test_a_child_that_broadcasts_in_the_roots_name_does_not_stop_the_root() -> None:
    world = ProgramWorld(3)
    world.start({2: 1, 3: 1})
    world.devices[1].publish(b"one")
    world.run(1.0)
    epoch = world.devices[1].heard[0].epoch
    app = world.devices[1].tree_.id
    world.post(world.devices[2], 1, ProgramBroadcast(app, epoch, 7, epoch, 1, 2, 1, b"forged"))
    world.run(1.0)
    assert world.devices[3].payloads == [b"one"]
    world.devices[1].publish(b"two")
    world.run(1.0)
    assert world.devices[3].payloads == [b"one", b"two"]


@pytest.mark.parametrize("incarnation", [0, 1], ids=["same epoch", "higher epoch"])
def test_a_root_that_was_started_again_does_not_take_its_old_numbers(incarnation: int) -> None:
    """Its memory is gone, and its child tells too late what it has heard before. (An epoch can come out the same where
    another root had been in between.)"""
    world = ProgramWorld(2)
    world.start({2: 1})
    world.devices[1].publish(b"first life")
    world.run(1.0)
    world.kill(1)
    world.devices[1] = Device(world, Contact(1, "10.0.0.1", 4000, incarnation=incarnation))
    world.crown(1)
    world.run(2.0)
    world.attach(2, 1)
    world.run(3.0)
    assert world.devices[1].payloads == [b"first life"]
    world.devices[2].publish(b"second life")
    world.run(3.0)
    assert world.devices[1].payloads == world.devices[2].payloads == [b"first life", b"second life"]


def test_what_the_overlay_says_of_the_same_tree_is_left_to_it() -> None:
    device = ProgramWorld(1).devices[1]
    assert not device.programs.on_message(device.contact, Detach(device.tree_.id, Refusal.SWITCHED), 0.0)
    assert device.programs.on_message(device.contact, ProgramStanding(12345), 0.0)  # of a tree that was left


def test_names_make_keys() -> None:
    assert tree_id("a") == tree_id("a") != tree_id("b")


@pytest.mark.parametrize(
    ("name", "values", "deadline_s", "complaint"),
    [
        ("", 1, 1.0, "name"),
        ("a\nb", 1, 1.0, "name"),
        ("x" * 65, 1, 1.0, "name"),
        ("a", 0, 1.0, "values"),
        ("a", MAX_VALUES + 1, 1.0, "values"),
        ("a", 1, 0.5, "deadline"),
        ("a", 1, float("nan"), "deadline"),
        ("test", 1, 1.0, "exists"),
    ],
)
def test_what_is_no_tree(name: str, values: int, deadline_s: float, complaint: str) -> None:
    programs = ProgramWorld(1).devices[1].programs
    with pytest.raises(UsageError, match=complaint):
        programs.create(name, values=values, deadline_s=deadline_s)


def test_a_program_has_a_few_trees() -> None:
    programs = ProgramWorld(1).devices[1].programs
    for number in range(1, MAX_TREES):
        programs.create(f"tree {number}", values=MAX_VALUES, deadline_s=1.0)
    with pytest.raises(UsageError, match="trees already"):
        programs.create("one more", values=1, deadline_s=1.0)
