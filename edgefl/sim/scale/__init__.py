"""The overlay as a vectorised model, up to 10^6 devices: numpy alone, no tables, no messages, no time.

    world.py         devices as arrays: ids, cities, zones, capacity classes; RTTs of pairs
    tables.py        slots as ranges of sorted ids, contacts as pure functions
    routes.py        hop by hop through the two rings, also with half of all devices gone
    route_study.py   hops, stretch, isolation, state, failure
    applications.py  memberships and ranks
    proposed.py      whom trackers propose
    trees.py         rank trees: ask, evict, push down
    tree_study.py    depth, crossings, load, roots
    zones.py         anchor adoption and landmark binning
    zone_study.py    the document of `edgefl sim zones`
    report.py        the document of `edgefl sim scale`
    cross_check.py   the same fleet in the event simulator, side by side

Where the shipped overlay decides something, the model decides alike and takes its constants from there; each module
says what it leaves out. The same seed gives the same document.
"""

from edgefl.sim.scale.report import run_scale
from edgefl.sim.scale.zone_study import run_zones

__all__ = ["run_scale", "run_zones"]
