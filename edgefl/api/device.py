"""The daemon inside of a program: the same composition root, and the program's trees beside the applications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefl.config import Settings
from edgefl.daemon.daemon import Daemon
from edgefl.effects import TimerKey
from edgefl.learning.program.programs import Programs
from edgefl.learning.program.tree import Listener, ProgramTree
from edgefl.wire import Contact, Message, node_name


class EmbeddedDaemon(Daemon):
    """A daemon that also dispatches the events of a program's trees. `listener` hears what comes of them."""

    def __init__(
        self, state: Path, socket_path: Path, settings: Callable[[bytes | None], Settings], listener: Listener
    ) -> None:
        super().__init__(state, socket_path, settings)
        self._program = listener
        self.programs: Programs | None = None

    async def _build(self) -> None:
        await super()._build()
        self.programs = Programs(self.overlay, self.effects, self._program)

    def _on_message(self, sender: Contact, message: Message) -> None:
        if self.programs is None or not self.programs.on_message(sender, message, self.effects.now):
            super()._on_message(sender, message)

    def _on_timer(self, key: TimerKey, now: float) -> None:
        if self.programs is None or not self.programs.on_timer(key, now):
            super()._on_timer(key, now)

    def on_root(self, app: int, now: float) -> None:
        super().on_root(app, now)
        if self.programs is not None:
            self.programs.on_root(app, now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        super().on_parent(app, parent, now)
        if self.programs is not None:
            self.programs.on_parent(app, parent, now)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        super().on_child(app, child, observer, now)
        if self.programs is not None:
            self.programs.on_child(app, child, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        super().on_child_gone(app, child, now)
        if self.programs is not None:
            self.programs.on_child_gone(app, child, now)

    def status(self) -> dict[str, Any]:
        """With the program's trees."""
        trees = self.programs.trees.values() if self.programs is not None else ()
        return {**super().status(), "trees": [tree_document(tree) for tree in trees]}


def tree_document(tree: ProgramTree) -> dict[str, Any]:
    """One tree of a program, as `edgefl status --json` shows it."""
    place, parent = tree.place, tree.parent
    return {
        "id": f"{tree.id:016x}",
        "name": tree.name,
        "joined": place is not None,
        "is_root": tree.is_root,
        "parent": node_name(parent.node_id) if parent is not None else None,
        "children": [node_name(child.node_id) for child in tree.children()],
        "members": tree.members,
        "broadcasts": list(tree.broadcasts.newest),
        "open_rounds": sorted(tree.sums.open),
        "counters": dict(tree.counters),
    }
