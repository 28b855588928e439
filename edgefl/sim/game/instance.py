"""Instances of the game, drawn like those of the overlay study, 2.3: a tenth as many applications as devices, about 11
memberships a device, serving rates from 0.4 to 60 MB/s, K = 5 candidates of higher rank, three of them near.

Not given by the study, and ours: serving rates by capacity class, models from 0.5 to 8 MB, background processor use up
to 60 %, one in ten devices with a penalty of up to a second. Candidates come from the whole application: zones play no
part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgefl.overlay.game.model import seconds_per_byte
from edgefl.overlay.game.rules import CANDIDATES, NEAREST_CANDIDATES
from edgefl.sim.scale.applications import Memberships, enrol
from edgefl.sim.scale.world import Devices, Flags, Floats, Ints, generator, make_devices
from edgefl.wire.contact import Capacity

PLAYERS_PER_DEVICE = 11.35
APPS_PER_DEVICE = 0.1
SERVING_BYTES_S = {
    Capacity.CONSTRAINED: (0.4e6, 2e6),
    Capacity.NORMAL: (1e6, 10e6),
    Capacity.STRONG: (4e6, 30e6),
    Capacity.GATEWAY: (15e6, 60e6),
}
"""From, to (log-uniform): what the uplink of a device of each class delivers."""
SITE_SLOWEST_BYTES_S, SITE_FASTEST_BYTES_S = 20e6, 400e6
SMALLEST_BYTES, LARGEST_BYTES = 0.5e6, 8e6
AGGREGATION_S_PER_BYTE = 2e-9
"""Adding float32 numbers that arrive encrypted: half a second a gigabyte to decrypt, more to add."""
MOST_BACKGROUND = 0.6
PENALISED, MOST_PENALTY_S = 0.1, 1.0
SEEN = 16
"""Members that a device hears of, of which it takes the nearest."""


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """Rows are memberships in the order of application and falling rank; players are the rows that are no root.

    Shapes: n players, K candidates, m rows, d devices, g sites.
    """

    devices: Devices
    members: Memberships
    player: Ints
    """(n,) the row of each player."""
    candidate: Ints
    """(n, K) rows."""
    rtt_s: Floats
    """(n, K)"""
    size_bytes: Floats
    """(n,)"""
    serving_bytes_s: Floats
    """(d,)"""
    background: Floats
    """(d,)"""
    penalty_s: Floats
    """(d,)"""
    site_s_per_byte: Floats
    """(g,) 0 where sites have no price."""
    liar: Flags
    """(d,) advertise an eighth of their seconds per byte."""

    def __len__(self) -> int:
        return len(self.player)

    @property
    def s_per_byte(self) -> Floats:
        """(d,) a_p, as it is."""
        a: Floats = seconds_per_byte(self.serving_bytes_s, AGGREGATION_S_PER_BYTE, self.background)
        return a

    @property
    def candidate_device(self) -> Ints:
        """(n, K)"""
        devices: Ints = self.members.device[self.candidate]
        return devices

    def with_world(self, rtt_s: Floats, serving_bytes_s: Floats) -> Instance:
        """The same players and candidates at other RTTs and serving rates."""
        return replace(self, rtt_s=rtt_s, serving_bytes_s=serving_bytes_s)


def make_instance(players: int, seed: int, *, sites: bool = False, liars: float = 0.0) -> Instance:
    """About `players` players. `sites`: the uplinks of sites have a price too. `liars`: share of the devices."""
    count = max(20, round(players / PLAYERS_PER_DEVICE))
    apps = max(1, round(count * APPS_PER_DEVICE))
    devices = make_devices(count, seed)
    random = generator(seed, 11, count)
    members = _enrol(devices, apps, players + apps, random)
    place = _place(members)
    player = np.flatnonzero(place > 0)
    candidate, rtt_s = draw_candidates(devices, members, player, random)
    app_bytes = np.exp(random.uniform(np.log(SMALLEST_BYTES), np.log(LARGEST_BYTES), apps))
    site_count = int(devices.site.max()) + 1
    site_rate = np.exp(random.uniform(np.log(SITE_SLOWEST_BYTES_S), np.log(SITE_FASTEST_BYTES_S), site_count))
    return Instance(
        devices=devices,
        members=members,
        player=player,
        candidate=candidate,
        rtt_s=rtt_s,
        size_bytes=app_bytes[members.app[player]],
        serving_bytes_s=_serving(devices, random),
        background=random.uniform(0.0, MOST_BACKGROUND, count),
        penalty_s=np.where(random.random(count) < PENALISED, random.uniform(0.0, MOST_PENALTY_S, count), 0.0),
        site_s_per_byte=1.0 / site_rate if sites else np.zeros(site_count),
        liar=random.random(count) < liars,
    )


def draw_candidates(
    devices: Devices, members: Memberships, player: Ints, random: np.random.Generator
) -> tuple[Ints, Floats]:
    """K candidates for each player, of a higher level of rank where there is one: the nearest three of those seen, and
    two at random. In small applications some appear twice."""
    place, level = _place(members), np.floor(members.rank)
    start = np.arange(len(place)) - place
    same = np.concatenate([[True], (members.app[1:] != members.app[:-1]) | (level[1:] != level[:-1])])
    above = (np.flatnonzero(same)[np.cumsum(same) - 1] - start)[player]
    eligible = np.where(above > 0, above, place[player])
    draw = random.random((len(player), SEEN + CANDIDATES - NEAREST_CANDIDATES))
    rows = start[player][:, None] + (draw * eligible[:, None]).astype(np.int64)
    rtt_s = devices.rtt_s(members.device[player][:, None], members.device[rows])
    seen = rtt_s[:, :SEEN].copy()
    order = np.argsort(rows[:, :SEEN], axis=1, kind="stable")
    ordered = np.take_along_axis(rows[:, :SEEN], order, axis=1)
    again = np.zeros_like(ordered, dtype=np.bool_)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    np.put_along_axis(seen, order, np.where(again, np.inf, np.take_along_axis(seen, order, axis=1)), axis=1)
    near = np.argsort(seen, axis=1)[:, :NEAREST_CANDIDATES]
    chosen = np.concatenate([np.take_along_axis(rows, near, axis=1), rows[:, SEEN:]], axis=1)
    return chosen, devices.rtt_s(members.device[player][:, None], members.device[chosen])


def slowed(instance: Instance, share: float, factor: float, random: np.random.Generator) -> Instance:
    """The same with a share of the devices slower."""
    hit = random.random(len(instance.serving_bytes_s)) < share
    rates = np.where(hit, instance.serving_bytes_s / factor, instance.serving_bytes_s)
    return instance.with_world(instance.rtt_s, rates)


def worse_links(instance: Instance, share: float, more_s: float, random: np.random.Generator) -> Instance:
    """The same with a share of the links of higher latency."""
    hit = random.random(instance.rtt_s.shape) < share
    return instance.with_world(np.where(hit, instance.rtt_s + more_s, instance.rtt_s), instance.serving_bytes_s)


def _enrol(devices: Devices, apps: int, memberships: int, random: np.random.Generator) -> Memberships:
    """Applications of sizes log-uniform over a decade, in all about `memberships`; one zone for all."""
    share = np.exp(random.uniform(0.0, np.log(10.0), apps))
    sizes = np.clip(np.round(share / share.sum() * memberships).astype(int), 2, len(devices))
    groups = [
        (int(random.integers(0, 1 << 64, dtype=np.uint64)), np.sort(random.choice(len(devices), size, replace=False)))
        for size in sizes
    ]
    members = enrol(devices, groups)
    order = np.lexsort((-members.rank, members.app))
    return Memberships(members.app[order], members.device[order], np.zeros(len(order), np.int64), members.rank[order])


def _serving(devices: Devices, random: np.random.Generator) -> Floats:
    """(d,) by capacity class."""
    limits = np.log([SERVING_BYTES_S[Capacity(capacity)] for capacity in range(len(Capacity))])[devices.capacity]
    rates: Floats = np.exp(random.uniform(limits[:, 0], limits[:, 1]))
    return rates


def _place(members: Memberships) -> Ints:
    """How many of its application outrank each row."""
    first = np.concatenate([[True], members.app[1:] != members.app[:-1]])
    place: Ints = np.arange(len(members)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    return place
