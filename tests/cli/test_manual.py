"""The manual page and the completions follow the commands."""

from __future__ import annotations

import gzip

import pytest

from edgefl.cli import VERBS
from edgefl.cli.manual import COMPLETION_FILES, completion, manual
from edgefl.errors import UsageError


def test_the_page_has_every_verb_and_is_the_same_each_time() -> None:
    page = gzip.decompress(manual()).decode()
    assert page.startswith(".TH EDGEFL 1")
    for verb in VERBS:
        assert f'.SS "edgefl {verb}' in page, verb
    assert r"\-\-bootstrap HOST:PORT" in page
    assert manual() == manual()


@pytest.mark.parametrize("shell", COMPLETION_FILES)
def test_completions_ask_the_program(shell: str) -> None:
    assert f"_EDGEFL_COMPLETE={shell}_complete" in completion(shell)


def test_an_unknown_shell_is_refused() -> None:
    with pytest.raises(UsageError, match="tcsh"):
        completion("tcsh")
