"""How late an event loop's timer fires while this device trains, beside an idle one: loop.py DIRECTORY [SECONDS].

The loop is that of a daemon: asyncio in the main thread, training steps on one worker thread, ONNX Runtime with one
core fewer than there are. The timer stands for a heartbeat. Idle and training take turns.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading

from edgefl.trainer import Session
from edgefl.trainer.running.gradient_check import synthetic_batch

PERIOD_S = 0.005
TURNS = 6


async def lateness(seconds: float) -> list[float]:
    """Milliseconds after its time at which each timer fired."""
    loop, late = asyncio.get_running_loop(), []
    end = loop.time() + seconds
    while (due := loop.time() + PERIOD_S) < end:
        await asyncio.sleep(PERIOD_S)
        late.append(1e3 * (loop.time() - due))
    return late


async def measure(directory: str, seconds: float) -> dict[str, list[float]]:
    session = Session(directory)
    batch = synthetic_batch(session.manifest, 32)
    found: dict[str, list[float]] = {"idle": [], "training": []}
    for _ in range(TURNS):
        found["idle"] += await lateness(seconds / TURNS)
        stop = threading.Event()

        def train(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                session.step(batch, 0.001)

        worker = asyncio.get_running_loop().run_in_executor(None, train)
        found["training"] += await lateness(seconds / TURNS)
        stop.set()
        await worker
    return found


def main() -> None:
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 12.0
    found = asyncio.run(measure(sys.argv[1], seconds))
    document = {}
    for name, late in found.items():
        cuts = statistics.quantiles(late, n=100)
        document[name] = {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(late), 3)}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
