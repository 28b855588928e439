"""Applications on the wire: the signed manifest that says what is trained and how, and the advert that carries it."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Annotated

from edgefl.wire.blob import BLOB, BlobRef
from edgefl.wire.codec import Record, decode_record, encode_record, nested, record
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, F64, U16, U32, U64, choice, many, optional, raw, text
from edgefl.wire.overlay import MAX_ADVERT_BYTES, Scope

MAX_MANIFEST_BYTES = 4 * 1024
"""An encoded manifest: about 800 bytes today."""

MAX_ARTIFACTS = 8
"""Files of one application: six today."""

MAX_PERSONAL = 8
"""Patterns of tensors that stay on the devices."""

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SALT_BYTES = 16


class Topology(IntEnum):
    """How an application's devices work together; a device refuses what it does not know."""

    FOREST = 0
    """One root at a time, models down and sums up the application's tree (Totoro)."""
    SAMPLED = 1
    """Samples chosen by a hash, an aggregator out of the next sample (MoDeST, Plexus)."""
    CONSENSUS = 2
    """Every device a model of its own, averaged with its neighbours (P2PL)."""


class AppState(IntEnum):
    """What the owner wants; changed by an advert of a higher version."""

    RUNNING = 0
    PAUSED = 1
    STOPPED = 2


@record
class Artifact(Record):
    """One file of the trainer's artifacts."""

    name: Annotated[str, 1, text(64)]
    blob: Annotated[BlobRef, 2, BLOB]


@record
class Target(Record):
    """Stop as soon as this metric, averaged over the held-back data of all devices, reaches the value."""

    metric: Annotated[str, 1, text(32)]
    value: Annotated[float, 2, F64]


@record
class Manifest(Record):
    """Everything that the devices of an application must agree on. Durations in seconds."""

    name: Annotated[str, 1, text(64)]
    owner: Annotated[bytes, 2, raw(PUBLIC_KEY_BYTES, exactly=True)]
    salt: Annotated[bytes, 3, raw(SALT_BYTES, exactly=True)]
    artifacts: Annotated[tuple[Artifact, ...], 4, many(nested(Artifact), MAX_ARTIFACTS)]
    data: Annotated[str, 5, text(64)]
    parameters: Annotated[int, 6, U64]
    rounds: Annotated[int, 7, U32]
    topology: Annotated[Topology, 8, choice(Topology)] = Topology.FOREST
    strategy: Annotated[str, 9, text(128)] = "fedavg"
    target: Annotated[Target | None, 10, optional(nested(Target))] = None
    quorum: Annotated[float, 11, F64] = 0.5
    deadline_s: Annotated[float, 12, F64] = 600.0
    local_epochs: Annotated[int, 13, U16] = 1
    batch: Annotated[int, 14, U16] = 32
    learning_rate: Annotated[float, 15, F64] = 0.05
    held_back: Annotated[float, 16, F64] = 0.2
    min_members: Annotated[int, 17, U16] = 1
    scope: Annotated[Scope, 18, choice(Scope)] = Scope.GLOBAL
    zone: Annotated[int, 19, U16] = 0
    max_samples: Annotated[int, 20, U32] = 1_000_000
    seed: Annotated[int, 21, U64] = 0
    compress: Annotated[str, 22, text(32)] = "none"
    personal: Annotated[tuple[str, ...], 23, many(text(128), MAX_PERSONAL)] = ()
    lr_schedule: Annotated[str, 24, text(128)] = "constant"
    patience: Annotated[int, 25, U32] = 0
    keep_best: Annotated[bool, 26, BOOL] = False
    select: Annotated[int, 27, U32] = 0
    over_select: Annotated[float, 28, F64] = 0.3
    pace: Annotated[str, 29, text(96)] = "sync"
    zone_rounds: Annotated[int, 30, U16] = 1
    policies: Annotated[str, 31, text(128)] = ""
    topology_options: Annotated[str, 32, text(128)] = ""
    together: Annotated[str, 33, text(96)] = ""

    @property
    def app_id(self) -> int:
        """64 bits of BLAKE2b over name, owner and salt: the application's key in the overlay."""
        name = self.name.encode()
        digest = hashlib.blake2b(digest_size=8, person=b"edgefl app id")
        digest.update(len(name).to_bytes(2, "big") + name + self.owner + self.salt)
        return int.from_bytes(digest.digest(), "big")


@record
class Advert(Record):
    """A signed manifest with the state that its owner wants. The holder, who has the artifacts, is a hint: unsigned."""

    manifest: Annotated[bytes, 1, raw(MAX_MANIFEST_BYTES)]
    version: Annotated[int, 2, U32]
    state: Annotated[AppState, 3, choice(AppState)]
    signature: Annotated[bytes, 4, raw(SIGNATURE_BYTES, exactly=True)]
    holder: Annotated[Contact, 5, CONTACT]

    def signed_bytes(self) -> bytes:
        """What the owner's signature covers."""
        return advert_signed_bytes(self.manifest, self.version, self.state)

    def decode_manifest(self) -> Manifest:
        """The manifest inside. Raises WireError."""
        return decode_record(Manifest, self.manifest, limit=MAX_MANIFEST_BYTES)


def advert_signed_bytes(manifest: bytes, version: int, state: AppState) -> bytes:
    """What an owner signs to say: this application shall be in this state."""
    return b"edgefl advert\0" + version.to_bytes(4, "big") + int(state).to_bytes(1, "big") + manifest


def pack_advert(advert: Advert) -> bytes:
    return encode_record(advert)


def unpack_advert(data: bytes) -> Advert:
    """Raises WireError."""
    return decode_record(Advert, data, limit=MAX_ADVERT_BYTES)
