"""A bundle: one file with everything that a new system consists of, signed by the fleet's owner.

    head    magic, length of the manifest (4 bytes, big endian), manifest (JSON), signature (Ed25519, the fleet's key)
    boot    a tar file: kernel, initramfs, and a Pi's device trees, for the place's folder on the boot partition
    root    the root file system, compressed by zstd

The manifest has the hash of both, so nothing of them is interpreted before it is known to be the owner's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from edgefl.errors import LocalError
from edgefl.identity.keys import signed_by

MAGIC = b"edgefl update 1\n"
CONTEXT = b"edgefl update manifest 1\0"
"""Before what is signed: the fleet's key signs other things too."""

SIGNATURE_BYTES = 64
MAX_MANIFEST_BYTES = 16 * 1024
MAX_BOOT_BYTES = 200 << 20
MAX_ROOT_BYTES = 2 << 30
"""Of one part, as it is stored: what a device takes from a stranger before it knows better is far less."""

BLOCK_BYTES = 1 << 20


class UpdateError(LocalError):
    """A bundle that is damaged, not the owner's, or not for this device; or a place that cannot be written."""

    name = "update"


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Signer(Protocol):
    def sign(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Part:
    size: int
    sha256: str
    """As stored, in bytes and hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`target` is the recipe's name. A device takes only a higher `serial` than it has. `cmdline` is what the kernel is
    told besides its place. `unpacked` is the root file system itself."""

    target: str
    serial: int
    version: str
    cmdline: str
    boot: Part
    root: Part
    unpacked: Part

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @property
    def size(self) -> int:
        """Bytes of both parts."""
        return self.boot.size + self.root.size


def head(manifest: Manifest, key: Signer) -> bytes:
    """What stands in a bundle before its parts."""
    body = manifest.encode()
    return MAGIC + len(body).to_bytes(4, "big") + body + key.sign(CONTEXT + body)


def read_head(stream: Stream, fleet: bytes) -> Manifest:
    """The manifest, if it is signed by this fleet's owner. Raises UpdateError."""
    start = _exactly(stream, len(MAGIC) + 4)
    length = int.from_bytes(start[-4:], "big")
    if start[:-4] != MAGIC or length > MAX_MANIFEST_BYTES:
        raise UpdateError("this is no update of edgefl", hint="edgefl image bundle makes one")
    body, signature = _exactly(stream, length), _exactly(stream, SIGNATURE_BYTES)
    if not signed_by(fleet, CONTEXT + body, signature):
        raise UpdateError("the update is not signed by this fleet's owner", hint="make it with the fleet's own key")
    return _decode(body)


def _decode(body: bytes) -> Manifest:
    try:
        document: dict[str, Any] = json.loads(body)
        for name in ("boot", "root", "unpacked"):
            document[name] = Part(int(document[name]["size"]), str(document[name]["sha256"]))
        manifest = Manifest(**document)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UpdateError("the update is of another version of edgefl", hint="install the versions between") from None
    if not (0 < manifest.boot.size <= MAX_BOOT_BYTES and 0 < manifest.root.size <= MAX_ROOT_BYTES):
        raise UpdateError("the update is larger than any device takes", hint="build it again")
    return manifest


def _exactly(stream: Stream, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = stream.read(size - len(content))
        if not piece:
            raise UpdateError("the update ends too early", hint="copy it again")
        content += piece
    return content


def copy_part(stream: Stream, part: Part, write: Callable[[bytes], object]) -> None:
    """The next part of a bundle through `write`, block by block. Raises UpdateError when it is not what was signed:
    what was written until then must not be used."""
    digest = hashlib.sha256()
    left = part.size
    while left:
        block = stream.read(min(left, BLOCK_BYTES))
        if not block:
            raise UpdateError("the update ends too early", hint="copy it again")
        digest.update(block)
        write(block)
        left -= len(block)
    if digest.hexdigest() != part.sha256:
        raise UpdateError("the update is damaged", hint="copy it again")
