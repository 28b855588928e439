"""A program as a device of the fleet."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from edgefl.api.device import EmbeddedDaemon
from edgefl.api.events import Events
from edgefl.api.tree import Tree
from edgefl.config import Settings, control_socket, default_config, default_state, from_memory, merge, read_files
from edgefl.daemon.membership import become_member
from edgefl.errors import TryAgainError, UsageError
from edgefl.wire import node_name

if TYPE_CHECKING:
    from edgefl.api.events import Callback
    from edgefl.learning.program.broadcasts import Broadcast
    from edgefl.learning.program.root_sum import Sum

JOIN_S = 60.0
"""How long a program waits until its device has joined."""

DEADLINE_S = 30.0
"""How long the root of a tree waits for the vectors of a round, unless the program says otherwise."""

MAX_TIMERS = 64
MIN_PERIOD_S = 0.01

C = TypeVar("C", bound="Callback")


class Node:
    """One device of a fleet, inside of this program. Use as an asynchronous context:

        async with Node.join(state="state", token="file:token") as node:
            ...

    The device joins when the context is entered, and says goodbye when it is left. Everything runs on the event loop
    that entered it; methods are not to be called from other threads. Signals are the program's own business.
    """

    def __init__(self, daemon_of: Any, *, first: bool, fleet: Path, timeout_s: float) -> None:
        self._daemon_of = daemon_of
        self._first = first
        self._fleet = fleet
        self._timeout_s = timeout_s
        self._daemon: EmbeddedDaemon | None = None
        self._running: asyncio.Task[None] | None = None
        self._trees: dict[int, Tree] = {}
        self._timers: set[asyncio.Task[None]] = set()
        self._events = Events()

    @classmethod
    def join(
        cls,
        *,
        state: str | Path | None = None,
        config: str | Path | None = None,
        first: bool = False,
        fleet: str | Path | None = None,
        timeout_s: float = JOIN_S,
        **settings: Any,
    ) -> Node:
        """A device that joins when the context is entered.

        `state`: its state directory (edgefl join --state), `config`: a TOML file over those of the device, `first` and
        `fleet`: as of edgefl join. `settings` are the fields of edgefl.config.Settings, which stand over the files:
        token="file:token", bootstrap=["192.168.1.20:7321"], listen="0.0.0.0:0", data={"digits": "/data/digits.npz"} …

        Raises UsageError for a setting that there is not. Entering raises what ends edgefl join: ConfigError (also when
        a daemon uses this state directory already), NotAdmittedError, StorageError; and TryAgainError when nobody has
        let the device in after `timeout_s` seconds.
        """
        known = {item.name for item in fields(Settings)}
        for name in settings:
            if name not in known:
                raise UsageError(f"no setting {name!r}", hint=f"settings are {', '.join(sorted(known))}")
        place = Path(state) if state is not None else None
        file = Path(config) if config is not None else None

        def read(kept: bytes | None) -> Settings:
            return merge(from_memory(kept), read_files(file), settings)

        def daemon_of(node: Node) -> EmbeddedDaemon:
            return EmbeddedDaemon(place or default_state(), control_socket(place), read, Mail(node._trees))

        return cls(daemon_of, first=first, fleet=Path(fleet or default_config()), timeout_s=timeout_s)

    async def __aenter__(self) -> Node:
        if self._daemon is not None:
            raise UsageError("this node was entered before", hint="make another one with Node.join")
        daemon = self._daemon = self._daemon_of(self)
        try:
            become_member(daemon, first=self._first, fleet=self._fleet)
        except BaseException:
            daemon.store.close()
            raise
        self._running = asyncio.get_running_loop().create_task(daemon.run(first=self._first, signals=False))
        joined = asyncio.ensure_future(daemon.joined.wait())
        try:
            await asyncio.wait({self._running, joined}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._running.done():
                self._running.result()  # raises what has ended it
            if not joined.done():
                raise TryAgainError(
                    f"not in the fleet after {self._timeout_s:g} s", hint="edgefl doctor --state … shows who answers"
                )
        except BaseException:
            await self._stop(quiet=True)
            raise
        finally:
            joined.cancel()
        self._events.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        for tree in list(self._trees.values()):
            await tree.leave()
        await self._events.stop()
        await self._stop(quiet=error is not None)

    async def _stop(self, *, quiet: bool) -> None:
        """Let the daemon say goodbye; what it could not go on for is raised unless there is another error already."""
        if self._daemon is not None and self._running is not None:
            self._daemon.stop()
            with contextlib.suppress(*([Exception] if quiet else [])):
                await self._running

    async def ended(self) -> None:
        """Wait until the device cannot go on (revoked, for one) and raise why; or for ever."""
        if self._running is None:
            raise UsageError("this node has not joined", hint="async with Node.join(…) as node")
        await asyncio.shield(self._running)

    # Trees

    async def create_tree(self, name: str, *, values: int = 1, deadline_s: float = DEADLINE_S) -> Tree:
        """The tree of this name, which is one and the same for all programs of the fleet that create it; nobody has to
        be the first. `values`: how many numbers its sums have, the same everywhere; `deadline_s`: how long its root
        waits for the vectors of a round. Raises UsageError for bad values, or beyond MAX_TREES trees
        (edgefl/learning/program/programs.py).
        """
        programs = self._entered.programs
        if programs is None:
            raise UsageError("the device is not up", hint="wait until it has joined")
        made = programs.create(name, values=values, deadline_s=deadline_s)
        for left in self._trees.keys() - programs.trees.keys():
            del self._trees[left]
        tree = self._trees[made.id] = Tree(self._entered, made)
        return tree

    def tree(self, name: str) -> Tree:
        """The tree of this name that this program has created. Raises UsageError."""
        for tree in self._trees.values():
            if tree.name == name:
                return tree
        raise UsageError(f"this program has no tree {name!r}", hint=f"await node.create_tree({name!r}) first")

    # The same calls by the tree's name, as in Totoro's table 2

    async def subscribe(self, name: str) -> Tree:
        """See Tree.subscribe."""
        tree = self.tree(name)
        await tree.subscribe()
        return tree

    async def broadcast(self, name: str, payload: bytes) -> None:
        """See Tree.broadcast."""
        await self.tree(name).broadcast(payload)

    def on_broadcast(self, name: str, callback: C) -> C:
        """See Tree.on_broadcast."""
        return self.tree(name).on_broadcast(callback)

    def aggregate(self, name: str, round: int, vector: Any, weight: int = 1) -> bool:
        """See Tree.aggregate."""
        return self.tree(name).aggregate(round, vector, weight)

    def on_aggregate(self, name: str, callback: C) -> C:
        """See Tree.on_aggregate."""
        return self.tree(name).on_aggregate(callback)

    # Timers

    def on_timer(self, seconds: float, callback: C) -> C:
        """Call `callback()` every so many seconds, the first time after that long. One that takes longer is not called
        a second time meanwhile. Raises UsageError for less than MIN_PERIOD_S, or beyond MAX_TIMERS."""
        if not seconds >= MIN_PERIOD_S or len(self._timers) >= MAX_TIMERS:
            raise UsageError(
                f"a timer of {seconds:g} s, beside {len(self._timers)} others",
                hint=f"up to {MAX_TIMERS} timers of at least {MIN_PERIOD_S:g} s",
            )

        async def tick() -> None:
            while True:
                await asyncio.sleep(seconds)
                await self._events.call(callback)

        self._timers.add(asyncio.get_running_loop().create_task(tick()))
        return callback

    # The device

    @property
    def id(self) -> str:
        """The node id: 16 hexadecimal digits."""
        return node_name(self._entered.keys.node_id)

    @property
    def address(self) -> str:
        """HOST:PORT of this device's door: what others are told as bootstrap."""
        return str(self._entered.overlay.contact).partition("@")[2]

    def status(self) -> dict[str, Any]:
        """What `edgefl status --json` shows of this device, with its trees under `trees`."""
        return self._entered.status()

    @property
    def _entered(self) -> EmbeddedDaemon:
        if self._daemon is None or self._running is None:
            raise UsageError("this node has not joined", hint="async with Node.join(…) as node")
        return self._daemon


class Mail:
    """Brings what happens in trees to them: `Listener` of edgefl.learning.program.tree."""

    def __init__(self, trees: dict[int, Tree]) -> None:
        self._trees = trees

    def on_broadcast(self, tree: int, broadcast: Broadcast) -> None:
        if tree in self._trees:
            self._trees[tree]._heard(broadcast)

    def on_published(self, tree: int, serial: int, *, delivered: bool) -> None:
        if tree in self._trees:
            self._trees[tree]._settled(serial, delivered)

    def on_sum(self, tree: int, result: Sum) -> None:
        if tree in self._trees:
            self._trees[tree]._summed(result)
