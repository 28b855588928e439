"""What a manifest must fulfil: checked where it is made, and again by every device that is asked to take part."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgefl.errors import ConfigError, UsageError
from edgefl.learning.compatible import check_compatible
from edgefl.learning.encoding.spec import parse_spec
from edgefl.learning.pace import parse_pace
from edgefl.learning.policies import parse_policies
from edgefl.learning.strategies.rates import parse_rates
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.learning.together import parse_together
from edgefl.learning.topologies import check_topology
from edgefl.wire.application import MAX_MANIFEST_BYTES, Manifest, Topology
from edgefl.wire.blob import FLOAT_BYTES, MAX_BLOB_BYTES
from edgefl.wire.codec import encode_record

MAX_PARAMETERS = MAX_BLOB_BYTES // FLOAT_BYTES
"""float32 values in one blob."""

MAX_ROUNDS = 1_000_000
MAX_LOCAL_EPOCHS = 1000
MIN_DEADLINE_S = 1.0
MAX_DEADLINE_S = 7 * 24 * 3600.0
MAX_HELD_BACK = 0.9
MAX_LEARNING_RATE = 1000.0
MAX_OVER_SELECT = 10.0
MAX_ZONE_ROUNDS = 50

FOREST_HOOKS = frozenset({"aggregate"})
"""Policies that need a root."""

PLAIN_STRATEGIES = ("fedavg", "fedprox")
"""Those that leave the step at the root to a policy: the others would do nothing beside one."""

REQUIRED_ARTIFACTS = frozenset(
    {
        "training_model.onnx",
        "eval_model.onnx",
        "optimizer_model.onnx",
        "inference_model.onnx",
        "checkpoint",
        "manifest.json",
    }
)
"""The trainer's files; their names travel, so nothing but these is ever written on a device."""


def travelling(manifest: Manifest) -> int:
    """float32 values in the vector that travels, down and up."""
    return manifest.parameters * parse_strategy(manifest.strategy).width


class ManifestError(ConfigError):
    """An application that no device could run as asked."""

    name = "manifest"


def check_choices(manifest: Manifest) -> None:
    """Raises ManifestError for a text in the manifest that names nothing that there is."""
    kinds: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("compress", parse_spec),
        ("strategy", parse_strategy),
        ("lr_schedule", parse_rates),
        ("pace", parse_pace),
        ("together", parse_together),
    )
    for field, parse in kinds:
        try:
            parse(getattr(manifest, field))
        except UsageError as error:
            raise ManifestError(f"{field}: {error.cause}", hint=error.hint) from None


def check_policies(manifest: Manifest) -> None:
    """Raises ManifestError for policies that cannot act as asked."""
    try:
        policies = parse_policies(manifest.policies)
    except UsageError as error:
        raise ManifestError(f"policies: {error.cause}", hint=error.hint) from None
    hooks = " and ".join(sorted(policies.keys() & FOREST_HOOKS))
    if hooks and manifest.topology is not Topology.FOREST:
        raise ManifestError(f"policies: {hooks} needs a root", hint="choose the topology forest, or leave it out")
    strategy = parse_strategy(manifest.strategy)
    if "aggregate" in policies and (strategy.name not in PLAIN_STRATEGIES or strategy.options["lr"] != 1):
        raise ManifestError(
            f"strategy {manifest.strategy!r} would have no effect beside a policy that aggregates",
            hint=f"choose {' or '.join(PLAIN_STRATEGIES)}, with the root's lr at 1",
        )


def check_manifest(manifest: Manifest) -> None:
    """Raises ManifestError naming the first field that is out of its range."""

    def need(fulfilled: bool, field: str, rule: str) -> None:
        if not fulfilled:
            value = getattr(manifest, field)
            raise ManifestError(
                f"{field} is {value!r}, but {rule}", hint=f"create the application with another {field}"
            )

    need(bool(manifest.name.strip()) and manifest.name.isprintable(), "name", "must be readable text")
    need(bool(manifest.data.strip()) and manifest.data.isprintable(), "data", "must name a data source")
    need(1 <= manifest.parameters <= MAX_PARAMETERS, "parameters", f"must be 1 to {MAX_PARAMETERS}")
    need(1 <= manifest.rounds <= MAX_ROUNDS, "rounds", f"must be 1 to {MAX_ROUNDS}")
    need(0 < manifest.quorum <= 1, "quorum", "must be a fraction above 0 and at most 1")
    need(
        MIN_DEADLINE_S <= manifest.deadline_s <= MAX_DEADLINE_S,
        "deadline_s",
        f"must be {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g} seconds",
    )
    need(1 <= manifest.local_epochs <= MAX_LOCAL_EPOCHS, "local_epochs", f"must be 1 to {MAX_LOCAL_EPOCHS}")
    need(manifest.batch >= 1, "batch", "must be at least 1")
    need(
        0 < manifest.learning_rate <= MAX_LEARNING_RATE,
        "learning_rate",
        f"must be above 0 and at most {MAX_LEARNING_RATE:g}",
    )
    need(0 <= manifest.held_back <= MAX_HELD_BACK, "held_back", f"must be 0 to {MAX_HELD_BACK}")
    need(manifest.patience <= MAX_ROUNDS, "patience", f"must be 0 (never) to {MAX_ROUNDS} rounds")
    need(manifest.min_members >= 1, "min_members", "must be at least 1")
    need(manifest.max_samples >= 1, "max_samples", "must be at least 1")
    need(
        manifest.target is None or (bool(manifest.target.metric) and math.isfinite(manifest.target.value)),
        "target",
        "must name a metric and a finite value",
    )
    need(1 <= manifest.zone_rounds <= MAX_ZONE_ROUNDS, "zone_rounds", f"must be 1 to {MAX_ZONE_ROUNDS}")
    need(0 <= manifest.over_select <= MAX_OVER_SELECT, "over_select", f"must be 0 to {MAX_OVER_SELECT:g}")
    need(
        all(pattern.strip() and pattern.isprintable() for pattern in manifest.personal),
        "personal",
        "must name tensors",
    )
    check_choices(manifest)
    check_policies(manifest)
    need(travelling(manifest) <= MAX_PARAMETERS, "parameters", f"{manifest.strategy} sends twice as many")
    try:
        check_topology(manifest)
    except UsageError as error:
        raise ManifestError(f"topology: {error.cause}", hint=error.hint) from None
    try:
        check_compatible(manifest)
    except UsageError as error:
        raise ManifestError(error.cause, hint=error.hint) from None
    names = [artifact.name for artifact in manifest.artifacts]
    need(
        frozenset(names) == REQUIRED_ARTIFACTS and len(names) == len(REQUIRED_ARTIFACTS),
        "artifacts",
        f"must be exactly {', '.join(sorted(REQUIRED_ARTIFACTS))}",
    )
    need(
        all(artifact.blob.size <= MAX_BLOB_BYTES for artifact in manifest.artifacts),
        "artifacts",
        f"no file may be larger than {MAX_BLOB_BYTES} bytes",
    )
    size = len(encode_record(manifest))
    if size > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"the manifest takes {size} bytes, more than {MAX_MANIFEST_BYTES}", hint="shorten its names"
        )
