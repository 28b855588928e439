"""Runs side by side, on threads of their own that wait without using the processor.

ONNX Runtime's own threads share single nodes and meet after each of them; where they may not spin (runtime.py), that
takes longer than the work of most nodes. Here whole runs lie side by side, and meet once. Whoever is free takes the
next: where other programs keep the cores busy and a thread is not let in, the caller does its work.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

Work = Callable[[], object]


class Beside:
    """`helpers` threads for work that lets go of the interpreter lock. They begin when they are first needed, and end
    with this object, which belongs to one thread at a time."""

    def __init__(self, helpers: int) -> None:
        self._helpers = helpers
        self._begun = 0
        self._tasks: SimpleQueue[Work | None] = SimpleQueue()
        self._ends: SimpleQueue[BaseException | None] = SimpleQueue()
        self._owed = 0

    def run(self, works: Sequence[Work]) -> list[BaseException]:
        """Do all of the works, the first one here; return when all have ended, with what they raised."""
        self._settle()  # what an interrupt of the program has left
        first, *others = works
        while self._begun < min(self._helpers, len(others)):
            threading.Thread(target=_serve, args=(self._tasks, self._ends), name="edgefl-beside", daemon=True).start()
            weakref.finalize(self, self._tasks.put, None)
            self._begun += 1
        for work in others:
            self._tasks.put(work)
            self._owed += 1
        errors: list[BaseException] = []
        mine: Work | None = first
        while mine is not None:
            try:
                mine()
            except Exception as error:  # it is told with the others'
                errors.append(error)
            mine = self._taken_back()
        return errors + self._settle()

    def _taken_back(self) -> Work | None:
        """A work that nobody has begun."""
        try:
            work = self._tasks.get_nowait()
        except Empty:
            return None
        self._owed -= 1
        return work

    def _settle(self) -> list[BaseException]:
        errors = []
        while self._owed:
            if (error := self._ends.get()) is not None:
                errors.append(error)
            self._owed -= 1
        return errors


def _serve(tasks: SimpleQueue[Work | None], ends: SimpleQueue[BaseException | None]) -> None:
    while (work := tasks.get()) is not None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # told where it is waited for
            error = raised
        del work  # before it is told that it is done: it may hold the last reference to what this thread belongs to
        ends.put(error)
        del error
