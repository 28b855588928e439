"""What training leaves on this device for its own next round, and what never travels: SCAFFOLD's c_i, personal tensors.

A round's result counts from the moment at which the next round begins: then this device's part of it is in the model.
Until then it waits in memory, and a round that is tried again begins with what the round before left. A control variate
belongs to what was sent, so it is given up with an update that the parent has refused, or that was still on its way
when the next round began; personal tensors are the device's own, and stay as they were trained.

A device that loses its power between a round and the next goes on with what the round before left. Memory: one vector
while training, one while waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.learning.strategies.spec import parse_strategy

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag
    from edgefl.learning.forest.application import ForestApplication

KEPT = "kept"
"""The name under which it is made durable."""


class Kept:
    """One application's; does nothing where nothing is kept."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self._controls = parse_strategy(app.manifest.strategy).controls
        self._wanted = self._controls or bool(app.manifest.personal)
        self._held: Any = None
        self._waiting: tuple[int, Any] | None = None  # round, what it left

    def begin(self, tag: Tag) -> bool:
        """A round begins: what the last one left counts now, if it was another. Whether the rest takes until
        `on_recalled`."""
        if not self._wanted:
            return False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] < tag[1]:
            self._held = waiting[1]
            self.app.effects.remember(self.app.id, self._held, KEPT)
        if self._held is not None:
            return False
        self.app.effects.recall(self.app.id, (KEPT, tag))
        return True

    def on_recalled(self, data: Any) -> None:
        """What was made durable last, or None."""
        self._held = data

    @property
    def held(self) -> Any:
        """What a round of training begins with: a buffer of float32, or None."""
        return self._held

    def on_trained(self, tag: Tag, data: Any) -> None:
        """A round has left this."""
        if self._wanted and data is not None:
            self._waiting = (tag[1], data)
            self._held = None

    def on_lost(self) -> None:
        """The update of the last round did not arrive."""
        if self._controls:
            self._waiting = None
