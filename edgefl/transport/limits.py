"""How much memory the transport may hold, scaled to the device: one budget, shared out once."""

from __future__ import annotations

from edgefl.declared import dataclass

MAX_CACHE_BYTES = 128 * 1024 * 1024
"""Blobs in memory: five models of 25 MB. A single larger blob is still held, alone."""

MAX_ASSEMBLY_BYTES = 128 * 1024 * 1024
"""Blobs that are arriving; a fetch beyond it waits its turn. A single larger blob still arrives, alone."""

MAX_PUSH_BYTES = 64 * 1024 * 1024
"""Chunks inside ZeroMQ that some child has not taken: two rounds of a 25 MB model. It is memory that stays taken after
a blob was discarded."""

MIN_SHARE_BYTES = 4 * 1024 * 1024
"""Each share at the least: sixteen chunks."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of blobs at hand, of blobs that are arriving, and of chunks on their way out."""

    cache_bytes: int = MAX_CACHE_BYTES
    assembly_bytes: int = MAX_ASSEMBLY_BYTES
    push_bytes: int = MAX_PUSH_BYTES

    @property
    def total_bytes(self) -> int:
        """What all of it takes at the most, as long as no single blob is larger than its share."""
        return self.cache_bytes + self.assembly_bytes + self.push_bytes


def limits_for(memory_bytes: int | None) -> Limits:
    """Half of a device's memory for the transport: a quarter of that for what is on its way out, the rest in halves.
    None: a device with enough."""
    if memory_bytes is None:
        return Limits()
    budget = memory_bytes // 2
    share = max(MIN_SHARE_BYTES, budget * 3 // 8)
    pushed = max(MIN_SHARE_BYTES, budget // 4)
    return Limits(min(MAX_CACHE_BYTES, share), min(MAX_ASSEMBLY_BYTES, share), min(MAX_PUSH_BYTES, pushed))
