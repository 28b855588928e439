"""What is made of two runs of the same model: the same losses, or how one of them went wrong."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOLERANCE = 1e-4
"""Of every loss. Rounding makes up to 3e-7 after twenty steps; a step size that is one percent off, 1.5e-4 and more."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one processor made of one model; `failure` is empty if it got to the end."""

    machine: str = ""
    losses: Sequence[float] = ()
    seconds: float = 0.0
    failure: str = ""


def answers(output: str, failure: str, models: Sequence[str]) -> dict[str, Run]:
    """What a process printed before it ended, well or with a failure; one after all models is the last one's."""
    lines = [json.loads(line) for line in output.splitlines()]
    runs = {line["model"]: Run(line["machine"], line["losses"], line["seconds"]) for line in lines}
    if failure:
        first, *others = [model for model in models if model not in runs] or models[-1:]
        runs |= {first: Run(failure=failure)} | {model: Run(failure="not reached") for model in others}
    return runs


def describe(code: int, errors: str) -> str:
    """How a process ended, in a few words; empty if well."""
    if code == -signal.SIGILL:
        return "SIGILL: an instruction that this processor does not have"
    if code < 0:
        return signal.Signals(-code).name
    return (errors.strip().splitlines() or [f"exit code {code}"])[-1] if code else ""


def difference(expected: Sequence[float], found: Sequence[float]) -> float:
    """The largest, relative to what is expected."""
    return max(abs(b - a) / abs(a) for a, b in zip(expected, found, strict=True))


def judge(model: str, cpu: str, onnxruntime: str, here: Run, there: Run) -> dict[str, Any]:
    """One row of the answer; times are there to see what is slow to emulate."""
    failure = f"here: {here.failure}" if here.failure else there.failure
    worst = None if failure else difference(here.losses, there.losses)
    if worst is not None and worst > TOLERANCE:
        failure = f"more than {TOLERANCE:g}"
    return {
        "model": model,
        "onnxruntime": onnxruntime,
        "machine": there.machine or None,
        "cpu": cpu,
        "losses": [*there.losses],
        "difference": worst,
        "seconds": there.seconds,
        "verdict": failure or "ok",
    }


def cells(row: dict[str, Any]) -> list[object]:
    """The row for people: of the losses the first and the last of training."""
    losses, worst = row["losses"], row["difference"]
    shown = {
        "losses": f"{losses[0]:.4f} → {losses[-2]:.4f}" if losses else None,
        "difference": None if worst is None else f"{worst:.1e}",
        "seconds": f"{row['seconds']:.1f}",
    }
    return list({**row, **shown}.values())
