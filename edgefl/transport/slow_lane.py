"""Who was too slow to be pushed to, how often, and when they get another chance."""

from __future__ import annotations

from edgefl.declared import dataclass

SLOW_S, MAX_SLOW_S = 60.0, 3600.0
"""In the slow lane the first time, and at most; twice as long each time. A chance costs what is queued until then."""

MAX_SLOW = 1024
"""Children remembered as slow; the oldest is forgotten, and found slow again."""


@dataclass(slots=True)
class _Slow:
    """A child that was cut off so many `times`; `next`: its next connection is for the slow lane."""

    times: int = 0
    next: bool = False


class SlowLane:
    """The children that were cut off, by node id."""

    def __init__(self) -> None:
        self._children: dict[int, _Slow] = {}

    def cut_off(self, node_id: int) -> None:
        """Its next connection is for the slow lane."""
        slow = self._children[node_id] = self._children.pop(node_id, _Slow())
        slow.times, slow.next = slow.times + 1, True
        if len(self._children) > MAX_SLOW:
            del self._children[next(iter(self._children))]

    def takes(self, node_id: int) -> bool:
        """Whether this new connection is for the slow lane; the next one is not."""
        slow = self._children.get(node_id) or _Slow()
        was, slow.next = slow.next, False
        return was

    def seconds(self, node_id: int) -> float:
        """How long it stays there."""
        slow = self._children.get(node_id)
        return 0.0 if slow is None else min(MAX_SLOW_S, SLOW_S * 2.0 ** (slow.times - 1))
