"""Which devices train in a round, and how many of them must deliver: sampling by a threshold, without any list.

The root makes up a threshold from how many devices it wants and how many there are. It travels with the round; each
device compares it with a hash of the round's name and its own id, under the application's salt as key. Every device can
compute every other's lot, so none can pick its own, and each round (and each attempt) draws afresh. The number of those
that are drawn is binomial, so a few more are asked than are wanted; so are those that fail or are slow (over-selection:
Bonawitz et al., Towards Federated Learning at Scale, MLSys 2019).
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from edgefl.learning.pace import parse_pace
from edgefl.wire.learning import EVERYBODY, RoundKind

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag
    from edgefl.learning.forest.application import ForestApplication


SCATTER = 0.5
"""Of applications that share a fleet, how many devices work for one at a moment is left to chance: this share of the
usual number is a full round."""

KEPT = 0.5
"""What the number so far counts for in the usual one."""


def threshold_for(wanted: int, over: float, members: int) -> int:
    """The threshold below which about wanted * (1 + over) of `members` devices lie. 0 wanted: everybody."""
    share = wanted * (1 + over) / max(1, members)
    return EVERYBODY if wanted <= 0 or share >= 1 else int(share * 2**64)


def is_selected(salt: bytes, tag: Tag, node_id: int, threshold: int) -> bool:
    """Whether a device trains in the round of this name."""
    if threshold >= EVERYBODY:
        return True
    epoch, number, attempt = tag
    digest = hashlib.blake2b(digest_size=8, key=salt, person=b"edgefl select")
    digest.update(b"".join(part.to_bytes(8, "big") for part in (epoch, number, attempt, node_id)))
    return int.from_bytes(digest.digest(), "big") < threshold


class Selection:
    """The root's count of the devices: whom a round asks, and when it has enough.

    `members`: devices that are in the tree now, or were in the last round. A part of the fleet that is cut off from the
    rest must not train on by itself as if it were the whole: the quorum counts those who were there before, too, and
    where only some are asked it has to be in the tree (`present`), or a small part would draw a full lot in the end.
    """

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self.members = 1
        self._wanted = 0
        self._shared = False
        self._usual = 0.0  # devices in a round that is shared, of late

    def begin(self) -> None:
        """A round, or an attempt, is about to start."""
        self.members = self._count()

    def draw(self, kind: RoundKind) -> int:
        """The threshold of a round; everybody evaluates the final model."""
        manifest, training = self._app.manifest, kind is RoundKind.TRAIN
        self._wanted = manifest.select if training else 0
        self._shared = bool(manifest.together) and training
        return threshold_for(self._wanted, manifest.over_select, self.members)

    def recount(self) -> None:
        """A subtree that moves is counted at both its parents for a moment. Some move as a round begins and others as
        it ends, so the least that is seen in between counts."""
        self.members = min(self.members, self._count())

    def observe(self, participants: int) -> None:
        """A round, or an attempt, is over."""
        if self._shared:
            self._usual = KEPT * self._usual + (1 - KEPT) * participants

    @property
    def expected(self) -> int:
        """Devices that would be a full round."""
        if self._shared:
            return max(1, min(round(SCATTER * self._usual), self.members))
        return min(self._wanted, self.members) or self.members

    @property
    def quorum(self) -> int:
        """Devices without which a round does not count."""
        return max(1, math.ceil(self._app.manifest.quorum * self.expected - 1e-9))

    @property
    def present(self) -> bool:
        """Whether a quorum of all devices is there."""
        return self._in_tree() >= self._app.manifest.quorum * self.members - 1e-9

    @property
    def enough(self) -> int:
        """Devices after which the root waits no longer; 0: for all. What is buffered is never cut off."""
        return 0 if parse_pace(self._app.manifest.pace).buffered else self._wanted

    def _count(self) -> int:
        ledger = self._app.ledger
        record = ledger.history.get(ledger.round)
        manifest = self._app.manifest
        some = manifest.select or manifest.together
        before = 0 if record is None else record.members if some else record.participants
        return max(self._in_tree(), before)

    def _in_tree(self) -> int:
        tree = self._app.tree
        return max(1, tree.members if tree is not None else 1)
