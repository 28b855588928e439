"""Who is in the sample of a round, who aggregates, and who gets the model first.

One order of all candidates for each round, the same everywhere.

The order is by keyed BLAKE2b-64 of (node id, round). The key is the application's salt: nobody can choose a node id
that comes first before the application exists (Plexus uses MD5 without a key).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from edgefl.median import median
from edgefl.wire.contact import NODE_ID_BITS
from edgefl.wire.sampled import Entry


def place(key: bytes, node_id: int, round_: int) -> int:
    """64 bits that decide a device's place in the order of a round."""
    data = node_id.to_bytes(NODE_ID_BITS // 8, "big") + round_.to_bytes(4, "big")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key).digest(), "big")


def order(key: bytes, candidates: Iterable[Entry], round_: int) -> list[Entry]:
    """The candidates in the order of this round."""
    return sorted(candidates, key=lambda entry: (place(key, entry.contact.node_id, round_), entry.contact.node_id))


def aggregators(ordered: list[Entry], sample: int, served: Collection[int], *, by_uplink: bool) -> list[Entry]:
    """Who shall aggregate, in the order of asking: the sample, the fastest uplink first (Plexus) or as it is (MoDeST),
    then everybody else. `served`: who aggregated in the last rounds."""
    if not by_uplink:
        return list(ordered)

    def duty(entry: Entry) -> int:
        return (entry.contact.node_id in served) - entry.uplink  # log2: one less is half

    return sorted(ordered[:sample], key=duty) + ordered[sample:]


def handed_out(sample: Iterable[int], seconds: Mapping[int, float], wanted: int) -> list[int]:
    """The sample in the order in which it gets the model, of which one copy leaves after the other. The round ends when
    `wanted` of them are back: the quickest `wanted`, the slowest of those first, then the others. `seconds`: what each
    is expected to take; whoever is not in it counts as the median."""
    middle = median(seconds.values()) if seconds else 0.0
    quickest = sorted(sample, key=lambda node_id: seconds.get(node_id, middle))
    return quickest[:wanted][::-1] + quickest[wanted:]
