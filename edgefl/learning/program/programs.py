"""All trees of one program, and which event belongs to which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.errors import UsageError
from edgefl.learning.program.tree import Listener, ProgramTree, Trees
from edgefl.wire import Contact, Message
from edgefl.wire.program import (
    MAX_VALUES,
    ProgramBroadcast,
    ProgramPublish,
    ProgramStanding,
    ProgramSum,
    ProgramSumAck,
)

if TYPE_CHECKING:
    from edgefl.effects import Effects, TimerKey

MAX_TREES = 8
"""Of one program; each holds 3 MiB at the most."""

MESSAGES = (ProgramBroadcast, ProgramPublish, ProgramStanding, ProgramSum, ProgramSumAck)

MAX_NAME_BYTES = 64
MIN_DEADLINE_S, MAX_DEADLINE_S = 1.0, 24 * 3600.0


class Programs:
    """Dispatches events to trees. Pure, like everything in this room."""

    def __init__(self, trees: Trees, effects: Effects, listener: Listener) -> None:
        self.trees: dict[int, ProgramTree] = {}
        self._overlay = trees
        self._effects = effects
        self._listener = listener

    def create(self, name: str, *, values: int, deadline_s: float) -> ProgramTree:
        """A tree, which this device has not joined yet. Raises UsageError."""
        if not name.strip() or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise UsageError(f"{name!r} cannot be a tree's name", hint=f"readable text of up to {MAX_NAME_BYTES} bytes")
        if not 1 <= values <= MAX_VALUES:
            raise UsageError(f"sums of {values} values", hint=f"1 to {MAX_VALUES}; more is an application's model")
        if not MIN_DEADLINE_S <= deadline_s <= MAX_DEADLINE_S:
            raise UsageError(f"a deadline of {deadline_s:g} s", hint=f"{MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g}")
        tree = ProgramTree(
            name,
            values=values,
            deadline_s=deadline_s,
            trees=self._overlay,
            effects=self._effects,
            listener=self._listener,
        )
        if tree.id in self.trees:
            raise UsageError(f"tree {name!r} exists here already", hint="use the one that was created")
        if len(self.trees) >= MAX_TREES:
            raise UsageError(f"this program has {MAX_TREES} trees already", hint="leave one of them first")
        self.trees[tree.id] = tree
        return tree

    def drop(self, tree: ProgramTree, now: float) -> None:
        if self.trees.pop(tree.id, None) is not None:
            tree.leave(now)

    def on_root(self, app: int, now: float) -> None:
        if app in self.trees:
            self.trees[app].on_root(now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        if app in self.trees:
            self.trees[app].on_parent(parent, now)

    def on_child(self, app: int, child: Contact, now: float) -> None:
        if app in self.trees:
            self.trees[app].on_child(child, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        if app in self.trees:
            self.trees[app].on_child_gone(child, now)

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        """False when the message is not a program's: those of the overlay name the same trees."""
        if not isinstance(message, MESSAGES):
            return False
        tree = self.trees.get(message.app)
        if tree is not None:
            tree.on_message(sender, message, now)
        return True

    def on_timer(self, key: TimerKey, now: float) -> bool:
        """False when the timer is not a program's."""
        if len(key) != 3 or key[0] != "program":
            return False
        _, app, name = key
        tree = self.trees.get(app) if isinstance(app, int) else None
        if tree is not None:
            tree.on_timer(str(name), now)
        return True
