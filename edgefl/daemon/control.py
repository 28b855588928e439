"""The daemon's end of the control socket (edgefl/control.py tells the protocol)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from edgefl.control import MAX_LINE_BYTES, error_report, short_path
from edgefl.errors import EdgeflError, LocalError, StorageError, UsageError

log = logging.getLogger("edgefl.control")

MAX_CONNECTIONS = 32
"""Commands at once; each is one person or script on this very device."""

Verb = Callable[..., Awaitable[Any] | AsyncIterator[Any]]


class ControlServer:
    """Serves verbs. A verb is a coroutine function (its value is the result), or an asynchronous generator (what it
    yields are events; it has no result)."""

    def __init__(self, path: Path, verbs: dict[str, Verb]) -> None:
        self.path = path
        self._verbs = verbs
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, for this user alone. A socket left behind by a killed daemon is replaced (the store's lock has made
        sure that it is dead). Raises StorageError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            mask = os.umask(0o177)
            try:
                with short_path(self.path) as path:
                    self._server = await asyncio.start_unix_server(self._accept, path, limit=MAX_LINE_BYTES)
            finally:
                os.umask(mask)
        except OSError as error:
            raise StorageError(
                f"cannot open the control socket {self.path}: {error.strerror or error}",
                hint="check that its directory is writable",
            ) from None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the command was interrupted, or the daemon stops
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer(**line: Any) -> None:
            writer.write(json.dumps(line).encode() + b"\n")
            await writer.drain()

        try:
            try:
                request = json.loads(await reader.readline())
                verb, arguments = self._verbs[request["verb"]], dict(request.get("arguments", {}))
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    "the daemon does not know this request", hint="command and daemon are of different versions"
                ) from None
            call = verb(**arguments)
            if isinstance(call, AsyncIterator):
                await self._stream(call, reader, answer)
                await answer(result=None)
            else:
                await answer(result=await call)
        except EdgeflError as error:
            await answer(error=error_report(error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # a bug of ours: the daemon goes on, the user is told
            log.exception("request failed")
            await answer(error=error_report(LocalError(f"internal error: {error!r}", hint="see the daemon's log")))

    async def _stream(
        self, events: AsyncIterator[Any], reader: asyncio.StreamReader, answer: Callable[..., Awaitable[None]]
    ) -> None:
        """Pass events on until they end or the command hangs up (which only reading notices)."""
        hung_up = asyncio.ensure_future(reader.read())
        try:
            while True:
                step = asyncio.ensure_future(anext(events, None))
                await asyncio.wait({step, hung_up}, return_when=asyncio.FIRST_COMPLETED)
                if hung_up.done():
                    step.cancel()
                    with contextlib.suppress(asyncio.CancelledError, EdgeflError):
                        await step
                    raise ConnectionResetError
                event = step.result()
                if event is None:
                    return
                await answer(event=event)
        finally:
            hung_up.cancel()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self.path.unlink(missing_ok=True)
