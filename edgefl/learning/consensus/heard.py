"""Neighbours' models that this device holds, for this consensus step and the next.

Bounded in bytes whatever the neighbours send: MAX_HELD_BYTES for one application, shared out evenly. A neighbour has at
most two places, so none can push out another one; what has no place is remembered as an announcement, the newest of
each neighbour, and fetched when a place is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.declared import dataclass
from edgefl.learning.aggregate import is_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.wire import Contact
    from edgefl.wire.consensus import NeighbourModel

    Vector = NDArray[np.float32]

MAX_HELD_BYTES = 256 * 1024 * 1024
"""Two models of five neighbours at 25 MB. A device with a larger model holds one of each neighbour, and at the least
one at a time."""

Key = tuple[int, int]
"""(round, step) of a model."""


@dataclass(frozen=True, slots=True)
class Heard:
    """`vector`: float32 [parameters], read only; `samples` that its device trains on; `degree` of its device."""

    vector: Vector
    samples: int
    degree: int


def read_model(data: Any, parameters: int) -> Vector | None:
    """The vector in a buffer; None if it is no model of so many parameters, all finite."""
    vector = np.frombuffer(data, "<f4")
    return vector if vector.shape == (parameters,) and is_finite(vector) else None


@dataclass(frozen=True, slots=True)
class Announced:
    """A model that is there to be fetched from `sender`."""

    sender: Contact
    message: NeighbourModel

    @property
    def key(self) -> Key:
        return self.message.round, self.message.step


class HeardModels:
    """Places for models, and who has them."""

    def __init__(self, model_bytes: int) -> None:
        self.places = max(1, MAX_HELD_BYTES // model_bytes)
        self._held: dict[int, dict[Key, Heard]] = {}
        self._coming: dict[int, set[Key]] = {}
        self._next: dict[int, Announced] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values())) + sum(map(len, self._coming.values()))

    def announce(self, announced: Announced, neighbours: int) -> bool:
        """Whether to fetch this now. A model that is held, or on its way, is not fetched again; one that has no place
        waits until `waiting` gives it out."""
        sender, key = announced.sender.node_id, announced.key
        held, coming = self._held.get(sender, {}), self._coming.get(sender, set())
        if key in held or key in coming:
            return False
        quota = 2 if 2 * neighbours <= self.places else 1
        if len(held) + len(coming) >= quota and not coming and min(held) < key:
            del held[min(held)]  # the newer one is worth more
        if len(held) + len(coming) >= quota or len(self) >= self.places:
            known = self._next.get(sender)
            if known is None or known.key < key:
                self._next[sender] = announced
            return False
        self._coming.setdefault(sender, set()).add(key)
        return True

    def arrived(self, sender: int, key: Key, model: Heard | None) -> None:
        """A fetch has ended, with a model or (None) without."""
        self._coming.get(sender, set()).discard(key)
        if model is not None:
            self._held.setdefault(sender, {})[key] = model

    def waiting(self) -> list[Announced]:
        """Announcements that had no place; announce them again."""
        waiting, self._next = list(self._next.values()), {}
        return waiting

    def heard_from(self, here: Key) -> set[int]:
        """Neighbours of whom a model of this step, or a later one, is held."""
        return {sender for sender, held in self._held.items() if held and max(held) >= here}

    def take(self, here: Key, oldest_round: int, wanted: set[int]) -> dict[int, tuple[Key, Heard]]:
        """One model of each neighbour for this step: the newest that is not ahead, or else, of a neighbour that is
        `wanted`, the one that is least ahead. What is ahead stays, for its own step; the rest is forgotten."""
        taken: dict[int, tuple[Key, Heard]] = {}
        for sender in sorted(self._held):
            held = self._held[sender]
            behind = [key for key in held if key <= here and key[0] >= oldest_round]
            ahead = [key for key in held if key > here]
            if behind:
                taken[sender] = max(behind), held[max(behind)]
            elif ahead and sender in wanted:
                taken[sender] = min(ahead), held[min(ahead)]
            self._held[sender] = {key: held[key] for key in ahead}
        self._held = {sender: held for sender, held in self._held.items() if held}
        self._coming = {sender: coming for sender, coming in self._coming.items() if coming}
        return taken
