"""The rules by which a device chooses among its candidate parents, and the numbers in them.

    acbr    admission-checked better response: ask the best advertised candidate, which re-checks with its fresh load
    smooth  alpha-smooth migration: go to it with a probability that grows with the gain; nobody is asked
    rtt     the nearest, for good: what the tree does by itself
    klucb   Totoro's index: KL-UCB of each link's success, plus the distance vector J of the rest of the path
    exp3    EXP3-IX: exponential weights on one's own measured cost alone

`acbr` settles in 6 to 8 epochs at any fleet size and moves nobody afterwards; the others are baselines (overlay study,
2.2 and 2.3).
"""

from __future__ import annotations

import enum

from edgefl.declared import dataclass

CANDIDATES = 5
"""K: cost is 8 % above the optimum with 2, 1 % with 5, no better with 8 (overlay study, 2.3)."""

NEAREST_CANDIDATES = 3
"""Of the K; the others are random, so that no part of the tree is out of sight."""


class Rule(str, enum.Enum):
    ACBR = "acbr"
    SMOOTH = "smooth"
    RTT = "rtt"
    KLUCB = "klucb"
    EXP3 = "exp3"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of the rules; the defaults are those of the overlay study, 2.2."""

    revise: float = 0.25
    """rho: the share of players that reconsider in an epoch. Above it, parents would have to grant leaves too."""
    urge: float = 0.4
    """Who would gain more reconsiders sooner: this times the share of the cost to be gained is added. Settles in 6
    epochs instead of 8, with no more moves. At 0.75 the fleets of `edgefl sim game` settle no sooner, with a third more
    moves."""
    eta_share: float = 0.02
    eta_s: float = 0.02
    """A move gains more than the larger of this share of the cost and so many seconds."""
    delay_weight: float = 0.2
    """lambda: how much the parent's own delay to the root counts. 0 is best for the sum of costs; at 0.2 rounds take
    half as long (`edgefl sim game --compare`) and the sum is 4 % above the optimum."""
    window: int = 10
    """Epochs between refreshes of advertised delays, and of the worst candidate."""
    learn: float = 0.5
    """How much of a surprise a residual takes in at once."""
    forget: float = 0.001
    """What a residual loses per epoch: whoever has lied is tried again, rarely."""
    alpha: float = 0.5
    """Of `smooth`: probability of a move per relative gain."""


DEFAULT = Parameters()
"""Of the study, and of `edgefl sim game`."""

DEVICE = Parameters(eta_share=0.05, delay_weight=0.5, urge=1.5)
"""What devices play by. A hop on the way costs them their own link as well, which the study's model has not, so D
counts more. (At 0.5 / 0.7 / 1.0 a round took 1.11 / 1.06 / 1.11 of that of the best static tree, mean of ten simulated
fleets of 16; but among real daemons 1.6 and 1.7 at 0.7, beside 0.93 to 1.42 at 0.5.) Small gains are noise. Who could
do with half the cost does not wait for its turn: a device that gets busy with other work loses most of its children in
two rounds. (An urge of 0.75 left up to twice as many, 2.5 no fewer.)"""
