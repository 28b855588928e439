"""Messages of the routing game: what a parent would cost, and the question whether one may come.

What they do is told in edgefl/overlay/game/player.py.
"""

from __future__ import annotations

from typing import Annotated

from edgefl.wire.codec import Message, Record, message, record
from edgefl.wire.fields import BOOL, F64, U32, U64, many


@message(45)
class PriceAsk(Message):
    """What would you cost me as a parent in the tree of `app`?"""

    app: Annotated[int, 1, U64]


@message(46)
class PriceTold(Message):
    """Answer: seconds per byte, penalty in seconds, bytes promised per round over all applications (the receiver's own
    included, if it is a child), seconds to the root. `closed`: no place, or no children at all. To devices outside the
    sender's site: the same two numbers of the uplink which its devices share, as far as they are known."""

    app: Annotated[int, 1, U64]
    s_per_byte: Annotated[float, 2, F64] = 0.0
    penalty_s: Annotated[float, 3, F64] = 0.0
    load_bytes: Annotated[int, 4, U64] = 0
    delay_s: Annotated[float, 5, F64] = 0.0
    closed: Annotated[bool, 6, BOOL] = False
    site_s_per_byte: Annotated[float, 7, F64] = 0.0
    site_load_bytes: Annotated[int, 8, U64] = 0


@message(47)
class MoveAsk(Message):
    """I send `size_bytes` per round and gain if your part of my cost is below `budget_s`: may I come?"""

    app: Annotated[int, 1, U64]
    size_bytes: Annotated[int, 2, U64]
    budget_s: Annotated[float, 3, F64]


@message(48)
class MoveTold(Message):
    """Answer, by the load of this moment. A place that is granted is kept for a while."""

    app: Annotated[int, 1, U64]
    granted: Annotated[bool, 2, BOOL]
    load_bytes: Annotated[int, 3, U64] = 0


@message(36)
class SitePromise(Message):
    """Body of a Route to the register of the origin's site: what the origin carries over its uplink per round."""

    promised_bytes: Annotated[int, 1, U64]


@message(37)
class SiteLoad(Message):
    """The register's answer: what all other devices of the site have promised, and how many they are."""

    others_bytes: Annotated[int, 1, U64]
    others: Annotated[int, 2, U32] = 0


EPSILON_BINS = 8


@record
class EpsilonSum(Record):
    """What the devices of a subtree could still gain (edgefl/overlay/game/equilibrium.py)."""

    max_s: Annotated[float, 1, F64] = 0.0
    gain_byte_s: Annotated[float, 2, F64] = 0.0
    cost_byte_s: Annotated[float, 3, F64] = 0.0
    players: Annotated[int, 4, U32] = 0
    bins: Annotated[tuple[int, ...], 5, many(U32, EPSILON_BINS)] = (0,) * EPSILON_BINS
