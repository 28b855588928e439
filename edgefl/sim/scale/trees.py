"""Rank trees of thousands of applications at once, by the rules of the shipped tree (`edgefl/overlay/rank_tree.py`).

All members that seek a parent ask at the same time, round after round, until nobody seeks:

- whom: of the members that the tracker would propose (proposed.py) a handful at random that stand a level above, of
  these the best by RTT and rank (`overlay/attempt.py`);
- a parent serves 8 children of its zone and 4 of others. Of the old children and those who ask, the highest ranks
  stay. Who asked in vain goes down to one of the parent's children at random that outranks it; who was evicted to one
  that stands a level above, if there is one.

Members arrive in a random order, each wave as many as are there already. Who was the highest of its zone, and is not
any more, looks for a parent in its zone then; its children, also those of other zones, stay with it.

Laws: a parent outranks its child, so there is no cycle; no budget is ever exceeded; only members are in a tree. Every
refusal leads strictly down in rank, so it ends. Approximations: time does not exist within a round; who has a parent
does not look for a better one; nobody knows the RTT of those whom it is sent down to; and nobody gives up after 24
refusals to ask the tracker again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefl.overlay.attempt import HANDFUL, RANK_WORTH_S
from edgefl.overlay.children import OTHER_CHILDREN, ZONE_CHILDREN
from edgefl.sim.scale.applications import Memberships
from edgefl.sim.scale.proposed import Proposals, head_proposals, zone_proposals
from edgefl.sim.scale.world import Devices, Flags, Ints

NOBODY = -1

FIRST_WAVE = 1 / 64
"""Of the members; six more waves follow."""

BUDGET = ZONE_CHILDREN + OTHER_CHILDREN


@dataclass(frozen=True, slots=True)
class Rule:
    """How a member chooses; the default is what the shipped code does."""

    handful: int = HANDFUL
    """Members proposed whose RTT is measured."""
    rank_worth_s: float = RANK_WORTH_S
    """How much longer an RTT may be for each level of rank: who stands higher is nearer to the root."""


SHIPPED = Rule()
NEAREST_OF_FIVE = Rule(handful=5, rank_worth_s=0.0)
"""For comparison: a few of those proposed are measured, and only RTT counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """`parent[i]` is the row of the parent of membership i, -1 for a root; `rounds` of questions were needed."""

    members: Memberships
    parent: Ints
    rounds: int

    def depth(self) -> Ints:
        """Edges from each member up to its root."""
        depth = np.zeros(len(self.parent), np.int64)
        row = np.flatnonzero(self.parent != NOBODY)
        above = self.parent[row]
        while len(row):
            depth[row] += 1
            above = self.parent[above]
            row, above = row[above != NOBODY], above[above != NOBODY]
        return depth


def grow(devices: Devices, members: Memberships, random: np.random.Generator, rule: Rule = SHIPPED) -> Forest:
    """Build the trees of all applications."""
    growth = _Growth(devices, members, random, rule)
    arrival = random.random(len(members))
    share = FIRST_WAVE
    while share < 2:
        here = np.flatnonzero(arrival < share)
        growth.settle(zone_proposals(members, here, random), across=False)
        growth.settle(head_proposals(members, here, random), across=True)
        share *= 2
    return Forest(members, growth.parent, growth.rounds)


class _Growth:
    """Who is whose child so far."""

    def __init__(self, devices: Devices, members: Memberships, random: np.random.Generator, rule: Rule) -> None:
        self.parent = np.full(len(members), NOBODY)
        self.rounds = 0
        self._devices = devices
        self._members = members
        self._level = np.floor(members.rank)
        self._random = random
        self._rule = rule

    def settle(self, proposals: Proposals, *, across: bool) -> None:
        """Everybody proposed to, who has no parent yet of this kind (`across` zones, or in its own), asks the best of a
        handful, and goes on from there until it has one."""
        zone = self._members.zone
        parent = self.parent[proposals.seeker]
        proposals = proposals.only((parent == NOBODY) | (not across) & (zone[parent] != zone[proposals.seeker]))
        self.parent[proposals.seeker] = NOBODY
        seekers, targets = proposals.seeker, self._first_choice(proposals)
        while len(seekers):
            self.rounds += 1
            asked = np.zeros(len(self.parent), np.bool_)
            asked[targets] = True
            seekers, refused_by, evicted = self._serve(seekers, targets, asked, across=across)
            targets = self._go_down(seekers, refused_by, evicted, asked, across=across)

    def _first_choice(self, proposals: Proposals) -> Ints:
        """Of a random handful of different members proposed, the nearest (or as the rule has it)."""
        proposed = np.sort(proposals.proposed, axis=1)
        fit = (proposed != NOBODY) & np.diff(proposed, axis=1, prepend=NOBODY).astype(np.bool_)
        draw = np.where(fit, self._random.random(proposed.shape), 2.0)
        handful = np.argsort(draw, axis=1)[:, : self._rule.handful]
        proposed, fit = np.take_along_axis(proposed, handful, axis=1), np.take_along_axis(fit, handful, axis=1)
        device = self._members.device
        cost = self._devices.rtt_s(device[proposals.seeker][:, None], device[proposed])
        cost -= self._rule.rank_worth_s * self._members.rank[proposed]
        chosen: Ints = proposed[np.arange(len(proposed)), np.argmin(np.where(fit, cost, np.inf), axis=1)]
        return chosen

    def _children(self, of: Flags, *, across: bool) -> Ints:
        """The children of these members: those of their zone, with `across` all."""
        zone = self._members.zone
        children = np.flatnonzero((self.parent != NOBODY) & of[self.parent])
        return children if across else children[zone[children] == zone[self.parent[children]]]

    def _serve(self, seekers: Ints, targets: Ints, asked: Flags, *, across: bool) -> tuple[Ints, Ints, Flags]:
        """The highest-ranked of old children and seekers stay; the others, who told them so, and who was a child."""
        zone = self._members.zone
        children = self._children(asked, across=across)
        children = children[(zone[children] != zone[self.parent[children]]) == across]
        row = np.concatenate([children, seekers])
        to = np.concatenate([self.parent[children], targets])
        is_new = np.arange(len(row)) >= len(children)
        order = np.lexsort((-self._members.rank[row], to))
        row, to, is_new = row[order], to[order], is_new[order]
        place = np.arange(len(row)) - np.searchsorted(to, to)
        stays = place < (OTHER_CHILDREN if across else ZONE_CHILDREN)
        self.parent[row] = np.where(stays, to, NOBODY)
        return row[~stays], to[~stays], ~is_new[~stays]

    def _go_down(self, losers: Ints, refused_by: Ints, evicted: Flags, asked: Flags, *, across: bool) -> Ints:
        """Whom those without a place ask next: a child of the one who had none. All children of their kind outrank
        them."""
        rank, level = self._members.rank, self._level
        children = self._children(asked, across=across)
        children = children[np.argsort(self.parent[children], kind="stable")]
        parents = self.parent[children]
        begin = np.searchsorted(parents, refused_by)
        end = np.searchsorted(parents, refused_by, side="right")
        column = np.arange(BUDGET)
        at = begin[:, None] + column
        child = children[np.minimum(at, len(children) - 1)] if len(losers) else np.zeros((0, BUDGET), np.int64)
        fit = (at < end[:, None]) & (rank[child] > rank[losers][:, None])
        draw = self._random.random(child.shape)
        above = level[child] > level[losers][:, None]
        cost = np.where(evicted[:, None], draw + ~above, draw)
        chosen: Ints = child[np.arange(len(losers)), np.argmin(np.where(fit, cost, np.inf), axis=1)]
        return chosen
