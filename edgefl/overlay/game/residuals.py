"""What candidates cost beyond their own word, learnt from what was measured (overlay study, 2.2).

A device that lies about its load, or does not know better, is found out by those who use it: the surprise is added to
whatever it advertises from then on. It fades, so that everybody is tried again, rarely.
"""

from __future__ import annotations

from edgefl.overlay.game.rules import Parameters

MAX_REMEMBERED = 64
"""Devices with a residual: a dozen times the candidates, so that a liar that was replaced is not taken for new."""

FORGOTTEN_S = 1e-3
"""Smaller residuals are not worth a place."""


class Residuals:
    """By node id, in seconds; positive for those that were worse than they said."""

    __slots__ = ("_parameters", "_residual_s")

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._residual_s: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._residual_s)

    def of(self, node_id: int) -> float:
        return self._residual_s.get(node_id, 0.0)

    def learn(self, node_id: int, observed_s: float, predicted_s: float) -> None:
        """What a round there took, beside what its advert had promised. The one learnt of last stays longest."""
        old_s = self._residual_s.pop(node_id, 0.0)
        self._residual_s[node_id] = old_s + self._parameters.learn * (observed_s - predicted_s - old_s)
        if len(self._residual_s) > MAX_REMEMBERED:
            del self._residual_s[next(iter(self._residual_s))]

    def fade(self) -> None:
        """One epoch has passed."""
        keep = 1 - self._parameters.forget
        faded = {node_id: keep * value for node_id, value in self._residual_s.items()}
        self._residual_s = {node_id: value for node_id, value in faded.items() if abs(value) > FORGOTTEN_S}
