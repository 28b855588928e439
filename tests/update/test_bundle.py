"""A bundle says what it is, and only the fleet's owner can say it."""

from __future__ import annotations

import hashlib
import io

import pytest

from edgefl.identity.fleet import FleetKey
from edgefl.update.bundle import MAGIC, MAX_ROOT_BYTES, Manifest, Part, UpdateError, copy_part, head, read_head

KEY = FleetKey(bytes(32))


def part(content: bytes) -> Part:
    return Part(len(content), hashlib.sha256(content).hexdigest())


def manifest(root: Part | None = None) -> Manifest:
    return Manifest("pc", 7, "1.2.3", "ro quiet", part(b"boot"), root or part(b"root"), part(b"unpacked"))


def test_what_is_signed_is_read() -> None:
    assert read_head(io.BytesIO(head(manifest(), KEY) + b"parts"), KEY.public) == manifest()


def test_another_fleets_owner_is_refused() -> None:
    with pytest.raises(UpdateError, match="not signed by this fleet's owner"):
        read_head(io.BytesIO(head(manifest(), FleetKey(bytes(31) + b"1"))), KEY.public)


@pytest.mark.parametrize("at", range(0, len(head(manifest(), KEY)), 7))
def test_a_changed_or_cut_head_is_refused(at: int) -> None:
    good = head(manifest(), KEY)
    for bad in (good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good[:at]):
        with pytest.raises(UpdateError):
            read_head(io.BytesIO(bad), KEY.public)


def test_a_huge_manifest_is_not_read() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    stream = Counting(MAGIC + b"\xff\xff\xff\xff" + bytes(1 << 20))
    with pytest.raises(UpdateError):
        read_head(stream, KEY.public)
    assert stream.taken == len(MAGIC) + 4


def test_parts_have_bounds() -> None:
    with pytest.raises(UpdateError, match="larger"):
        read_head(io.BytesIO(head(manifest(Part(MAX_ROOT_BYTES + 1, "")), KEY)), KEY.public)


def test_a_part_is_copied_whole_or_refused() -> None:
    content = bytes(range(256)) * 20_000
    out: list[bytes] = []
    copy_part(io.BytesIO(content + b"what follows"), part(content), out.append)
    assert b"".join(out) == content
    with pytest.raises(UpdateError, match="damaged"):
        copy_part(io.BytesIO(content[:-1] + b"x"), part(content), out.append)
    with pytest.raises(UpdateError, match="too early"):
        copy_part(io.BytesIO(content[:-1]), part(content), out.append)
