"""One data set split between devices.

Invariant of every split: each sample is in exactly one part, and every part has at least the minimum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


def dirichlet(
    labels: npt.NDArray[Any], parts: int, alpha: float, rng: np.random.Generator, minimum: int = 1
) -> list[Indices]:
    """Label skew: each class is shared out in proportions drawn from Dirichlet(alpha); sorted index arrays.

    Small alpha makes parts that know few classes, large alpha makes them alike. Parts that fall short of `minimum` are
    filled up with random samples from the largest. Raises ValueError for labels that are too few.
    Source: T.-M. H. Hsu, H. Qi and M. Brown, Measuring the Effects of Non-Identical Data Distribution, 2019.
    """
    if parts < 1 or alpha <= 0 or minimum < 0 or len(labels) < parts * minimum:
        raise ValueError(f"cannot split {len(labels)} samples into {parts} parts of at least {minimum}, alpha {alpha}")
    shares: list[list[int]] = [[] for _ in range(parts)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        edges = np.cumsum(rng.dirichlet(np.full(parts, alpha)))[:-1] * len(members)
        for share, chunk in zip(shares, np.split(members, np.round(edges).astype(int)), strict=True):
            share.extend(chunk.tolist())
    for share in shares:
        while len(share) < minimum:
            largest = max(shares, key=len)
            share.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.sort(np.array(share, dtype=np.intp)) for share in shares]


def few_classes(labels: npt.NDArray[Any], parts: int, classes: int, rng: np.random.Generator) -> list[Indices]:
    """Every part has samples of exactly so many classes, drawn at random; sorted index arrays.

    Each class is shared out evenly between the parts that have it, and the classes have as equal numbers of parts as
    can be. Raises ValueError where a class has fewer samples than parts, or there are fewer classes.
    """
    known = np.unique(labels)
    if not 1 <= classes <= len(known) or parts * classes < len(known):
        raise ValueError(f"cannot give each of {parts} parts {classes} of {len(known)} classes, and use them all")
    taken = dict.fromkeys(known.tolist(), 0)
    having: dict[int, list[int]] = {label: [] for label in taken}
    for part in range(parts):
        order = sorted(rng.permutation(known).tolist(), key=lambda label: taken[label])
        for label in order[:classes]:
            taken[label] += 1
            having[label].append(part)
    shares: list[list[int]] = [[] for _ in range(parts)]
    for label, holders in having.items():
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < len(holders):
            raise ValueError(f"{len(members)} samples of class {label} for {len(holders)} parts")
        for part, chunk in zip(holders, np.array_split(members, len(holders)), strict=True):
            shares[part].extend(chunk.tolist())
    return [np.sort(np.array(share, dtype=np.intp)) for share in shares]
