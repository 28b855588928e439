"""Making an application: from an artifact directory and the owner's wishes to a signed advert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacl.utils import random as random_bytes

from edgefl.daemon.workplace import split_of
from edgefl.errors import ModelError, UsageError
from edgefl.identity.signing import sign_advert
from edgefl.learning.fit import check_fits
from edgefl.learning.manifest import REQUIRED_ARTIFACTS, check_choices, check_manifest
from edgefl.wire.application import (
    SALT_BYTES,
    Advert,
    AppState,
    Artifact,
    Manifest,
    Target,
    Topology,
    pack_advert,
)
from edgefl.wire.blob import ref_of
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon
    from edgefl.store import Store

OPTIONS = frozenset(
    {
        "rounds",
        "quorum",
        "deadline_s",
        "local_epochs",
        "batch",
        "learning_rate",
        "held_back",
        "min_members",
        "strategy",
        "compress",
        "policies",
        "seed",
        "select",
        "over_select",
        "pace",
        "together",
        "zone_rounds",
        "personal",
        "lr_schedule",
        "patience",
        "keep_best",
    }
)
"""Fields of the manifest that an owner may set as they are."""


async def create_application(daemon: Daemon, directory: Path, options: dict[str, Any]) -> Advert:
    """Check, sign, store and announce an application; this device takes part if it has the data, else it watches.

    Raises EdgeflError: artifacts that cannot be read, data that does not fit, settings out of range.
    """
    contents = await daemon.disk.run(lambda _: _read(directory))
    manifest = _manifest(daemon, contents, options)
    check_manifest(manifest)
    source = daemon.effects.data.get(manifest.data)
    check_fits(manifest, daemon.memory_bytes, trains=source is not None)
    if source is not None:
        await daemon.training.check_data(directory, source)
        await daemon.policies.find(manifest)
    advert = sign_advert(daemon.keys, manifest, 1, AppState.RUNNING, daemon.overlay.contact)

    def keep(store: Store) -> None:
        for artifact in manifest.artifacts:
            store.save_artifact(manifest.app_id, artifact.blob, contents[artifact.name])
        store.save_application(manifest.app_id, pack_advert(advert), observer=source is None, owner=True)

    await daemon.disk.run(keep)
    daemon.learning.take_part(advert, daemon.effects.now, observer=source is None, owner=True)
    daemon.announce(advert)
    return advert


def _read(directory: Path) -> dict[str, bytes]:
    """The artifact files by name. Raises ModelError for a directory that is none, or was altered."""
    from edgefl.trainer.files.manifest import FILES, MANIFEST, read_file, read_manifest

    manifest = read_manifest(directory)
    contents = {name: read_file(directory, manifest, name) for name in FILES}
    contents[MANIFEST] = (directory / MANIFEST).read_bytes()
    if set(contents) != REQUIRED_ARTIFACTS:
        raise ModelError(f"{directory} does not hold exactly the artifact files", hint="build the artifacts again")
    return contents


def _manifest(daemon: Daemon, contents: dict[str, bytes], options: dict[str, Any]) -> Manifest:
    from edgefl.trainer.files.manifest import MANIFEST
    from edgefl.trainer.files.manifest import Manifest as Artifacts

    options = dict(options)
    topology, _, topology_options = str(options.pop("topology", "forest")).partition(":")
    if topology.upper() not in Topology.__members__:
        known = ", ".join(name.lower() for name in Topology.__members__)
        raise UsageError(f"topology {topology!r} is not known", hint=f"this release has: {known}")
    scope = Scope[str(options.pop("scope", "global")).upper()]
    target = options.pop("target", None)
    name, data = options.pop("name"), options.pop("data")
    unknown = set(options) - OPTIONS
    if unknown:
        raise UsageError(f"unknown setting {sorted(unknown)[0]!r}", hint="command and daemon are of different versions")
    model = Artifacts.parse(contents[MANIFEST])
    options["personal"] = tuple(options.get("personal") or ())
    artifacts = tuple(Artifact(file, ref_of(content)) for file, content in sorted(contents.items()))
    base = Manifest(
        name=name,
        owner=daemon.keys.public,
        salt=random_bytes(SALT_BYTES),
        artifacts=artifacts,
        data=data,
        parameters=model.vector_size,
        rounds=10,
        topology=Topology[topology.upper()],
        topology_options=topology_options,
        target=Target(target[0], float(target[1])) if target else None,
        scope=scope,
        zone=daemon.overlay.contact.zone if scope is Scope.ZONE else 0,
    )
    manifest = dataclasses.replace(base, **{key: value for key, value in options.items() if value is not None})
    check_choices(manifest)
    return dataclasses.replace(manifest, parameters=split_of(model, manifest).shared_size)
