"""Blobs: names depend on content alone, and every chunk can be checked by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import WireError
from edgefl.wire.blob import (
    CHUNK_BYTES,
    HASH_BYTES,
    MAX_BLOB_BYTES,
    BlobRef,
    blob_ref,
    chunk_hash,
    hash_chunks,
    ref_of,
)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_different_content_has_a_different_name(a: bytes, b: bytes) -> None:
    assert (ref_of(a) == ref_of(b)) == (a == b)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_cover_the_blob(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    ref = ref_of(data)
    assert ref.size == size
    assert sum(ref.chunk_size(i) for i in range(ref.chunks)) == size
    hashes = hash_chunks(data)
    assert len(hashes) == ref.chunks * HASH_BYTES
    for i in range(ref.chunks):
        assert chunk_hash(data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]) == hashes[32 * i : 32 * i + 32]


def test_size_and_hashes_must_belong_together() -> None:
    assert blob_ref(5, bytes(32)) != blob_ref(6, bytes(32))
    with pytest.raises(WireError):
        blob_ref(CHUNK_BYTES + 1, bytes(32))
    with pytest.raises(WireError):
        blob_ref(MAX_BLOB_BYTES + 1, bytes(32))
    assert blob_ref(MAX_BLOB_BYTES, bytes(CHUNK_BYTES)).chunks == CHUNK_BYTES // HASH_BYTES


def test_a_name_is_short_for_people() -> None:
    assert str(BlobRef(bytes(32), 5)) == "0" * 12
