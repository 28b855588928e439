"""Artifacts built on this machine train on aarch64: the same losses as here, under models of real processors.

Every model is trained here and by ONNX Runtime's aarch64 wheel under QEMU, from the same start on the same data; the
losses of all steps, and of an evaluation at the end, may differ by 1e-4 of their value. A processor model lacks the
instructions that its processor lacks, so a wheel that dies of SIGILL on that board dies here too. QEMU says nothing of
speed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from emulator import REPOSITORY, fetch_emulator, fetch_wheels

from edgefl import trainer
from edgefl.cli.output import emit_json, emit_table, note, report_errors
from edgefl.datasets import digits, models
from edgefl.trainer.gradient_check import synthetic_batch

EXPORTED = REPOSITORY / "tests" / "trainer" / "exported"
BATCH = 32
TOLERANCE = 1e-4
TIMEOUT_S = 600

PROCESSORS = {
    "cortex-a53": "Raspberry Pi 3",
    "cortex-a57": "Jetson Nano",
    "cortex-a72": "Raspberry Pi 4",
    "cortex-a76": "Raspberry Pi 5",
    "neoverse-n1": "servers",
}

MODELS = {
    "digits-mlp": ("cross-entropy", "sgd"),
    "digits-cnn": ("cross-entropy", "momentum"),
    "resnet8.torchscript-train": ("cross-entropy", "momentum"),
    "mobilenet.torchscript-train": ("cross-entropy", "momentum"),
    "tokens.dynamo": ("cross-entropy", "adamw"),
    "encoder.torchscript": ("cross-entropy", "momentum"),
    "lstm.dynamo": ("cross-entropy", "momentum"),
    "keras-up.tf2onnx-18": ("mse", "momentum"),
}
"""Loss and optimiser of each; beside those of the digits they are files of tests/trainer/exported/. Among them: batch
normalisation, depthwise convolution, dropout, embedding and attention, a recurrent layer, upsampling."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one processor made of one model; `failure` is empty if it got to the end."""

    losses: Sequence[float] = ()
    seconds: float = 0.0
    failure: str = ""


def build(name: str, place: Path) -> None:
    """Artifacts and data.npz."""
    loss, optimizer = MODELS[name]
    digit_models = {"digits-mlp": models.mlp, "digits-cnn": models.cnn}
    model = digit_models[name]() if name in digit_models else EXPORTED / f"{name}.onnx"
    manifest = trainer.build(model, loss=loss, optimizer=optimizer, out=place)
    if name in digit_models:
        x, y = digits()
        data: dict[str, Any] = {"x": x[: 20 * BATCH], "target": y[: 20 * BATCH]}
    else:
        data = synthetic_batch(manifest, BATCH)
    np.savez(place / "data.npz", **data)


def train(command: list[str], environment: dict[str, str], steps: int, places: Sequence[Path]) -> dict[str, Run]:
    """All models in one process, since emulated imports take seconds; a crash is the first unfinished model's."""
    arguments = [str(Path(__file__).with_name("train.py")), str(steps), str(BATCH), *map(str, places)]
    environment = {"PATH": os.defpath, "TMPDIR": tempfile.gettempdir(), **environment}
    try:
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        output, failure = done.stdout, describe(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output, failure = (error.stdout or b"").decode(), f"not done after {TIMEOUT_S} s"
    answers = [json.loads(line) for line in output.splitlines()]
    runs = {answer["model"]: Run(answer["losses"], answer["seconds"]) for answer in answers}
    for place in places:
        if place.name not in runs:
            runs[place.name] = Run(failure=failure)
            failure = "not reached"
    return runs


def describe(code: int, errors: str) -> str:
    """How a process ended, in a few words; empty if well."""
    if code == -signal.SIGILL:
        return "SIGILL: an instruction that this processor does not have"
    if code < 0:
        return signal.Signals(-code).name
    return (errors.strip().splitlines() or [f"exit code {code}"])[-1] if code else ""


def difference(expected: Sequence[float], found: Sequence[float]) -> float:
    """The largest, relative to what is expected; infinite where one of the two is not a number."""
    shares = [abs(b - a) / abs(a) for a, b in zip(expected, found, strict=True)]
    return max(share if math.isfinite(share) else math.inf for share in shares)


@report_errors
def main() -> None:
    own = version("onnxruntime")
    processors = ", ".join(f"{cpu} ({board})" for cpu, board in PROCESSORS.items())
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parser = argparse.ArgumentParser(prog="tools/aarch64", description=__doc__, allow_abbrev=False)
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument(
        "--cpu", nargs="+", choices=PROCESSORS, metavar="NAME", default=["cortex-a53", "cortex-a72"],
        help=f"of {processors}; default: cortex-a53 cortex-a72",
    )  # fmt: skip
    parser.add_argument(
        "--onnxruntime", nargs="+", metavar="VERSION", default=[own], help=f"of the wheels; default: {own}, as here"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path(cache_home) / "edgefl" / "aarch64", help="%(default)s")
    parser.add_argument("--mirror", help="of Debian; default: the first of this machine's own that has the release")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.models or [n for n in MODELS if n.startswith("digits") or (EXPORTED / f"{n}.onnx").exists()]
    cache = options.cache.absolute()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    note("fetching what is not in the cache")
    emulator = fetch_emulator(cache, options.mirror)
    wheels = {number: fetch_wheels(cache, emulator, number) for number in options.onnxruntime}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory) / name for name in names]
        for place in places:
            note(f"building {place.name}")
            build(place.name, place)
        note("training here")
        here = train([sys.executable], {"PYTHONPATH": str(REPOSITORY)}, options.steps, places)
        for number, site in wheels.items():
            for cpu in options.cpu:
                note(f"training under {cpu} with onnxruntime {number}")
                there = train(emulator.command(cpu), emulator.environment(site), options.steps, places)
                rows += [judge(name, cpu, number, here[name], there[name]) for name in names]
    if options.json:
        emit_json({"host": {"onnxruntime": own}, "tolerance": TOLERANCE, "rows": rows})
    else:
        emit_table([list(row.values()) for row in rows], list(rows[0]))
    raise SystemExit(any(row["verdict"] != "ok" for row in rows))


def judge(model: str, cpu: str, onnxruntime: str, here: Run, there: Run) -> dict[str, Any]:
    failure = f"here: {here.failure}" if here.failure else there.failure
    worst = None if failure else difference(here.losses, there.losses)
    if not failure and not worst <= TOLERANCE:
        failure = f"differs by more than {TOLERANCE:g}"
    return {
        "model": model,
        "cpu": cpu,
        "onnxruntime": onnxruntime,
        "first_loss": there.losses[0] if there.losses else None,
        "last_loss": there.losses[-2] if there.losses else None,
        "difference": worst,
        "seconds": round(there.seconds, 2),
        "verdict": failure or "ok",
    }


if __name__ == "__main__":
    main()
