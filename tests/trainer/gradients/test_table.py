"""The table of rules as a whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gradient_cases import C, Case, build_case

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import CONSTANT, RULES


def all_cases() -> list[Case]:
    """The cases of every family."""
    found: list[Case] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"cases_of_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found += module.CASES
    return found


def test_every_rule_has_a_case() -> None:
    tested = {case.operator for case in all_cases()}
    assert {name for name, rule in RULES.items() if rule is not CONSTANT} - tested == set()
    assert tested <= set(RULES)


@pytest.mark.parametrize(
    ("case", "what"),
    [
        (C("MaxPool", (2, 5, 5), kernel_shape=[3, 3], storage_order=1), "storage_order"),
        (C("MatMul", (4,), (4,)), "vector"),
    ],
    ids=["storage-order", "vector"],
)
def test_a_form_without_a_rule_is_refused_by_name(case: Case, what: str, session: Any) -> None:
    with pytest.raises(UnsupportedOperatorError, match=what) as caught:
        session(build_case(case, np.random.default_rng(0)))
    assert "under_test" in caught.value.cause
