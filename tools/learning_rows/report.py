"""What was asked for, and figures beside their bars."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

NOISE = 0.01
"""What two runs of the same thing may differ in accuracy: the bars' own tolerance."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for on the command line."""

    data: Path | None
    quick: bool

    @property
    def seeds(self) -> range:
        return range(1, 2) if self.quick else range(1, 4)


@dataclass(slots=True)
class Report:
    """Rows as they come in."""

    failed: list[str] = field(default_factory=list)

    def judge(self, what: str, value: float, bar: float, *, below: bool = True, unit: str = "") -> None:
        """Print one figure beside its bar."""
        kept = value <= bar if below else value >= bar
        sign = "≤" if below else "≥"
        print(f"{'ok  ' if kept else 'FAIL'}  {what:<72}{value:>10.4g} {sign} {bar:g} {unit}".rstrip(), flush=True)
        if not kept:
            self.failed.append(what)

    def say(self, text: str) -> None:
        print(f"      {text}", flush=True)
