"""One thing that was looked at, and how it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Verdict(Enum):
    """`warn`: it works, but not as well as it could. `fail`: it does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: the sentence, and the next step ("" when all is well)."""

    name: str
    verdict: Verdict
    says: str
    next: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict.value}


def ok(name: str, says: str) -> Check:
    return Check(name, Verdict.OK, says)


def warn(name: str, says: str, then: str) -> Check:
    return Check(name, Verdict.WARN, says, then)


def fail(name: str, says: str, then: str) -> Check:
    return Check(name, Verdict.FAIL, says, then)
