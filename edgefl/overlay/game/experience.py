"""What a player learns from its rounds: how long its update waited at the parent, beside what the parent had said.

Two things make an update wait that no advert tells of: the player's own link, and a parent that lies or does not know
better. The own link takes the same below every parent, so it is no surprise: it is the shortest wait there ever was,
which drifts up slowly, as links get slower too. The rest is the parent's, and goes into its residual (residuals.py).

    round over   prediction = the parent's word at that time + the own link; kept until the parent has spoken again
    its word     it has become busier by that word: the surprise passes; else, or if no word comes, it is a residual
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgefl.overlay.game.residuals import Residuals
    from edgefl.wire.game import PriceTold

OWN_DRIFT = 0.01
"""Per epoch: a link that has become slower is believed after some dozen rounds."""

BUSIER = 1.15
"""A parent's new word says that it has become busier: a quarter of an octave (prices come in eighths)."""


class _Round(NamedTuple):
    """How long our update waited at a parent in a round, how long it should have by its word, and its price then."""

    parent: int
    waited_s: float
    predicted_s: float
    s_per_byte: float


class Experience:
    """Of one player. `own_s`: what its own link takes, None before the first round."""

    __slots__ = ("_last", "_residuals", "own_s")

    def __init__(self, residuals: Residuals) -> None:
        self._residuals = residuals
        self._last: _Round | None = None
        self.own_s: float | None = None

    def on_round_over(self, parent: int, told: PriceTold | None, site_s: float, waited_s: float) -> None:
        """`told`: the parent's last word, without which there is nothing to learn; `site_s`: what its site costs us."""
        self._residuals.fade()
        self._last = None
        if told is None:
            return
        # No wait was ever shorter than what our link takes; nor is the shortest wait ever taken for longer than it was,
        # whatever the parent had predicted.
        own_s = waited_s if self.own_s is None else min(waited_s, self.own_s + OWN_DRIFT * self.own_s)
        self.own_s = own_s
        own_word_s = told.penalty_s + told.s_per_byte * told.load_bytes + site_s
        self._last = _Round(parent, waited_s, own_word_s + own_s, told.s_per_byte)

    def learn(self, words: Mapping[int, PriceTold]) -> None:
        """What the last round has taught, now that the parent's new word is here (or will not come)."""
        last, self._last = self._last, None
        if last is None:
            return
        told = words.get(last.parent)
        busier = told is not None and told.s_per_byte >= BUSIER * last.s_per_byte
        take_in = self._residuals.excuse if busier else self._residuals.learn
        take_in(last.parent, last.waited_s, last.predicted_s)

    def forget_round(self) -> None:
        self._last = None

    def surprise_s(self, node_id: int) -> float:
        """What to add to a device's word. That one was better than its word may have been luck."""
        return max(0.0, self._residuals.of(node_id))
