"""Our own calls at others' doors, and what they teach us: cards, where we were seen, and whether we were dialled back.

A door that has too many visitors is tried again. A host that says that it reached our own door is believed only if it
was seen there, since we knocked.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from random import Random

from edgefl.errors import TryAgainError
from edgefl.transport.door_exchange import DialBack
from edgefl.transport.outside import OutsideAddress
from edgefl.transport.timing import Timing
from edgefl.transport.visit import Knocked, Visitor

KNOCK_ATTEMPTS = 4
"""Knocks at a door where too many others knock at the same time, two seconds in all."""

MAX_VISITS = 256
"""Visitors at our door whose time is remembered."""


class Calls:
    """All knocks of one device. `outside` is what they have told about its own address."""

    def __init__(self, visitor: Visitor, timing: Timing, random: Random) -> None:
        self.outside = OutsideAddress()
        self._visitor = visitor
        self._timing = timing
        self._random = random
        self._visited: dict[int, float] = {}

    def on_visitor(self, node_id: int) -> None:
        """This device has passed our door."""
        self._visited.pop(node_id, None)
        self._visited[node_id] = asyncio.get_running_loop().time()
        if len(self._visited) > MAX_VISITS:
            del self._visited[next(iter(self._visited))]

    async def once(self, host: str, port: int, expect: int | None, *, dial_back: bool = False) -> Knocked:
        """Knock. Raises as `Visitor.knock`."""
        began = asyncio.get_running_loop().time()
        knocked = await self._visitor.knock(host, port, expect=expect, dial_back=dial_back)
        node_id = knocked.card.contact.node_id
        self.outside.note(node_id, knocked.seen)
        if knocked.clock:
            self.outside.note_clock(node_id, knocked.clock - time.time())
        if knocked.dial_back is DialBack.REACHED and self._visited.get(node_id, -1.0) < began:
            return replace(knocked, dial_back=DialBack.NOT_TRIED)
        return knocked

    async def patiently(self, host: str, port: int, expect: int | None, *, dial_back: bool) -> Knocked:
        """Knock, again while others are served. Raises as `Visitor.knock`."""
        attempt = 0
        while True:
            try:
                return await self.once(host, port, expect, dial_back=dial_back)
            except TryAgainError:
                attempt += 1
                if attempt == KNOCK_ATTEMPTS:
                    raise
                await asyncio.sleep(self._timing.backoff_first * 2.0 ** (attempt - 1) * (0.5 + self._random.random()))
