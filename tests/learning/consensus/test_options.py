"""Options of consensus: what a manifest says, and what is refused with the reason."""

from __future__ import annotations

import pytest

from edgefl.errors import UsageError
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.learning.options import parse_options


def test_nothing_means_the_defaults() -> None:
    assert parse_options(ConsensusOptions, "", "consensus") == ConsensusOptions()


def test_every_option_by_name() -> None:
    text = "steps=2,mixing=metropolis,sync_slots=5,slot_s=7.5,sync_slot_s=1,pace_s=60,merge=1,degree=6,start=own"
    text += ",settle=9,momentum=0.5"
    assert parse_options(ConsensusOptions, text, "consensus") == ConsensusOptions(
        2, "metropolis", 5, 7.5, 1.0, 60.0, True, 6, "own", 9, 0.5
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("step=2", "no option 'step'"),
        ("steps=2,steps=3", "twice"),
        ("steps=two", "must be a whole number"),
        ("steps=0", "must be 1 to"),
        ("steps=1.5", "must be a whole number"),
        ("mixing=magic", "must be one of samples, metropolis, equal, push-sum"),
        ("merge=perhaps", "must be yes or no"),
        ("slot_s=nan", "above 0"),
        ("slot_s=0", "above 0"),
        ("pace_s=-1", "must be 0 to"),
        ("sync_slots=1000", "must be 0 to"),
        ("degree=1", "must be 2 to"),
        ("momentum=1", "must be 0 to 0.99"),
        ("momentum=-0.1", "must be 0 to"),
        ("momentum=nan", "must be 0 to"),
        ("momentum=0.5,mixing=push-sum", "does not go with"),
        ("settle=-1", "must be 0 to"),
        ("start=random", "must be one of shared, own"),
        ("steps=" + "1" * 200, "bytes"),
    ],
)
def test_what_no_device_could_run_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_options(ConsensusOptions, text, "consensus")
