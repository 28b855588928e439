"""Epsilon: what devices could still gain by another parent, summed up on its way to the root (overlay study, 2.4).

Each device adds its own gain, by the adverts that it knows; a parent adds its children's sums to its own. The mean is
weighted by bytes. It errs upwards as long as adverts are old, and it is an estimate within the candidates and the
model, not a bound: every document that shows it says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.declared import dataclass

BINS_S = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Upper limits of the histogram's bins; the eighth is open."""

MEANING = (
    "no device could speed up its uplink by more than {max_s:.2g} s ({share:.2%} on average, weighted by bytes) by"
    " choosing another of its candidate parents; {players} devices, estimated from their adverts"
)


@dataclass(frozen=True, slots=True)
class Epsilon:
    """Sums over players: the largest gain in seconds, gains and costs times bytes, players, gains by size."""

    max_s: float = 0.0
    gain_byte_s: float = 0.0
    cost_byte_s: float = 0.0
    players: int = 0
    bins: tuple[int, ...] = (0,) * (len(BINS_S) + 1)

    @property
    def share(self) -> float:
        """epsilon_rel: the gain still to be had, as a share of the cost."""
        return self.gain_byte_s / self.cost_byte_s if self.cost_byte_s > 0 else 0.0

    def sentence(self) -> str:
        """What it means, for people."""
        if not self.players:
            return "no device has compared its parent with others yet"
        return MEANING.format(max_s=self.max_s, share=self.share, players=self.players)


def of_player(gain_s: float, cost_s: float, size_bytes: float) -> Epsilon:
    """One device's part. A negative gain is none."""
    gain_s = max(0.0, gain_s)
    at = sum(gain_s > limit for limit in BINS_S)
    bins = tuple(int(number == at) for number in range(len(BINS_S) + 1))
    return Epsilon(gain_s, gain_s * size_bytes, max(0.0, cost_s) * size_bytes, 1, bins)


def total(parts: Iterable[Epsilon]) -> Epsilon:
    """The sum over devices; in any order and grouping the same but for rounding."""
    result = Epsilon()
    for part in parts:
        result = Epsilon(
            max(result.max_s, part.max_s),
            result.gain_byte_s + part.gain_byte_s,
            result.cost_byte_s + part.cost_byte_s,
            result.players + part.players,
            tuple(mine + theirs for mine, theirs in zip(result.bins, part.bins, strict=True)),
        )
    return result
