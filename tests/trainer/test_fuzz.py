"""A small part of what tools/fuzz_trainer.py does: damaged and hostile files end in a named error."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fuzz_doors import DOORS, FAILED
from support.fuzzing import run


@pytest.mark.parametrize(("door", "count"), [("build", 250), ("loss", 100), ("artifacts", 100)])
def test_damaged_files_end_in_working_artifacts_or_in_a_named_error(door: str, count: int, tmp_path: Path) -> None:
    outcomes = list(run(door, range(count), seed=20_240, processes=2))
    assert len(outcomes) == count
    assert sum(not outcome.failed for outcome in outcomes) > 0.9 * count
    for outcome in outcomes:
        if outcome.failed:  # where a shared process is not safe, a process of its own must be
            what, detail = DOORS[door](20_240, tmp_path).really(outcome.index)
            assert not what.startswith(FAILED), f"{outcome.origin}: {what}\n{detail}"
