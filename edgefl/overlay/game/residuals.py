"""What candidates cost beyond their own word, learnt from what was measured (overlay study, 2.2).

A device that lies about its load, or does not know better, is found out by those who use it: the surprise is added to
whatever it advertises from then on. It fades, so that everybody is tried again, rarely.

A device that gets busy in the middle of a round surprises its children as well, but says so with its next word. That is
no lie, and tells nothing about the device once it is idle again: such a surprise passes within a few rounds. (So one
that raises its word after each time that it was too low is tried again every few rounds. It costs its child one of
them.)
"""

from __future__ import annotations

from edgefl.overlay.game.rules import Parameters

MAX_REMEMBERED = 64
"""Devices with a residual: a dozen times the candidates, so that a liar that was replaced is not taken for new."""

FORGOTTEN_S = 1e-3
"""Smaller residuals are not worth a place."""

PASSES = 0.5
"""What is left of a passing surprise after an epoch: sensors take a few rounds to see all of a new load."""


class Residuals:
    """By node id, in seconds; positive for those that were worse than they said."""

    __slots__ = ("_parameters", "_passing_s", "_residual_s")

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._residual_s: dict[int, float] = {}
        self._passing_s: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._residual_s) + len(self._passing_s)

    def of(self, node_id: int) -> float:
        return self._residual_s.get(node_id, 0.0) + self._passing_s.get(node_id, 0.0)

    def learn(self, node_id: int, observed_s: float, predicted_s: float) -> None:
        """What a round there took, beside what its advert had promised. The one learnt of last stays longest."""
        old_s = self._residual_s.pop(node_id, 0.0)
        self._residual_s[node_id] = old_s + self._parameters.learn * (observed_s - predicted_s - old_s)
        if len(self._residual_s) > MAX_REMEMBERED:
            del self._residual_s[next(iter(self._residual_s))]

    def excuse(self, node_id: int, observed_s: float, predicted_s: float) -> None:
        """The same of a device that has become busier meanwhile, by its own word."""
        surprise_s = observed_s - predicted_s - self._residual_s.get(node_id, 0.0)
        known_s = self._passing_s.pop(node_id, 0.0)
        self._passing_s[node_id] = max(known_s, self._parameters.learn * surprise_s)
        if len(self._passing_s) > MAX_REMEMBERED:
            del self._passing_s[next(iter(self._passing_s))]

    def fade(self) -> None:
        """One epoch has passed."""
        self._residual_s = _kept(self._residual_s, 1 - self._parameters.forget)
        self._passing_s = _kept(self._passing_s, PASSES)


def _kept(residuals_s: dict[int, float], share: float) -> dict[int, float]:
    return {node_id: share * s for node_id, s in residuals_s.items() if abs(share * s) > FORGOTTEN_S}
