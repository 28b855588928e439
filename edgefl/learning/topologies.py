"""Which kind of application a manifest asks for, and whether its options are possible. Without numpy, until asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.errors import UsageError
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.learning.options import parse_options
from edgefl.learning.sampled.options import SampledOptions
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire.application import Manifest, Topology

if TYPE_CHECKING:
    from edgefl.learning.application import Application

AVERAGING = ("fedavg", "fedprox")
"""Strategies whose step at the root is the plain mean: all that topologies without a root can do."""


def kind_of(manifest: Manifest) -> type[Application]:
    """The class that runs this manifest's topology."""
    if manifest.topology is Topology.SAMPLED:
        from edgefl.learning.sampled.application import SampledApplication

        return SampledApplication
    if manifest.topology is Topology.CONSENSUS:
        from edgefl.learning.consensus.application import ConsensusApplication

        return ConsensusApplication
    from edgefl.learning.forest.application import ForestApplication

    return ForestApplication


def check_topology(manifest: Manifest) -> None:
    """Raises UsageError for options that the topology does not have, or that do not go together."""
    name = manifest.topology.name.lower()
    if manifest.topology is Topology.FOREST:
        if manifest.topology_options:
            raise UsageError("the topology forest has no options", hint="leave out what follows the colon")
        return
    if manifest.topology is Topology.SAMPLED:
        parse_options(SampledOptions, manifest.topology_options, name)
    else:
        consensus = parse_options(ConsensusOptions, manifest.topology_options, name)
        if 0 < manifest.rounds <= consensus.settle:
            raise UsageError(
                f"settle is {consensus.settle}, but there are {manifest.rounds} rounds: none of them would train",
                hint="more rounds, or fewer that settle",
            )
    strategy = parse_strategy(manifest.strategy)
    if strategy.name not in AVERAGING or strategy.options["lr"] != 1:
        raise UsageError(
            f"the topology {name} has no root whose step the strategy {manifest.strategy!r} could shape",
            hint="use fedavg or fedprox with lr=1, or the topology forest",
        )
    if manifest.select or manifest.pace != "sync" or manifest.zone_rounds > 1:
        raise UsageError(
            f"the topology {name} has no root that could select devices, set a pace, or leave rounds to zones",
            hint="leave out --select, --pace and --zone-rounds, or use the topology forest",
        )
    without = ((manifest.personal, "--personal"), (manifest.patience, "--patience"), (manifest.together, "--together"))
    for given, option in without:
        if given:
            raise UsageError(
                f"the topology {name} has no {option[2:]}", hint=f"leave out {option}, or use the topology forest"
            )
    if manifest.keep_best:
        raise UsageError(
            f"the topology {name} keeps no best model", hint="leave out --keep-best, or use the topology forest"
        )
    if manifest.compress != "none":
        raise UsageError(
            f"the topology {name} sends whole models, which {manifest.compress!r} would harm",
            hint="leave out --compress, or use the topology forest",
        )
