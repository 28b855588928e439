"""Weights of one consensus step, over the neighbours that were heard. Every rule sums to 1 (row-stochastic).

`samples` (P2PL): in proportion to local data; converges to a mean in which well-connected devices count more.
`metropolis`: 1 / (1 + max degree) to each neighbour, the rest to itself; on an undirected graph where everybody is
heard it is doubly stochastic and keeps the plain mean exactly. `equal`: all the same (D-PSGD on regular graphs).
`push-sum`: masses that travel with the models (push_sum.py); the only rule that keeps the mean weighted by samples
exactly, whatever the graph and whatever is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.learning.consensus.heard import Heard

PUSH_SUM = "push-sum"
RULES = ("samples", "metropolis", "equal", PUSH_SUM)


def weights(
    rule: str, own_samples: int, own_degree: int, samples: Sequence[int], degrees: Sequence[int]
) -> tuple[float, list[float]]:
    """(this device's weight, one for each neighbour heard). Raises ValueError for a rule without fixed weights."""
    if rule == "equal":
        share = 1 / (1 + len(samples))
        return share, [share] * len(samples)
    if rule == "samples":
        total = max(1, own_samples + sum(samples))
        return 1 - sum(samples) / total, [count / total for count in samples]
    if rule == "metropolis":
        shares = [1 / (1 + max(own_degree, degree, len(degrees))) for degree in degrees]
        return 1 - sum(shares), shares
    raise ValueError(f"no weights for the mixing rule {rule!r}")


def weighted(rule: str, own: Heard, others: Sequence[Heard]) -> list[tuple[float, NDArray[np.float32]]]:
    """(weight, vector) of every model in an average, the own one first."""
    samples, degrees = [heard.samples for heard in others], [heard.degree for heard in others]
    own_share, shares = weights(rule, own.samples, own.degree, samples, degrees)
    return [(own_share, own.vector), *((share, heard.vector) for share, heard in zip(shares, others, strict=True))]
