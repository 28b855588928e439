"""Shares are claimed one of each giver at a time, until they are granted or their giver is no neighbour any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from support.overlay_contacts import contact

from edgefl.learning.consensus.claims import NOTHING, Claims
from edgefl.learning.consensus.push_sum import Mass
from edgefl.wire import Contact, Message
from edgefl.wire.consensus import Mass as MassMessage

if TYPE_CHECKING:
    from edgefl.learning.effects import LearningEffects

APP, FIRST, SECOND = 5, contact(1), contact(2)
MODEL = np.ones(3, np.float32)


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[Contact, Message]] = []
        self.mass = Mass()
        self.claims = Claims(APP, cast("LearningEffects", self), self.mass)

    def send(self, to: Contact, message: Message) -> None:
        self.sent.append((to, message))

    def take(self) -> list[tuple[Contact, Message]]:
        sent, self.sent = self.sent, []
        return sent


def test_a_giver_owes_one_share_at_a_time_and_is_asked_until_it_answers() -> None:
    wire = Wire()
    claims = wire.claims
    claims.open(FIRST, (1, 0), MODEL)
    claims.open(FIRST, (2, 0), MODEL)
    claims.open(SECOND, (2, 0), MODEL)
    first, second = (FIRST, MassMessage(APP, 1, 0)), (SECOND, MassMessage(APP, 2, 0))
    assert wire.take() == [first, second]
    claims.repeat()
    assert wire.take() == [first, second]
    assert not claims.on_grant(FIRST.node_id, (2, 0), 1.0)  # not what was claimed
    assert claims.on_grant(FIRST.node_id, (1, 0), 1.0)
    assert not claims.on_grant(FIRST.node_id, (1, 0), 1.0)  # the same answer once more
    claims.repeat_to(FIRST)
    claims.repeat_to(SECOND)
    assert wire.take() == [second]
    assert wire.mass.total == 1.0
    assert FIRST.node_id not in claims
    assert SECOND.node_id in claims


def test_what_was_taken_is_known_by_giver() -> None:
    claims = Wire().claims
    assert claims.newest(FIRST.node_id) == NOTHING
    for giver, key in ((FIRST, (3, 1)), (SECOND, (2, 0))):
        claims.open(giver, key, MODEL)
        claims.on_grant(giver.node_id, key, 0.5)
    assert claims.newest(FIRST.node_id) == (3, 1)
    assert claims.taken_since((3, 0)) == {FIRST.node_id}
    assert claims.rounds() == [3, 2]


def test_with_a_giver_that_is_no_neighbour_any_more_its_claim_goes_and_what_was_taken() -> None:
    wire = Wire()
    claims = wire.claims
    claims.open(FIRST, (1, 0), MODEL)
    claims.open(SECOND, (1, 0), MODEL)
    claims.on_grant(SECOND.node_id, (1, 0), 1.0)
    claims.forget_strangers(lambda giver: False)
    claims.repeat()
    assert wire.take()[2:] == []
    assert not claims.on_grant(FIRST.node_id, (1, 0), 1.0)
    assert claims.newest(SECOND.node_id) == NOTHING
    assert wire.mass.total == 1.0  # what was granted before is our own
