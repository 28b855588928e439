"""The document of `edgefl sim game`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edgefl.overlay.game.rules import Parameters, Rule
from edgefl.sim.game.instance import Instance, make_instance, slowed, worse_links
from edgefl.sim.game.judge import Verdict, judge
from edgefl.sim.game.optimum import lower_bound
from edgefl.sim.game.play import Game
from edgefl.sim.scale.world import generator

SETTLED = (0.05, 0.01)
"""Epochs are counted until epsilon stays below these."""

DRIFT = (60, 120, 180)
"""Epochs at which a tenth of the devices becomes four times slower, then 3 % of the links half a second longer, and
then everything is as it was."""
SLOW_DEVICES, SLOWER = 0.1, 4.0
LONG_LINKS, LONGER_S = 0.03, 0.5

BASELINES = (Rule.ACBR, Rule.SMOOTH, Rule.RTT, Rule.KLUCB, Rule.EXP3)


def run_game(
    *,
    players: int,
    rule: Rule,
    epochs: int,
    seed: int,
    delay_weight: float,
    stale: int = 2,
    liars: float = 0.0,
    residuals: bool = True,
    sites: bool = False,
    drift: bool = False,
    report: Callable[[str, float], None] = lambda what, share: None,
) -> dict[str, Any]:
    """Play `epochs` epochs by one rule. JSON types only; lists have one entry per epoch, the first before any move."""
    began = time.process_time()
    instance = make_instance(players, seed, sites=sites, liars=liars)
    random = generator(seed, 12, players)
    game = Game(instance, rule, random, Parameters(delay_weight=delay_weight), stale, residuals)
    verdicts, moves, over = [judge(game)], [0], []
    bound, gap = lower_bound(game.instance)
    rises = 0
    over.append(verdicts[0].cost_byte_s / bound)
    for epoch in range(1, epochs + 1):
        drifted = drift and _drift(game, instance, epoch)
        before = verdicts[-1].potential_byte_s
        moves.append(game.step())
        if drifted or epoch % game.parameters.window == 0:
            bound, gap = lower_bound(game.instance)
        verdict = judge(game)
        still = not drifted and epoch % game.parameters.window
        rises += bool(still and verdict.potential_byte_s > before * (1 + 1e-12))
        verdicts.append(verdict)
        over.append(verdict.cost_byte_s / bound)
        report(f"{rule.value}: epsilon {verdict.eps_rel:.4f}", epoch / epochs)
    return {
        "model": "vectorised game",
        "players": len(instance),
        "devices": len(instance.devices),
        "applications": int(instance.members.app.max()) + 1,
        "rule": rule.value,
        "seed": seed,
        "epochs": epochs,
        "stale": stale,
        "delay_weight": delay_weight,
        "liars": liars,
        "residuals": residuals,
        "sites": sites,
        "drift": list(DRIFT) if drift else [],
        "eps_rel": _column(verdicts, "eps_rel", 6),
        "eps_max_s": _column(verdicts, "eps_max_s", 3),
        "eps_reported": _column(verdicts, "eps_reported", 6),
        "cost_over_optimum": [round(value, 4) for value in over],
        "moves_per_player": [round(count / len(instance), 6) for count in moves],
        "round_time_s": _column(verdicts, "round_time_s", 2),
        "round_time_p95_s": _column(verdicts, "round_time_p95_s", 2),
        "moves_total_per_player": round(sum(moves) / len(instance), 3),
        "potential_rises": rises,
        "optimum_gap": round(gap, 5),
        "settled_epoch": {str(level): _settled(verdicts, level) for level in SETTLED},
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def run_comparison(*, players: int, epochs: int, seed: int, report: Callable[[str, float], None]) -> dict[str, Any]:
    """Every rule on the same instance, and `acbr` with and without regard for the parent's own delay."""
    rows = [run_game(players=players, rule=Rule.ACBR, epochs=epochs, seed=seed, delay_weight=0.2, report=report)]
    rows += [
        run_game(players=players, rule=rule, epochs=epochs, seed=seed, delay_weight=0.0, report=report)
        for rule in BASELINES
    ]
    return {"model": "vectorised game", "players": rows[0]["players"], "epochs": epochs, "seed": seed, "runs": rows}


def _drift(game: Game, original: Instance, epoch: int) -> bool:
    """Change the world at the epochs of DRIFT; players keep their candidates."""
    if epoch not in DRIFT:
        return False
    now = game.instance
    random = generator(epoch, 13)
    if epoch == DRIFT[0]:
        changed = slowed(now, SLOW_DEVICES, SLOWER, random)
    elif epoch == DRIFT[1]:
        changed = worse_links(now, LONG_LINKS, LONGER_S, random)
    else:
        devices, members = now.devices, now.members
        rtt_s = devices.rtt_s(members.device[now.player][:, None], members.device[now.candidate])
        changed = now.with_world(rtt_s, original.serving_bytes_s)
    game.instance = changed
    return True


def _column(verdicts: list[Verdict], name: str, digits: int) -> list[float]:
    return [round(float(getattr(verdict, name)), digits) for verdict in verdicts]


def _settled(verdicts: list[Verdict], level: float) -> int | None:
    """The first epoch from which on epsilon stays below `level`; None if it is above at the end."""
    above = [epoch for epoch, verdict in enumerate(verdicts) if verdict.eps_rel >= level]
    first = above[-1] + 1 if above else 0
    return first if first < len(verdicts) else None
