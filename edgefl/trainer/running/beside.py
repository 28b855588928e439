"""Runs side by side: each beyond the first on a thread of its own, which waits without using the processor.

ONNX Runtime's own threads share single nodes and meet after each of them; where they may not spin (runtime.py), that
takes longer than the work of most nodes. Here whole runs lie side by side, and meet once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue

Work = Callable[[], object]


class Beside:
    """Threads for work that lets go of the interpreter lock. They begin when they are first needed, and end with this
    object. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self._helpers: list[tuple[SimpleQueue[Work | None], SimpleQueue[BaseException | None]]] = []
        self._owed = 0

    def run(self, works: Sequence[Work]) -> list[BaseException]:
        """Do all of the works, the first one here; return when all have ended, with what they raised."""
        self._settle()  # what an interrupt of the program has left
        while len(self._helpers) < len(works) - 1:
            self._helpers.append(self._begin())
        for (tasks, _), work in zip(self._helpers, works[1:], strict=False):
            tasks.put(work)
            self._owed += 1
        errors: list[BaseException] = []
        try:
            works[0]()
        except Exception as error:  # it is told with the others'
            errors.append(error)
        return errors + self._settle()

    def _settle(self) -> list[BaseException]:
        errors = []
        while self._owed:
            if (error := self._helpers[self._owed - 1][1].get()) is not None:
                errors.append(error)
            self._owed -= 1
        return errors

    def _begin(self) -> tuple[SimpleQueue[Work | None], SimpleQueue[BaseException | None]]:
        tasks: SimpleQueue[Work | None] = SimpleQueue()
        ends: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(tasks, ends), name="edgefl-beside", daemon=True).start()
        weakref.finalize(self, tasks.put, None)
        return tasks, ends


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
