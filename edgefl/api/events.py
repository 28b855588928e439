"""A program's callbacks: one after the other, in the order of the events, beside the daemon.

A callback is a function or a coroutine function. A function runs on the daemon's event loop and must return soon; a
coroutine function may wait. What a callback raises is logged and counted, and the next event comes all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger("edgefl.api")

MAX_WAITING = 64
"""Events that wait for a callback which is still busy; the oldest go first (counted as `dropped`)."""

MAX_TRACEBACKS = 20
"""Written to the log for one program."""

Callback = Callable[..., Any]


class Events:
    """Calls what a program has given, in turn."""

    def __init__(self) -> None:
        self.failed = 0
        self.dropped = 0
        self._waiting: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, callback: Callback | None, *arguments: Any) -> None:
        """Call this when its turn comes; nothing when the program has not given one."""
        if callback is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((callback, arguments))
        self._came.set()

    async def call(self, callback: Callback, *arguments: Any) -> None:
        """Call it now, and wait for it."""
        try:
            result = callback(*arguments)
            if inspect.isawaitable(result):
                await result
        except Exception:
            self.failed += 1
            if self.failed <= MAX_TRACEBACKS:
                log.exception("a callback of the program failed: %s", getattr(callback, "__qualname__", callback))

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                callback, arguments = self._waiting.popleft()
                await self.call(callback, *arguments)

    async def stop(self) -> None:
        """No callback runs any more when this returns."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
