"""The log goes to the journal with priorities, elsewhere with times."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from edgefl.daemon import log


@pytest.mark.parametrize("journal", [True, False])
def test_lines_have_priorities_in_the_journal_alone(
    journal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino if journal else 1}")
        logger = logging.getLogger("edgefl")
        before = logger.handlers[:], logger.level, logger.propagate
        try:
            log.set_up_logging()
            logging.getLogger("edgefl.door").warning("two\nlines")
        finally:
            logger.handlers[:], logger.level, logger.propagate = before
        stream.seek(0)
        said = stream.read()
    if journal:
        assert said == "<4>edgefl.door: two\n<4>lines\n"
    else:
        assert "WARNING" in said
        assert "<4>" not in said
