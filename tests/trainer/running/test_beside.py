"""Work side by side: all of it is done, errors are told, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from edgefl.trainer.running.beside import Beside

DEADLINE_S = 30.0


def helpers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "edgefl-beside"}


def test_all_works_go_on_at_the_same_time_and_the_first_one_here() -> None:
    meeting = threading.Barrier(3, timeout=DEADLINE_S)
    seen: list[int] = []

    def work() -> None:
        meeting.wait()  # which nobody passes alone
        seen.append(threading.get_ident())

    beside = Beside(2)
    for _ in range(2):
        seen.clear()
        assert beside.run([work] * 3) == []
        assert len(set(seen)) == 3
        assert threading.get_ident() in seen


def test_work_that_no_thread_has_begun_is_done_here() -> None:
    """As on a machine whose cores other programs keep busy: the only helper is held up by its first work."""
    let_go = threading.Event()
    seen: list[int] = []

    def last() -> None:
        seen.append(threading.get_ident())
        let_go.set()

    begun = threading.Event()

    def held_up() -> None:
        begun.set()
        assert let_go.wait(DEADLINE_S)

    def first() -> None:
        assert begun.wait(DEADLINE_S)

    assert Beside(1).run([first, held_up, last]) == []
    assert seen == [threading.get_ident()]


def test_one_work_needs_no_thread() -> None:
    before = helpers()
    assert Beside(2).run([lambda: None]) == []
    assert helpers() == before


def test_what_any_of_them_raises_is_told_when_all_have_ended() -> None:
    ended = []

    def fails(what: str) -> None:
        ended.append(what)
        raise ValueError(what)

    beside = Beside(2)
    errors = beside.run([lambda: fails("here"), lambda: ended.append("well"), lambda: fails("there")])
    assert sorted(map(str, errors)) == ["here", "there"]
    assert sorted(ended) == ["here", "there", "well"]
    assert beside.run([lambda: None] * 3) == []


def test_an_interrupt_leaves_nothing_for_the_next_run() -> None:
    """The program may be interrupted here while the others are still at it: the next run waits for them first."""
    let_go = threading.Event()
    order: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def slow() -> None:
        assert let_go.wait(DEADLINE_S)
        order.append("old")

    beside = Beside(2)
    with pytest.raises(KeyboardInterrupt):
        beside.run([interrupted, slow])
    let_go.set()
    assert beside.run([lambda: order.append("new")]) == []
    assert order == ["old", "new"]


def test_threads_end_with_what_they_belong_to() -> None:
    before = helpers()
    beside = Beside(2)
    meeting = threading.Barrier(3, timeout=DEADLINE_S)
    beside.run([meeting.wait] * 3)
    own = helpers() - before
    assert len(own) == 2
    gone = weakref.ref(beside)
    del beside
    gc.collect()
    assert gone() is None
    for thread in own:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
