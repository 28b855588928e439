"""Artifacts built on this machine train on aarch64: the same losses as here, under models of real processors.

Every model is trained here and by ONNX Runtime's aarch64 wheel under QEMU, from the same start on the same data; the
losses of all steps, and of an evaluation at the end, may differ by 1e-4 of their value. A processor model lacks the
instructions that its processor lacks, so a wheel that dies of SIGILL on that board dies here too. QEMU says nothing of
speed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from emulator import REPOSITORY, fetch_emulator, fetch_wheels
from verdict import TOLERANCE, Run, answers, cells, describe, judge

from edgefl import trainer
from edgefl.cli.output import emit_json, emit_table, note, report_errors
from edgefl.datasets import digits, models
from edgefl.trainer.running.gradient_check import synthetic_batch

EXPORTED = REPOSITORY / "tests" / "trainer" / "exported"
STEPS, BATCH = 20, 32
TIMEOUT_S = 600

PROCESSORS = {
    "cortex-a53": "Raspberry Pi 3",
    "cortex-a57": "Jetson Nano",
    "cortex-a72": "Raspberry Pi 4",
    "cortex-a76": "Raspberry Pi 5",
    "neoverse-n1": "servers",
}

DIGITS: dict[str, Callable[[], Any]] = {"digits-mlp": models.mlp, "digits-cnn": models.cnn}

MODELS = {
    "digits-mlp": ("cross-entropy", "sgd"),
    "digits-cnn": ("cross-entropy", "momentum"),
    "resnet8.torchscript-train": ("cross-entropy", "momentum"),
    "mobilenet.torchscript-train": ("cross-entropy", "momentum"),
    "tokens.dynamo": ("cross-entropy", "adamw"),
    "encoder.torchscript": ("cross-entropy", "momentum"),
    "lstm.dynamo": ("cross-entropy", "adamw"),
    "keras-up.tf2onnx-18": ("mse", "adamw"),
}
"""Loss and optimiser of each; beside those of the digits they are files of tests/trainer/exported/. Among them: batch
normalisation, depthwise convolution, dropout, embedding and attention, a recurrent layer, upsampling."""


def build(name: str, place: Path) -> None:
    """Artifacts and data.npz."""
    loss, optimizer = MODELS[name]
    model = DIGITS[name]() if name in DIGITS else EXPORTED / f"{name}.onnx"
    manifest = trainer.build(model, loss=loss, optimizer=optimizer, out=place)
    if name in DIGITS:
        x, y = digits()
        data: dict[str, Any] = {"x": x[: STEPS * BATCH], "target": y[: STEPS * BATCH]}
    else:
        data = synthetic_batch(manifest, BATCH)
    np.savez(place / "data.npz", **data)


def train(command: list[str], environment: dict[str, str], places: Sequence[Path]) -> dict[str, Run]:
    """All models in one process, since emulated imports take seconds; a crash is the first unfinished model's."""
    arguments = [str(Path(__file__).with_name("train.py")), str(STEPS), str(BATCH), *map(str, places)]
    environment = {"PATH": os.defpath, "TMPDIR": tempfile.gettempdir(), **environment}
    try:
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        return answers(done.stdout, describe(done.returncode, done.stderr), [place.name for place in places])
    except subprocess.TimeoutExpired:
        return {place.name: Run(failure=f"not all done after {TIMEOUT_S} s") for place in places}


def options() -> argparse.Namespace:
    own, usual = version("onnxruntime"), "cortex-a53 cortex-a72"
    boards = ", ".join(f"{cpu} ({board})" for cpu, board in PROCESSORS.items())
    there = [name for name in MODELS if name in DIGITS or (EXPORTED / f"{name}.onnx").exists()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefl" / "aarch64"
    parser = argparse.ArgumentParser(prog="tools/aarch64", description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=there, metavar="NAME", default=there, help=f"default: {' '.join(there)}")
    add(
        "--cpu",
        nargs="+",
        choices=PROCESSORS,
        metavar="NAME",
        default=usual.split(),
        help=f"{boards}; default: {usual}",
    )
    add("--onnxruntime", nargs="+", metavar="VERSION", default=[own], help="of the wheels; default: that of here")
    add("--cache", type=Path, metavar="DIRECTORY", default=cache, help="default: %(default)s")
    add("--mirror", metavar="URI", help="of Debian; default: what this machine's own sources name")
    add("--json", action="store_true", help="print one JSON document for programs")
    return parser.parse_args()


@report_errors
def main() -> None:
    chosen = options()
    cache = chosen.cache.absolute()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    note("fetching what is not in the cache")
    emulator = fetch_emulator(cache, chosen.mirror)
    wheels = {number: fetch_wheels(cache, emulator, number) for number in chosen.onnxruntime}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory) / name for name in chosen.models]
        for place in places:
            note(f"building {place.name}")
            build(place.name, place)
        note("training here")
        here = train([sys.executable], {"PYTHONPATH": str(REPOSITORY)}, places)
        for number, site in wheels.items():
            for cpu in chosen.cpu:
                note(f"training under {cpu} with onnxruntime {number}")
                there = train(emulator.command(cpu), emulator.environment(site), places)
                rows += [judge(name, cpu, number, here[name], there[name]) for name in chosen.models]
    if chosen.json:
        emit_json({"onnxruntime_here": version("onnxruntime"), "tolerance": TOLERANCE, "rows": rows})
    else:
        emit_table([cells(row) for row in rows], list(rows[0]))
    raise SystemExit(any(row["verdict"] != "ok" for row in rows))


if __name__ == "__main__":
    main()
