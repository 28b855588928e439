"""The other members of an application that one device knows: possible parents, runners-up, and those that failed it.

All of it is hearsay (from the tracker and from refusals) until the member itself answers, so it is bounded, and what
has not answered or has refused is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.proposals import TOP
from edgefl.overlay.rank import Rank, can_be_parent, is_helper, rank
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_FAILED, Scope

SPARE_PARENTS = 3
"""Possible parents that an attached leaf remembers: two may die with its parent."""

MAX_POOL = 48
"""Members known: two answers of a tracker. The ones heard of last stay."""


class CandidatePool:
    """Members of one application, as one of its devices knows them."""

    __slots__ = (
        "_above",
        "_app",
        "_device",
        "_failed",
        "_known",
        "_liveness",
        "_observer",
        "_scope",
        "_shunned",
        "_silent",
    )

    def __init__(self, device: Device, liveness: Liveness, app: int, scope: Scope, observer: bool) -> None:
        self._device = device
        self._liveness = liveness
        self._app = app
        self._scope = scope
        self._observer = observer
        self._known: dict[int, Contact] = {}
        self._shunned: dict[int, tuple[Contact, float]] = {}
        self._failed: dict[int, float] = {}
        self._silent: dict[int, float] = {}
        self._above: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return max(len(self._known), len(self._shunned), len(self._failed), len(self._silent))

    def standing(self) -> Rank:
        """Our own rank."""
        return rank(self._device.contact, self._app, self._observer)

    def may_be_parent(self, contact: Contact) -> bool:
        """It outranks us, can be dialled, and is inside the application's scope."""
        place = rank(contact, self._app)
        in_scope = self._scope is Scope.GLOBAL or contact.zone == self._device.contact.zone
        return in_scope and place > self.standing() and can_be_parent(place)

    def fallbacks(self, now: float) -> list[Contact]:
        """All parents that may be asked, whatever their zone."""
        return [
            contact
            for contact in self._known.values()
            if self.may_be_parent(contact)
            and not self.is_shunned(contact.node_id, now)
            and not self._liveness.is_buried(contact, now)
        ]

    def targets(self, now: float) -> list[Contact]:
        """Parents worth asking: those of our zone if there are any, else those of other zones."""
        higher = self.fallbacks(now)
        own_zone = [contact for contact in higher if contact.zone == self._device.contact.zone]
        return own_zone or higher

    def highest(self, count: int, others: Iterable[Contact]) -> tuple[Contact, ...]:
        """Of those known here and the `others`, the highest-ranked that are not known to be dead. Helpers, which may
        leave, are none of them."""
        self._forgive_those_heard()
        everybody = {**self._known, **{contact.node_id: contact for contact in others}}
        live = [
            c
            for i, c in everybody.items()
            if i not in self._failed and not self._liveness.has_buried(i) and not is_helper(rank(c, self._app))
        ]
        return tuple(sorted(live, key=lambda contact: rank(contact, self._app), reverse=True)[:count])

    def proposed(self, members: Sequence[Contact]) -> None:
        """The tracker's answer begins with the members of highest rank: perhaps we know now who outranks us."""
        self.learn(members)
        top, standing = [c for c in members[:TOP] if c.node_id != self._device.node_id], self.standing()
        above = tuple(c.node_id for c in top if rank(c, self._app) > standing)
        self._above = above if len(above) < TOP else None

    def is_next(self) -> bool:
        """We were told everybody who outranks us, and have found all of them dead ourselves: ours is the highest rank
        now. (A newcomer of whom we have not heard yet is named by the tracker's next answer.)"""
        return self._above is not None and all(self._liveness.has_buried(node_id) for node_id in self._above)

    def learn(self, contacts: Iterable[Contact]) -> None:
        for contact in contacts:
            if contact.node_id in self._shunned and contact.incarnation > self._shunned[contact.node_id][0].incarnation:
                self._forgive(contact.node_id)  # it has restarted, or moved, since it failed us
            known = self._known.pop(contact.node_id, contact)
            if contact.node_id != self._device.node_id:
                self._known[contact.node_id] = contact if contact.incarnation >= known.incarnation else known
        while len(self._known) > MAX_POOL:
            del self._known[next(iter(self._known))]

    def keep_spares(self, parent: int, now: float) -> None:
        """A leaf that has a parent remembers the three nearest others, and no runners-up: it is never a root."""
        others = [contact for contact in self.targets(now) if contact.node_id != parent]

        def distance_s(contact: Contact) -> float:
            rtt_s = self._liveness.rtt_s(contact.node_id)
            return float("inf") if rtt_s is None else rtt_s

        self._known = {contact.node_id: contact for contact in sorted(others, key=distance_s)[:SPARE_PARENTS]}

    def update(self, contact: Contact) -> None:
        """First-hand: a member has a new contact."""
        if contact.node_id in self._known:
            self._known[contact.node_id] = contact

    def forget(self, node_id: int) -> None:
        self._known.pop(node_id, None)

    # Those that failed

    def shun(self, contact: Contact, now: float) -> None:
        """No parent for us at the moment."""
        self._silent.pop(contact.node_id, None)
        self._shunned[contact.node_id] = (contact, now + self._device.profile.avoid_s)
        if len(self._shunned) > MAX_POOL:
            del self._shunned[next(iter(self._shunned))]

    def is_shunned(self, node_id: int, now: float) -> bool:
        shunned = self._shunned.get(node_id)
        if shunned is None or shunned[1] <= now:
            return False
        self._forgive_those_heard()
        return node_id in self._shunned

    def report(self, contact: Contact, now: float, *, silent: bool = False) -> None:
        """No parent for anybody, it seems: the tracker should look into it. One that was only `silent` is forgiven as
        soon as it is heard again."""
        self.shun(contact, now)
        self._failed[contact.node_id] = now
        if silent:
            self._silent[contact.node_id] = now
        for table in (self._failed, self._silent):
            if len(table) > MAX_FAILED:
                del table[next(iter(table))]

    def only_stood_still(self, contact: Contact) -> bool:
        """Whether it was reported for its silence, a moment ago, and has not been restarted since: then it would be no
        member yet, say so, and be shunned."""
        shunned = self._shunned.get(contact.node_id)
        return contact.node_id in self._silent and shunned is not None and shunned[0].incarnation == contact.incarnation

    def _forgive_those_heard(self) -> None:
        """They stood still, and are back."""
        spoken = self._liveness.has_spoken_since
        for node_id in [node_id for node_id, at in self._silent.items() if spoken(node_id, at)]:
            self._forgive(node_id)

    def _forgive(self, node_id: int) -> None:
        self._shunned.pop(node_id, None)
        self._failed.pop(node_id, None)
        self._silent.pop(node_id, None)

    def has_answered(self, node_id: int) -> None:
        self._failed.pop(node_id, None)

    def failed(self, now: float) -> tuple[int, ...]:
        """What to report; after a while a member deserves another try."""
        self._forgive_those_heard()
        patience_s = self._device.profile.avoid_s
        self._failed = {node_id: at for node_id, at in self._failed.items() if now - at < patience_s}
        return tuple(self._failed)
