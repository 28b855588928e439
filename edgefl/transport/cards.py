"""What we know about other devices' doors, and who is being asked right now.

A card outlives its links: with one at hand a link opens without knocking. It can be wrong at any time (the device was
restarted with other ports, or forgot us); then it is forgotten and the door is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from edgefl.errors import EdgeflError, UnreachableError
from edgefl.transport.visit import Card, Knocked
from edgefl.wire.contact import Contact

log = logging.getLogger(__name__)

MAX_CARDS = 2048
"""Devices whose door we remember, about 300 bytes each. The least recently learnt goes first."""

MAX_KNOCKS = 16
"""Doors that we knock at at the same time; further ones wait. After a power cut everybody has everybody to ask."""


MAX_SHUT = 32
"""Doors remembered for not opening: for people to read."""


class Cards:
    """Cards by node id. `knock(host, port, node_id)` asks a door."""

    def __init__(self, knock: Callable[[str, int, int], Awaitable[Knocked]]) -> None:
        self._knock = knock
        self._cards: dict[int, Card] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._waiting: dict[int, list[Callable[[Card | EdgeflError], None]]] = {}
        self.shut: dict[int, tuple[Contact, str]] = {}
        """Doors that did not open when they were last asked, and why; the newest MAX_SHUT."""
        self._places = asyncio.Semaphore(MAX_KNOCKS)

    def get(self, node_id: int) -> Card | None:
        return self._cards.get(node_id)

    def learn(self, card: Card) -> None:
        """Remember a card, unless it is older than the one at hand."""
        self.shut.pop(card.contact.node_id, None)
        known = self._cards.pop(card.contact.node_id, None)
        if known is not None and known.contact.incarnation > card.contact.incarnation:
            card = known
        self._cards[card.contact.node_id] = card
        while len(self._cards) > MAX_CARDS:
            del self._cards[next(iter(self._cards))]

    def forget(self, node_id: int) -> None:
        self._cards.pop(node_id, None)

    def ask(self, contact: Contact, then: Callable[[Card | EdgeflError], None]) -> None:
        """Knock at this device's door and call `then` with its card or with the error. One knock serves all who ask."""
        node_id = contact.node_id
        self._waiting.setdefault(node_id, []).append(then)
        if node_id not in self._asking:
            self._asking[node_id] = asyncio.create_task(self._ask(contact))

    async def close(self) -> None:
        """Stop asking; nobody is called any more."""
        tasks = list(self._asking.values())
        self._waiting.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, contact: Contact) -> None:
        outcome: Card | EdgeflError
        try:
            async with self._places:
                outcome = (await self._knock(contact.host, contact.port, contact.node_id)).card
            # A proved card replaces whatever was known, whatever incarnation hearsay gave the device.
            self._cards.pop(contact.node_id, None)
            self.learn(outcome)
        except EdgeflError as error:
            outcome = error
            self.shut.pop(contact.node_id, None)
            self.shut[contact.node_id] = (contact, error.cause)
            if len(self.shut) > MAX_SHUT:
                del self.shut[next(iter(self.shut))]
        except Exception as error:  # a bug must not leave everybody who asked waiting for ever
            log.exception("unexpected error while knocking at %s", contact)
            outcome = UnreachableError(f"cannot knock at {contact}: {error}")
        finally:
            del self._asking[contact.node_id]
        for then in self._waiting.pop(contact.node_id, ()):
            then(outcome)
