"""Chunks that are at hand under another name: layers that did not change since the last round's model.

An index of every chunk of every blob in memory by its hash. When the header of an arriving blob is known, what is here
already is copied instead of received, some chunks at a time, each checked like any other.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from edgefl.transport.assembly import Assembly, Stored
from edgefl.wire.blob import split_hashes

SLICE_CHUNKS = 4
"""Chunks copied before the loop gets its turn: 12 ms of hashing on a small device."""


class Whole(Protocol):
    """A blob in memory."""

    hashes: bytes

    def chunk(self, index: int) -> memoryview: ...


class ChunkIndex:
    """Where each chunk is, by its hash: 150 bytes for a chunk of 256 KiB."""

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[Whole, int]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, blob: Whole) -> None:
        for index, digest in enumerate(split_hashes(blob.hashes)):
            self._places[digest] = blob, index

    def remove(self, blob: Whole) -> None:
        for digest in split_hashes(blob.hashes):
            place = self._places.get(digest)
            if place is not None and place[0] is blob:
                del self._places[digest]

    def fill(self, assembly: Assembly, clock: asyncio.AbstractEventLoop) -> None:
        """Begin to copy what is here; `assembly.local` names it until it is copied."""
        found: list[tuple[int, Whole, int]] = []
        for index, digest in enumerate(split_hashes(assembly.hashes or b"")):
            place = self._places.get(digest)
            if place is not None and index in assembly.missing and index not in assembly.local:
                found.append((index, *place))
        assembly.local.update(index for index, _, _ in found)
        if found:
            clock.call_soon(self._copy, assembly, found, clock)

    def _copy(self, assembly: Assembly, found: list[tuple[int, Whole, int]], clock: asyncio.AbstractEventLoop) -> None:
        for index, blob, at in found[:SLICE_CHUNKS]:
            if assembly.ended:
                return
            assembly.local.discard(index)
            if assembly.put(index, blob.chunk(at), clock.time()) is Stored.WRONG:
                assembly.lost.add(index)  # memory that has changed under us: ask like for any other
        if found[SLICE_CHUNKS:]:
            clock.call_soon(self._copy, assembly, found[SLICE_CHUNKS:], clock)
