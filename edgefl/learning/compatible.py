"""Which choices of a forest's manifest go together."""

from __future__ import annotations

from edgefl.errors import UsageError
from edgefl.learning.encoding.spec import parse_spec
from edgefl.learning.pace import parse_pace
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire.application import Manifest
from edgefl.wire.overlay import Scope

EXACT = frozenset({"none", "fp16", "bf16"})
"""Encodings that leave nothing out which a device would have to remember for its next update."""


def check_compatible(manifest: Manifest) -> None:
    """Raises UsageError for two choices that exclude each other; each of them is right by itself."""
    strategy = parse_strategy(manifest.strategy)
    if parse_pace(manifest.pace).buffered and not strategy.discountable:
        raise UsageError(
            f"pace: {strategy.name} needs deltas of the newest model, and a buffered round takes older ones",
            hint="use another --strategy, or --pace quantile",
        )
    if manifest.together and not parse_pace(manifest.pace).buffered:
        raise UsageError(
            f"together: rounds of the pace {manifest.pace} wait for devices that work for another application",
            hint="add --pace buffered, or leave out --together",
        )
    if manifest.together and manifest.select:
        raise UsageError(
            f"together: who trains is whose turn it is, and {manifest.select} devices are to be selected",
            hint="leave out --select, or --together",
        )
    if strategy.by_zone and manifest.scope is Scope.ZONE:
        raise UsageError(
            f"strategy: {strategy.name} compares zones, and the application has one alone",
            hint="use the strategy trimmed, or --scope global",
        )
    if manifest.zone_rounds <= 1:
        return
    exact = parse_spec(manifest.compress).family in EXACT
    objections = {
        "the application has one zone alone": manifest.scope is Scope.ZONE,
        f"the pace is {manifest.pace}": manifest.pace != "sync",
        f"{manifest.select} devices are selected": manifest.select > 0,
        f"{strategy.name} needs to know of every device's part": not strategy.discountable or strategy.trim > 0,
        f"{manifest.compress} needs a memory of its own for each round": not exact,
        "some tensors are personal": bool(manifest.personal),
    }
    for objection, applies in objections.items():
        if applies:
            raise UsageError(
                f"zone_rounds is {manifest.zone_rounds}, but {objection}", hint="leave out --zone-rounds, or the other"
            )
