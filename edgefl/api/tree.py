"""A tree of the program's own: all devices that subscribe to its name, below the highest-ranked of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from edgefl.api.events import Events
from edgefl.errors import TryAgainError, UsageError
from edgefl.learning.program.broadcasts import MAX_PENDING, Broadcast
from edgefl.learning.program.root_sum import Sum
from edgefl.learning.program.tree import ProgramTree
from edgefl.wire import node_name
from edgefl.wire.program import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from edgefl.api.device import EmbeddedDaemon
    from edgefl.api.events import Callback

PLACE_S = 30.0
"""How long a device looks for its place in a tree before `subscribe` gives up waiting."""

BROADCAST_S = 30.0
"""How long `broadcast` waits for the root."""

GRACE_S = 1.0
POLL_S = 0.05

C = TypeVar("C", bound="Callback")


class Tree:
    """Made by `Node.create_tree`. Callbacks are given before `subscribe`, so that nothing is missed."""

    def __init__(self, daemon: EmbeddedDaemon, tree: ProgramTree) -> None:
        self._daemon = daemon
        self._tree = tree
        self._events = Events()
        self._published: dict[int, asyncio.Future[bool]] = {}
        self._broadcast_callback: Callback | None = None
        self._aggregate_callback: Callback | None = None
        self._subscribed = False

    # Taking part

    async def subscribe(self, *, timeout_s: float = PLACE_S) -> None:
        """Take part, and return when this device has its place in the tree. Raises TryAgainError when it has none
        after `timeout_s` seconds; it goes on looking for one all the same."""
        if not self._subscribed:
            self._subscribed = True
            self._events.start()
            self._tree.join(self._now)
        deadline = self._now + timeout_s
        while not self._placed:
            if self._now >= deadline:
                raise TryAgainError(
                    f"no place in the tree {self.name!r} after {timeout_s:g} s", hint="it is still being looked for"
                )
            await asyncio.sleep(POLL_S)

    async def leave(self) -> None:
        """Take part no longer. The tree goes on without this device."""
        programs = self._daemon.programs
        if programs is not None:
            programs.drop(self._tree, self._now)
        for future in self._published.values():
            future.cancel()
        self._published.clear()
        await self._events.stop()
        self._subscribed = False

    # Broadcasts

    async def broadcast(self, payload: bytes, *, timeout_s: float = BROADCAST_S) -> None:
        """Send up to MAX_PAYLOAD_BYTES bytes to every member, this one included, through the root. Returns when the
        root has given it its place in the order, and it has come down to this device.

        Raises UsageError for what cannot be sent, TryAgainError when the root has not answered in time (it may have
        gone out all the same), or when too many wait already.
        """
        self._need_place()
        if not isinstance(payload, (bytes, bytearray, memoryview)) or len(bytes(payload)) > MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"a broadcast is up to {MAX_PAYLOAD_BYTES} bytes",
                hint="what is larger belongs into the model of an application, or behind an address that is broadcast",
            )
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # Alone, the root numbers it at once: the answer may come before there is a serial to wait for.
        serial = self._tree.broadcasts.next_serial
        self._published[serial] = future
        try:
            if self._tree.publish(bytes(payload), self._now, timeout_s) is None:
                raise TryAgainError(f"{MAX_PENDING} broadcasts wait for the root", hint="wait until they are out")
            delivered = await asyncio.wait_for(future, timeout_s + GRACE_S)
        except asyncio.TimeoutError:
            delivered = False  # the device has stopped meanwhile
        finally:
            self._published.pop(serial, None)
        if not delivered:
            raise TryAgainError(
                f"the root did not answer for {timeout_s:g} s", hint="the tree may be repairing itself; send it again"
            )

    def on_broadcast(self, callback: C) -> C:
        """Call `callback(broadcast)` for every broadcast (`payload`, `sender`), in the order that all members see. Also
        a decorator."""
        self._broadcast_callback = callback
        return callback

    # Sums

    def aggregate(self, round: int, vector: Any, weight: int = 1) -> bool:
        """Give this device's vector (`values` numbers, taken as float32) for a round, which any number names.

        The root hears the mean of all members' vectors, weighted by `weight` (1 to a million: how many readings the
        vector stands for). False when the round is over already. Raises UsageError for a vector that does not fit,
        a second one for the same round, or too many open rounds.
        """
        import numpy as np

        self._need_place()
        if type(round) is not int or not 0 <= round < 1 << 64 or type(weight) is not int:
            raise UsageError(f"round {round!r}, weight {weight!r}", hint="both are whole numbers, a round of 64 bits")
        try:
            own = np.array(vector, np.float32, copy=True).reshape(-1)
        except (TypeError, ValueError):
            raise UsageError("a vector is an array of numbers", hint="for example [21.5]") from None
        return self._tree.give(round, own, weight, self._now)

    def on_aggregate(self, callback: C) -> C:
        """Call `callback(result)` where this device is the root and a round is over: `round`, `mean` (float32
        [values]), `weight`, `participants`. Also a decorator."""
        self._aggregate_callback = callback
        return callback

    # Where this device stands

    @property
    def name(self) -> str:
        return self._tree.name

    @property
    def id(self) -> str:
        """Of the tree: 16 hexadecimal digits, the same on all devices."""
        return f"{self._tree.id:016x}"

    @property
    def is_root(self) -> bool:
        return self._tree.is_root

    @property
    def parent(self) -> str | None:
        """Node id, or None."""
        parent = self._tree.parent
        return node_name(parent.node_id) if parent is not None else None

    @property
    def members(self) -> int:
        """Devices in the subtree of this one; at the root, in the tree, as far as it has been told."""
        return self._tree.members

    @property
    def counters(self) -> dict[str, int]:
        """What was late, repeated or refused; `callbacks_failed` and `callbacks_dropped` of the program's own."""
        return {
            **self._tree.counters,
            "callbacks_failed": self._events.failed,
            "callbacks_dropped": self._events.dropped,
        }

    # What the node passes on

    def _heard(self, broadcast: Broadcast) -> None:
        self._events.put(self._broadcast_callback, broadcast)

    def _summed(self, result: Sum) -> None:
        self._events.put(self._aggregate_callback, result)

    def _settled(self, serial: int, delivered: bool) -> None:
        future = self._published.get(serial)
        if future is not None and not future.done():
            future.set_result(delivered)

    @property
    def _now(self) -> float:
        return self._daemon.effects.now

    @property
    def _placed(self) -> bool:
        return self._tree.is_root or self._tree.parent is not None

    def _need_place(self) -> None:
        if not self._subscribed:
            raise UsageError(f"this device is not in the tree {self.name!r}", hint="await tree.subscribe() first")
