"""Push-sum between neighbours, as one that takes: models that are held until their givers have granted a share.

A device claims a share with every model that it has fetched, one of each giver at a time, and repeats the claim until
it is answered (push_sum.py says why that loses and doubles nothing). A model whose claim was answered is taken: an
older one of the same giver is of no use any more. A giver that is no neighbour any more takes its open claim with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefl.learning.consensus.push_sum import Mass
from edgefl.wire.consensus import Mass as MassMessage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.learning.consensus.heard import Key
    from edgefl.learning.effects import LearningEffects
    from edgefl.wire import Contact

    Vector = NDArray[np.float32]

NOTHING: Key = (-1, 0)
"""Before every model."""


class Claims:
    """Of one device, whose `mass` grows by what is granted."""

    def __init__(self, app: int, effects: LearningEffects, mass: Mass) -> None:
        self._app = app
        self._effects = effects
        self._mass = mass
        self._givers: dict[int, Contact] = {}
        self._taken: dict[int, Key] = {}

    def __contains__(self, giver: int) -> bool:
        """Whether a claim on this giver is open."""
        return giver in self._givers

    def open(self, giver: Contact, key: Key, model: Vector) -> None:
        """Claim a share with this model, if none is claimed of its giver."""
        if giver.node_id not in self:
            self._givers[giver.node_id] = giver
            self._mass.claim(giver.node_id, key, model)
            self._effects.send(giver, MassMessage(self._app, *key))

    def repeat(self) -> None:
        """All that are open: they, or their answers, may have been lost."""
        for giver, key in self._mass.claims.items():
            self._effects.send(self._givers[giver], MassMessage(self._app, *key))

    def repeat_to(self, giver: Contact) -> None:
        claimed = self._mass.claims.get(giver.node_id)
        if claimed is not None:
            self._effects.send(giver, MassMessage(self._app, *claimed))

    def on_grant(self, giver: int, key: Key, mass: float) -> bool:
        """Whether this answers an open claim."""
        if not self._mass.on_grant(giver, key, mass):
            return False
        self._taken[giver] = key
        del self._givers[giver]
        return True

    def forget_strangers(self, is_neighbour: Callable[[int], bool]) -> None:
        """Neighbours may be others now: shares of those that are gone are gone with them."""
        for gone in [giver for giver in self._givers if not is_neighbour(giver)]:
            self._mass.forget(gone)
            del self._givers[gone]
        self._taken = {giver: key for giver, key in self._taken.items() if is_neighbour(giver)}

    # What was taken

    def newest(self, giver: int) -> Key:
        """The newest model of this giver that was taken, or NOTHING."""
        return self._taken.get(giver, NOTHING)

    def taken_since(self, key: Key) -> set[int]:
        """Givers of whom this model, or a later one, was taken."""
        return {giver for giver, newest in self._taken.items() if newest >= key}

    def rounds(self) -> list[int]:
        """Of the newest models that were taken, one for each giver."""
        return [key[0] for key in self._taken.values()]
