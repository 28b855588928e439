"""Train, on whatever machine this Python runs on: train.py STEPS BATCH DIRECTORY…

Each directory holds artifacts and `data.npz`: samples by input name and `target`, taken in order and from the start
again. Each gives a line of output as JSON: the losses of all steps and of an evaluation after them, and what they took.
Needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np

from edgefl.trainer import Session

RATE = {"sgd": 0.05, "momentum": 0.02, "adamw": 0.005}


def main() -> None:
    steps, size, *places = sys.argv[1:]
    for place in map(Path, places):
        start = time.perf_counter()
        session = Session(place, threads=1)
        with np.load(place / "data.npz") as data:
            arrays = dict(data)
        rate = RATE[session.manifest.optimizer.name]
        samples = len(arrays["target"])
        losses = []
        for step in range(int(steps)):
            first = step * int(size) % samples
            losses.append(session.step({k: a[first : first + int(size)] for k, a in arrays.items()}, rate))
        losses.append(session.evaluate(arrays)["loss"])
        seconds = time.perf_counter() - start
        answer = {"model": place.name, "machine": platform.machine(), "losses": losses, "seconds": seconds}
        print(json.dumps(answer, allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
