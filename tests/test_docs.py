"""The pages that are made from the code are those that the code makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_protocol_page_is_up_to_date(make_docs: ModuleType) -> None:
    assert (ROOT / "docs" / "protocols.md").read_text() == make_docs.document(), "run tools/make_docs.py"


def test_the_table_of_operators_is_up_to_date(make_docs: ModuleType) -> None:
    page = (ROOT / "docs" / "trainer.md").read_text()
    assert page == make_docs.with_operators(page), "run tools/make_docs.py"
