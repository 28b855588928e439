"""One training loop in a process of its own, told over standard input how many steps to take: worker.py KIND PLACE …

kinds: torch NAME | edgefl DIRECTORY | ort-training DIRECTORY; then batch size, threads, optimiser, clock (wall, or
processor: the time that all threads of the process have computed).
Each line of input is a number of steps; each line of output the seconds that each of them took, as JSON. The loop is
what a user writes: forward, loss, backward, step, and the loss read as a number.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

LEARNING_RATE = 0.01


def torch_step(name: str, batch: int, threads: int, optimizer: str) -> Callable[[], float]:
    import torch
    from models import CLASSES, example, make

    torch.set_num_threads(threads)
    model = make(name).train()
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, LEARNING_RATE),
        "momentum": lambda p: torch.optim.SGD(p, LEARNING_RATE, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, LEARNING_RATE),
    }
    descent, criterion = makers[optimizer](model.parameters()), torch.nn.CrossEntropyLoss()
    x, y = example(name, batch), torch.arange(batch) % CLASSES

    def step() -> float:
        descent.zero_grad(set_to_none=True)
        loss = criterion(model(x), y)
        loss.backward()
        descent.step()
        return float(loss.item())

    return step


def edgefl_step(directory: str, batch: int, threads: int, optimizer: str) -> Callable[[], float]:
    import numpy as np

    from edgefl.trainer import Session

    session = Session(directory, threads=threads)
    # from files, as on a device: numpy.random alone takes 5 MB
    data = {path.stem: np.load(path) for path in Path(directory, "batch").iterdir()}
    return lambda: session.step(data, LEARNING_RATE)


def ort_training_step(directory: str, batch: int, threads: int, optimizer: str) -> Callable[[], float]:
    import numpy as np
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    place = Path(directory)
    state = CheckpointState.load_checkpoint(str(place / "checkpoint"))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    model = Module(str(place / "training_model.onnx"), state, str(place / "eval_model.onnx"), "cpu", options)
    descent = Optimizer(str(place / "optimizer_model.onnx"), model)
    descent.set_learning_rate(LEARNING_RATE)
    arrays = np.load(place / "batch.npz")
    x, y = arrays["x"][:batch], (np.arange(batch) % 10).astype(np.int64)
    model.train()

    def step() -> float:
        loss = model(x, y)
        descent.step()
        model.lazy_reset_grad()
        return float(loss)

    return step


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    kind, place, batch, threads, optimizer, clock = sys.argv[1:]
    now = {"wall": time.perf_counter, "processor": time.process_time}[clock]
    cores = sorted(os.sched_getaffinity(0))[: int(threads)]
    os.sched_setaffinity(0, cores)
    makers = {"torch": torch_step, "edgefl": edgefl_step, "ort-training": ort_training_step}
    step = makers[kind](place, int(batch), int(threads), optimizer)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            step()
            seconds.append(now() - start)
        print(json.dumps({"seconds": seconds, "resident_mb": resident_mb()}), flush=True)


if __name__ == "__main__":
    main()
