"""Messages of a walk through a tree: each device tells where it stands, what it pays, who is next to it.

What they are for is told in edgefl/overlay/tree_walk.py.
"""

from __future__ import annotations

from typing import Annotated

from edgefl.wire.codec import Message, message
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, F64, U64, many, optional

MAX_NEIGHBOURS = 12
"""Children of one device in one tree: 8 + 4 (edgefl/overlay/children.py)."""


@message(49)
class TreeAsk(Message):
    """Where do you stand in the tree of `app`?"""

    app: Annotated[int, 1, U64]


@message(54)
class TreeTold(Message):
    """Answer. `takes_part` false: not at all. What the parent costs the sender and what it could gain by another one
    (seconds, by its own reckoning; 0 while it has not compared any), the bytes that it sends itself and has promised to
    carry per round, and its delay to the root in seconds."""

    app: Annotated[int, 1, U64]
    takes_part: Annotated[bool, 2, BOOL] = False
    parent: Annotated[Contact | None, 3, optional(CONTACT)] = None
    children: Annotated[tuple[Contact, ...], 4, many(CONTACT, MAX_NEIGHBOURS)] = ()
    cost_s: Annotated[float, 5, F64] = 0.0
    gain_s: Annotated[float, 6, F64] = 0.0
    size_bytes: Annotated[int, 7, U64] = 0
    load_bytes: Annotated[int, 8, U64] = 0
    delay_s: Annotated[float, 9, F64] = 0.0
    observer: Annotated[bool, 10, BOOL] = False
