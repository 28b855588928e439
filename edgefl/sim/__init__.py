"""The shipped overlay (and what is built on it) under virtual time: deterministic, with every fault of a real network.

    clock.py       virtual time
    rtt_model.py   how far apart devices are: cities, sites, devices
    network.py     loss, repetition, reordering, partitions, slow and dead devices; one device's world
    event_log.py   what an overlay has reported
    world.py       a fleet of devices, and the questions that only an onlooker can answer
    scenario.py    what happens to a fleet, as data; the scenario file
    faults.py      lets it happen
    timeline.py    what an onlooker sees every few seconds
    fleet.py       the run of `edgefl sim fleet`
    repair.py      the run of `edgefl sim fleet --repair`: trees after a share of each has vanished
    fault_schedules.py  random scenarios for small rings, and what must never happen
    training.py    the learning layer on simulated devices, with a stand-in for the trainer
    stand_in.py    that stand-in: training whose right answer is known
    footprint.py   what the state of the protocols costs in memory
    unequal.py     devices whose links differ: the routing game on the shipped code
    scale/         no protocol code: a vectorised model of the overlay, for a million devices (`edgefl sim scale`)
    game/          the routing game as arrays (`edgefl sim game`)

The same seed gives the same run, whatever PYTHONHASHSEED says.
"""

from edgefl.sim.fleet import run_fleet
from edgefl.sim.world import Member, World

__all__ = ["Member", "World", "run_fleet"]
