"""Landmark binning, the baseline: a zone is the order of the RTTs to a few landmarks, and a level of each (Totoro).

Landmarks are the owners of well-known keys, so that everybody means the same devices without being told. Kept for
comparison: with 4 landmarks 0.69 of the pairs that share a zone still do when everybody measures again, with 8 0.25
(overlay study 1.4); and when a landmark changes hands, all zones change.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence

LANDMARKS = 4
"""More tear zones apart: 49 zones with 4, 339 (151 of one device) with 8."""

LEVELS_S = (0.1, 0.2)
"""As published: near, middle, far."""


def landmark_key(index: int) -> int:
    """The key whose owner is landmark number `index`."""
    digest = hashlib.blake2b(bytes((index,)), digest_size=8, person=b"edgefl landmark").digest()
    return int.from_bytes(digest, "big")


def landmark_bin(rtts_s: Sequence[float]) -> tuple[int, ...]:
    """The bin of a device by its RTTs to the landmarks, in seconds: their order, then the level of each."""
    order = sorted(range(len(rtts_s)), key=lambda index: (rtts_s[index], index))
    return (*order, *(bisect_right(LEVELS_S, rtt_s) for rtt_s in rtts_s))


def zone_of_bin(bin_: tuple[int, ...]) -> int:
    """The 16-bit label of a bin, never 0."""
    digest = hashlib.blake2b(bytes(bin_), digest_size=8, person=b"edgefl bin").digest()
    return int.from_bytes(digest, "big") % 0xFFFF + 1
