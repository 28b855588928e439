"""The routing game as arrays, for up to 300,000 players: `edgefl sim game`.

    instance.py    devices, applications, players and their candidates (the overlay study's family)
    play.py        one epoch by each rule; costs by the shipped model (edgefl/overlay/game)
    optimum.py     a lower bound of the cost of any assignment, by Frank-Wolfe
    judge.py       epsilon, cost beside the optimum, potential, time of a round
    report.py      the document of `edgefl sim game`

A model: nothing is sent, every device hears the same adverts with the same delay, and fan-out is not limited.
"""

from edgefl.sim.game.report import run_comparison, run_game

__all__ = ["run_comparison", "run_game"]
