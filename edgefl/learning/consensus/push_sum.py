"""Push-sum: every device has a mass, and gives shares of it away together with its model.

A model that is given with the mass m counts m in the receiver's average; the giver keeps the rest. Sums of (mass x
model) and of mass over all devices never change by this, so what the devices agree on is the exact mean of their models
weighted by samples, on directed graphs and whatever the degrees are (rows need not be stochastic: columns are, since
every share is taken off its giver).

**Mass is never lost or doubled, whatever messages are.** It moves in two words about one scalar, on each edge one
transfer at a time:

    receiver -> giver   claim (round, step)          "I hold this model of yours", repeated until it is answered
    giver -> receiver   grant (round, step, mass)    deducted once; the same answer to the same claim, ever again
                                                     0 if the giver has gone on from that step

No claim, no deduction: a link that is down costs nothing. A lost grant is in flight until the claim is repeated; the
receiver holds the model as long. Only a giver that dies between its grant and its arrival takes that share with it, as
it takes its own mass; the rest then agree on a mean with slightly other weights.

Source: Kempe, Dobra and Gehrke, Gossip-Based Computation of Aggregate Information, 2003; Assran et al., Stochastic
Gradient Push, 2019. Answering repeated claims is what running sums (Hadjicostis et al., 2016) do for a lost share, here
without a vector for each neighbour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.consensus.heard import Key

    Vector = NDArray[np.float32]

MAX_REMEMBERED = 256
"""Receivers whose last grant is remembered; far more than a device has neighbours at a time."""

MAX_GAIN = 4.0
"""Stochastic gradient push scales a local step by samples / mass; a device that has just given away most of its mass
must not take a leap."""


class Mass:
    """The mass of one device, what it has granted to whom, and what it was granted since the last average."""

    def __init__(self) -> None:
        self.own = 0.0
        self._samples = 0
        self._share = 0.0
        self._granted: dict[int, tuple[Key, float]] = {}
        self._claims: dict[int, tuple[Key, Vector]] = {}
        self._inbox: NDArray[np.float64] | None = None
        self._inbox_mass = 0.0

    @property
    def total(self) -> float:
        """Own mass and what waits to be averaged."""
        return self.own + self._inbox_mass

    def gain(self, samples: int) -> float:
        """What a local step is multiplied by, so that in the sum over all devices it counts `samples`. Brings the mass
        in line with the samples first: at the start, and when the data has changed."""
        if self.own + samples - self._samples > 0:
            self.own += samples - self._samples
            self._samples = samples
        return min(MAX_GAIN, samples / self.own)

    # Giving

    def offer(self, receivers: int) -> None:
        """A new step begins, with so many receivers: each may have one share, and one stays here."""
        self._share = self.own / (1 + receivers)

    def on_claim(self, receiver: int, key: Key, here: Key | None) -> float:
        """The answer to a claim; `here`: the step in which shares are given now to this receiver, None for none."""
        last = self._granted.get(receiver)
        if last is not None and last[0] == key:
            return last[1]
        if key != here or not 0 < self._share < self.own:
            return 0.0
        self.own -= self._share
        self._granted.pop(receiver, None)
        self._granted[receiver] = key, self._share
        if len(self._granted) > MAX_REMEMBERED:
            del self._granted[next(iter(self._granted))]
        return self._share

    def has_given(self, receiver: int, key: Key) -> bool:
        last = self._granted.get(receiver)
        return last is not None and last[0] == key

    # Taking

    @property
    def claims(self) -> dict[int, Key]:
        """Claims without an answer, by giver."""
        return {giver: key for giver, (key, _) in self._claims.items()}

    def claim(self, giver: int, key: Key, model: Vector) -> None:
        """Hold this model until its giver has answered."""
        self._claims[giver] = key, model

    def on_grant(self, giver: int, key: Key, mass: float) -> bool:
        """Whether this answers an open claim."""
        claim = self._claims.get(giver)
        if claim is None or claim[0] != key:
            return False
        del self._claims[giver]
        if mass > 0:
            if self._inbox is None:
                self._inbox = np.zeros(claim[1].shape, np.float64)
            self._inbox += mass * claim[1]
            self._inbox_mass += mass
        return True

    def forget(self, peer: int) -> None:
        """The peer is gone for good."""
        self._claims.pop(peer, None)
        self._granted.pop(peer, None)

    def shares(self, model: Vector) -> list[tuple[float, NDArray[Any]]]:
        """(weight, vector) of the average after this step: the own model and all that was granted, each by its mass.
        What was granted is this device's own from now on."""
        if self._inbox is None:
            return [(1.0, model)]
        total = self.total
        shares: list[tuple[float, NDArray[Any]]] = [(self.own / total, model), (1 / total, self._inbox)]
        self.own, self._inbox, self._inbox_mass = total, None, 0.0
        return shares
