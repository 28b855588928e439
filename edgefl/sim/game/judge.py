"""What an onlooker sees of a game: how far from an equilibrium, from the optimum, and how long a round takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefl.overlay.game.model import potential
from edgefl.sim.game.play import Game


@dataclass(frozen=True, slots=True)
class Verdict:
    """`eps_rel`: bytes-weighted gain still to be had, as a share of the cost (by the players' own objective).
    `cost_byte_s` leaves the share for delay out; `round_time_s` is over applications."""

    eps_rel: float
    eps_max_s: float
    eps_reported: float
    cost_byte_s: float
    potential_byte_s: float
    round_time_s: float
    round_time_p95_s: float


def judge(game: Game) -> Verdict:
    instance = game.instance
    size = instance.size_bytes
    costs = game.true_cost_s()
    now = game.chosen(costs)
    gain = now - costs.min(axis=1)
    advertised = game.advertised_s()
    told = np.maximum(0.0, game.chosen(advertised) - advertised.min(axis=1))
    paths = game.paths_s()
    slowest = np.zeros(int(instance.members.app.max()) + 1)
    np.maximum.at(slowest, instance.members.app[instance.player], paths)
    return Verdict(
        eps_rel=float((size * gain).sum() / (size * now).sum()),
        eps_max_s=float(gain.max()),
        eps_reported=float((size * told).sum() / (size * now).sum()),
        cost_byte_s=float((size * game.chosen(game.true_cost_s(delay_weight=0.0))).sum()),
        potential_byte_s=game_potential(game),
        round_time_s=float(slowest.mean()),
        round_time_p95_s=float(np.percentile(slowest, 95)),
    )


def game_potential(game: Game) -> float:
    """Phi of the present choices, over devices and the uplinks of sites."""
    instance, devices = game.instance, len(game.instance.devices)
    parent, size = game.parent_device(), instance.size_bytes
    constant = (
        game.chosen(instance.rtt_s)
        + instance.penalty_s[parent]
        + game.parameters.delay_weight * game.delay_s[game.chosen(instance.candidate)]
    )
    value = potential(
        s_per_byte=instance.s_per_byte,
        load_bytes=game.loads(),
        squared_sizes=np.bincount(parent, size * size, minlength=devices),
        size_bytes=size,
        constant_s=constant,
    )
    if not instance.site_s_per_byte.any():
        return value
    out = game.chosen(game.crosses())
    nothing = np.zeros(1)
    return value + potential(
        s_per_byte=instance.site_s_per_byte,
        load_bytes=game.site_loads(),
        squared_sizes=np.bincount(
            instance.devices.site[parent[out]], size[out] ** 2, minlength=len(instance.site_s_per_byte)
        ),
        size_bytes=nothing,
        constant_s=nothing,
    )
