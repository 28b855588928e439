"""One epoch of the game after the other, by each rule of `edgefl/overlay/game/rules.py`.

Adverts are `stale` epochs old. Within an epoch all who revise decide at once, by what they know; a parent that is asked
answers its questions one after the other, with its load of that moment (`acbr`). Who leaves a parent does so at the end
of the epoch, as on devices, where the old edge is kept until the round is over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgefl.overlay.game.bandits import Exp3, KlUcb
from edgefl.overlay.game.model import cost_s, margin_s, site_s
from edgefl.overlay.game.rules import DEFAULT, Parameters, Rule
from edgefl.sim.game.instance import Instance, draw_candidates
from edgefl.sim.scale.tree_study import sum_to_root
from edgefl.sim.scale.trees import NOBODY
from edgefl.sim.scale.world import Flags, Floats, Ints

Number = TypeVar("Number", bound=np.generic)

LIE = 8.0
"""Liars advertise so many times less seconds per byte than they need."""


@dataclass(eq=False)
class Game:
    """The state of all players. `choice[i]` is the column of the candidate in use."""

    instance: Instance
    rule: Rule
    random: np.random.Generator
    parameters: Parameters = DEFAULT
    stale: int = 2
    residuals: bool = True
    choice: Ints = field(init=False)
    epoch: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        instance = self.instance
        self.choice = np.argmin(instance.rtt_s, axis=1).astype(np.int64)
        self.residual_s = np.zeros(instance.rtt_s.shape)
        self._adverts: deque[Floats] = deque([self.loads()], maxlen=self.stale + 1)
        self.delay_s = np.zeros(len(instance.members))
        self._bandit = KlUcb(*instance.rtt_s.shape)
        self._weights = Exp3(*instance.rtt_s.shape)
        self._path = np.zeros(len(instance.members))
        self.refresh_delays()

    # What is so

    def chosen(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Of (n, K) values those of the candidate in use, (n,)."""
        return np.take_along_axis(values, self.choice[:, None], axis=1)[:, 0]

    def parent_device(self) -> Ints:
        """(n,)"""
        return self.instance.members.device[self.chosen(self.instance.candidate)]

    def loads(self) -> Floats:
        """(d,) bytes promised at each device."""
        size = self.instance.size_bytes
        return np.bincount(self.parent_device(), size, minlength=len(self.instance.devices)).astype(np.float64)

    def crosses(self) -> Flags:
        """(n, K) the candidate is at another site."""
        site, members = self.instance.devices.site, self.instance.members
        crosses: Flags = site[members.device[self.instance.player]][:, None] != site[self.instance.candidate_device]
        return crosses

    def site_loads(self) -> Floats:
        """(g,) bytes promised across each site's uplink."""
        instance = self.instance
        out = self.chosen(self.crosses())
        site = instance.devices.site[self.parent_device()[out]]
        return np.bincount(site, instance.size_bytes[out], minlength=len(instance.site_s_per_byte)).astype(np.float64)

    def true_cost_s(self, *, moved: bool = True, delay_weight: float | None = None) -> Floats:
        """(n, K) what each candidate would cost if the player alone moved there (the one in use: what it costs)."""
        return self._cost_s(self.loads(), self.instance.s_per_byte, moved=moved, delay_weight=delay_weight)

    def _cost_s(
        self, loads: Floats, s_per_byte: Floats, *, moved: bool = True, delay_weight: float | None = None
    ) -> Floats:
        instance = self.instance
        device, own = instance.candidate_device, np.zeros(instance.rtt_s.shape)
        if moved:
            own[:] = instance.size_bytes[:, None]
            np.put_along_axis(own, self.choice[:, None], 0.0, axis=1)
            here = self.parent_device()
            own[device == here[:, None]] = 0.0  # the same device in another column
        costs: Floats = cost_s(
            rtt_s=instance.rtt_s,
            penalty_s=instance.penalty_s[device],
            s_per_byte=s_per_byte[device],
            load_bytes=loads[device] + own,
            delay_s=self.delay_s[instance.candidate],
            delay_weight=self.parameters.delay_weight if delay_weight is None else delay_weight,
            site_s=self._site_cost_s(),
        )
        return costs

    def _site_cost_s(self) -> Floats:
        """(n, K) A_g L_g of the candidate's site, if the stream crosses its uplink."""
        instance = self.instance
        if not instance.site_s_per_byte.any():
            return np.zeros(instance.rtt_s.shape)
        site, out = instance.devices.site[instance.candidate_device], self.crosses()
        here = np.take_along_axis(site, self.choice[:, None], axis=1)
        is_out = np.take_along_axis(out, self.choice[:, None], axis=1)
        price = site_s(
            s_per_byte=instance.site_s_per_byte[site],
            load_bytes=self.site_loads()[site],
            size_bytes=instance.size_bytes[:, None],
            counted=is_out & (site == here),
        )
        cost: Floats = np.where(out, price, 0.0)
        return cost

    def parents(self) -> Ints:
        """(m,) the row above each row, -1 for roots."""
        parent = np.full(len(self.instance.members), NOBODY)
        parent[self.instance.player] = self.chosen(self.instance.candidate)
        return parent

    def paths_s(self) -> Floats:
        """(n,) the costs of all edges from each player up to its root, without the share for delay."""
        edge = self.chosen(self.true_cost_s(delay_weight=0.0))
        return sum_to_root(self.parents(), self.instance.player, edge)

    def refresh_delays(self) -> None:
        """Everybody advertises its present delay to the root."""
        self.delay_s[self.instance.player] = self.paths_s()

    # An epoch

    def step(self) -> int:
        """Play one epoch. Returns how many players moved."""
        self.epoch += 1
        if self.epoch % self.parameters.window == 0:
            if self.parameters.delay_weight:
                self.refresh_delays()
            self._fresh_candidates()
        before = self.choice.copy()
        {
            Rule.ACBR: self._acbr,
            Rule.SMOOTH: self._smooth,
            Rule.RTT: lambda: None,
            Rule.KLUCB: self._klucb,
            Rule.EXP3: self._exp3,
        }[self.rule]()
        self._adverts.append(self.loads())
        return int((before != self.choice).sum())

    def advertised_s(self) -> Floats:
        """(n, K) what players expect of each candidate: its advert and what it hid; measured for the one in use."""
        instance = self.instance
        told = np.where(instance.liar, instance.s_per_byte / LIE, instance.s_per_byte)
        loads = self.loads()
        expected = self._cost_s(self._adverts[0], told) + self.residual_s
        measured = self.chosen(self._cost_s(loads, instance.s_per_byte))
        np.put_along_axis(expected, self.choice[:, None], measured[:, None], axis=1)
        return expected

    def _best(self) -> tuple[npt.NDArray[np.intp], Floats, Floats, Floats]:
        """The best other candidate by the adverts: its column, what it and the present one cost, and the margin."""
        expected = self.advertised_s()
        now = self.chosen(expected)
        best = np.argmin(expected, axis=1)
        then = np.take_along_axis(expected, best[:, None], axis=1)[:, 0]
        return best, then, now, margin_s(now, self.parameters.eta_s, self.parameters.eta_share)

    def _acbr(self) -> None:
        instance, parameters = self.instance, self.parameters
        if self.residuals:
            self._learn()
        best, then, now, margin = self._best()
        chance = parameters.revise + parameters.urge * np.maximum(0.0, 1 - then / now)
        asks = np.flatnonzero((self.random.random(len(now)) < chance) & (then < now - margin))
        told = np.where(instance.liar, instance.s_per_byte / LIE, instance.s_per_byte)
        column = best[asks]
        target = instance.candidate_device[asks, column]
        fixed = (
            instance.rtt_s[asks, column]
            + self.residual_s[asks, column]
            + parameters.delay_weight * self.delay_s[instance.candidate[asks, column]]
            + self._site_cost_s()[asks, column]
        )
        budget = now[asks] - margin[asks] - fixed  # what the target itself may cost: this is what MOVE carries
        loads = self.loads()
        for turn in _turns(target, self.random):
            at, size = target[turn], instance.size_bytes[asks[turn]]
            fits = instance.penalty_s[at] + told[at] * (loads[at] + size) < budget[turn]
            loads[at[fits]] += size[fits]
            self.choice[asks[turn[fits]]] = column[turn[fits]]

    def _learn(self) -> None:
        """Residuals take in what the parent in use costs beyond its own word."""
        told = np.where(self.instance.liar, self.instance.s_per_byte / LIE, self.instance.s_per_byte)
        loads = self.loads()
        observed = self.chosen(self._cost_s(loads, self.instance.s_per_byte))
        predicted = self.chosen(self._cost_s(loads, told))
        old = self.chosen(self.residual_s)
        self.residual_s *= 1 - self.parameters.forget
        new = old + self.parameters.learn * (observed - predicted - old)
        np.put_along_axis(self.residual_s, self.choice[:, None], new[:, None], axis=1)

    def _smooth(self) -> None:
        best, then, now, margin = self._best()
        chance = self.parameters.alpha * (now - then) / now
        moves = (then < now - margin) & (self.random.random(len(now)) < chance)
        self.choice[moves] = best[moves]

    def _klucb(self) -> None:
        instance = self.instance
        device = instance.candidate_device
        alone = instance.rtt_s + instance.penalty_s[device] + instance.s_per_byte[device] * instance.size_bytes[:, None]
        unit_s = alone.min(axis=1)
        self._bandit.observe(self.choice, self.chosen(self.true_cost_s(delay_weight=0.0)), unit_s)
        index = self._bandit.index_s(unit_s, self.epoch)
        self._path[instance.player] = (index + self._path[instance.candidate]).min(axis=1)  # J, one hop an epoch
        self.choice = np.argmin(index + self._path[instance.candidate], axis=1)

    def _exp3(self) -> None:
        self._weights.observe(self.choice, self.chosen(self.true_cost_s(delay_weight=0.0)), self.epoch)
        share: Floats = np.cumsum(self._weights.shares(self.epoch), axis=1)
        draw = self.random.random((len(share), 1)) * share[:, -1:]
        self.choice = np.asarray((share < draw).sum(axis=1))

    def _fresh_candidates(self) -> None:
        """The worst candidate (by the adverts, never the one in use) is replaced by another at random."""
        if self.rule in (Rule.RTT, Rule.KLUCB, Rule.EXP3):
            return  # they learn about fixed candidates
        instance = self.instance
        expected = self.advertised_s()
        np.put_along_axis(expected, self.choice[:, None], -np.inf, axis=1)
        worst = np.argmax(expected, axis=1)[:, None]
        candidate, rtt_s = draw_candidates(instance.devices, instance.members, instance.player, self.random)
        np.put_along_axis(instance.candidate, worst, candidate[:, -1:], axis=1)
        np.put_along_axis(instance.rtt_s, worst, rtt_s[:, -1:], axis=1)
        np.put_along_axis(self.residual_s, worst, 0.0, axis=1)


def _turns(target: Ints, random: np.random.Generator) -> list[Ints]:
    """Questions in turns: the first of every target, then the second of every target, and so on, in random order."""
    order = random.permutation(len(target))
    order = order[np.argsort(target[order], kind="stable")]
    sorted_target = target[order]
    place = np.arange(len(target)) - np.searchsorted(sorted_target, sorted_target)
    by_place = np.argsort(place, kind="stable")
    counts = np.bincount(place) if len(place) else np.zeros(0, np.int64)
    return np.split(order[by_place], np.cumsum(counts)[:-1]) if len(counts) else []
