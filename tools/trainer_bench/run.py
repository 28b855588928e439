"""edgefl's trainer beside PyTorch and ONNX Runtime's own training package: time of a step, and memory.

Every contender runs in a process of its own, pinned to the same cores with as many threads; they take turns in slices
of half a second, so that a noisy machine is noisy for all of them. Quoted are the ratios of the fastest and of the
median step, and of the two the smaller one is judged: the fastest says what the code can do, the median what it does
here. Where other programs keep all cores busy, no step of several milliseconds is left alone: there, `--clock
processor` compares the time computed instead of the time passed, which says the same of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgefl import trainer
from edgefl.errors import EdgeflError
from edgefl.trainer.running.gradient_check import synthetic_batch

HERE = Path(__file__).resolve().parent
SLICE_S = 0.5

LIMITS = {"mlp": 0.48, "lenet": 0.75, "cnn32": 0.56, "resnet8": 0.95, "mobilenet": 0.85, "tinytf": 0.60}
"""Time of a step beside PyTorch's, batch 32, plain descent."""

LATENESS_MS = 2.0
"""How much later the 99th percentile of a daemon's timers may fire while it trains the ResNet than while it is idle."""

MEMORY_MB = {"mlp": 65.0, "lenet": 90.0, "cnn32": 90.0, "resnet8": 140.0}
"""Resident memory while training at batch 32, Python and all imports included."""


class Contender:
    """A worker process that takes steps when it is told to."""

    def __init__(self, python: Path, kind: str, place: str, options: argparse.Namespace, threads: int) -> None:
        command = [
            str(python),
            str(HERE / "worker.py"),
            kind,
            place,
            str(options.batch),
            str(threads),
            options.optimizer,
            options.clock,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds: list[float] = []
        self.resident_mb = 0.0
        self._slice = max(5, int(SLICE_S / statistics.median(self._take(10)[5:])))

    def _take(self, steps: int) -> list[float]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(steps, file=stdin, flush=True)
        answer = json.loads(stdout.readline() or "null")
        if answer is None:
            raise RuntimeError("the worker has died")
        self.resident_mb = answer["resident_mb"]
        seconds: list[float] = answer["seconds"]
        return seconds

    def run(self) -> None:
        self.seconds += self._take(self._slice)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def __str__(self) -> str:
        return f"{1e3 * min(self.seconds):8.3f} /{1e3 * statistics.median(self.seconds):8.3f} ms"


def ratio(ours: Contender, theirs: Contender) -> tuple[float, float]:
    """(of the fastest steps, of the median ones)."""
    return min(ours.seconds) / min(theirs.seconds), statistics.median(ours.seconds) / statistics.median(theirs.seconds)


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.failures: list[str] = []
        self.rows: list[dict[str, object]] = []

    def judge(self, what: str, value: float, limit: float) -> str:
        if value > limit:
            self.failures.append(f"{what}: {value:.3f} > {limit:g}")
        return f"{'ok  ' if value <= limit else 'FAIL'} {value:.3f} ≤ {limit:g}"

    def run(self, name: str, directory: Path, threads: int) -> None:
        options = self.options
        place = directory / name
        out = place / "edgefl"
        manifest = trainer.build(place / "model.onnx", loss="cross-entropy", optimizer=options.optimizer, out=out)
        (out / "batch").mkdir(exist_ok=True)
        for tensor, array in synthetic_batch(manifest, options.batch).items():
            np.save(out / "batch" / tensor, array)
        contenders = {
            "edgefl": Contender(Path(sys.executable), "edgefl", str(place / "edgefl"), options, threads),
            "torch": Contender(options.torch, "torch", name, options, threads),
        }
        if (place / "optimizer_model.onnx").exists():
            contenders["ort-training"] = Contender(options.ort_training, "ort-training", str(place), options, threads)
        try:
            for _ in range(options.rounds):
                for contender in contenders.values():
                    contender.run()
        finally:
            for contender in contenders.values():
                contender.close()
        ours = contenders.pop("edgefl")
        print(f"{name:<10} {threads} thread{'s' if threads > 1 else ' '}  edgefl        {ours}", flush=True)
        row: dict[str, object] = {"model": name, "threads": threads, "resident_mb": round(ours.resident_mb, 1)}
        for other, contender in contenders.items():
            fastest, median = ratio(ours, contender)
            limit = LIMITS.get(name, 1.0) if other == "torch" else 1.0
            verdict = self.judge(f"{name}, {threads} threads, beside {other}", min(fastest, median), limit)
            print(f"{'':<22} {other:<13} {contender}  fastest {fastest:.3f} median {median:.3f}  {verdict}", flush=True)
            row[other] = {"fastest": round(fastest, 3), "median": round(median, 3), "limit": limit}
        if name in MEMORY_MB and options.batch == 32:
            verdict = self.judge(f"{name}, resident memory", ours.resident_mb, MEMORY_MB[name])
            print(f"{'':<22} memory        {verdict} MB", flush=True)
        self.rows.append(row)

    def loop(self, directory: Path) -> None:
        """A training device goes on answering."""
        place = directory / "resnet8" / "edgefl"
        done = subprocess.run([sys.executable, str(HERE / "loop.py"), str(place)], capture_output=True, check=True)
        late = json.loads(done.stdout)
        verdict = self.judge("timers while training", late["training"]["p99"] - late["idle"]["p99"], LATENESS_MS)
        print(f"{'loop':<22} 99th percentile {late['idle']['p99']} ms idle, {late['training']['p99']} ms  {verdict}")
        self.rows.append({"loop": late})


def prepare(options: argparse.Namespace, directory: Path) -> None:
    """Export the models, and build what ONNX Runtime's own package can build of them."""
    subprocess.run([str(options.torch), str(HERE / "models.py"), str(directory), *options.models], check=True)
    if options.ort_training is None:
        print("without ONNX Runtime's own training package: there is none for this Python or processor", flush=True)
        return
    for name in options.models:
        command = [str(options.ort_training), str(HERE / "ort_training.py"), str(directory / name), options.optimizer]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            print(f"{name:<10} cannot be built by ONNX Runtime's own package: {reason[:150]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[*LIMITS], default=[*LIMITS])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--optimizer", choices=("sgd", "momentum", "adamw"), default="sgd")
    parser.add_argument("--rounds", type=int, default=12, help="slices of half a second for every contender")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--torch", type=Path, required=True, help="the Python that has PyTorch")
    parser.add_argument("--ort-training", type=Path, help="the Python that has onnxruntime-training-cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bench = Bench(options)
    with tempfile.TemporaryDirectory() as place:
        prepare(options, Path(place))
        for name in options.models:
            for threads in options.threads:
                try:
                    bench.run(name, Path(place), threads)
                except EdgeflError as error:
                    bench.failures.append(f"{name}: {error.cause}")
                    print(f"FAIL {name}: {error.cause}", flush=True)
        if "resnet8" in options.models:
            bench.loop(Path(place))
    if options.json:
        print(json.dumps({"rows": bench.rows, "failures": bench.failures}))
    for failure in bench.failures:
        print(f"FAIL {failure}", file=sys.stderr)
    raise SystemExit(bool(bench.failures))


if __name__ == "__main__":
    main()
