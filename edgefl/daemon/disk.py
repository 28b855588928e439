"""The disk thread: everything that may wait for an SD card happens here, in order, never on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgefl.errors import StorageError
from edgefl.store import Store

log = logging.getLogger("edgefl.disk")

T = TypeVar("T")


class Disk:
    """Runs functions of the store on one thread. A full or broken disk is remembered and shown, and the daemon goes on:
    what could not be saved is saved again with the next change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="edgefl-disk")
        self.problem: StorageError | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[Store], T]) -> T:
        """The result of `work(store)`. Raises StorageError."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self.executor, work, self.store)
        except StorageError as error:
            if self.problem is None:
                log.error("%s (next: %s)", error.cause, error.hint)
            self.problem = error
            raise
        if self.problem is not None:
            log.warning("the disk takes data again")
            self.problem = None
        return result

    def soon(self, work: Callable[[Store], None]) -> None:
        """Do it in the background; a StorageError is remembered in `problem`."""

        async def run() -> None:
            try:
                await self.run(work)
            except StorageError:
                return

        task = asyncio.get_running_loop().create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Wait for what is under way, then close the store."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=10.0)
        self.executor.shutdown(wait=True)
        self.store.close()
