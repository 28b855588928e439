"""Training: sessions and local data of all applications, one step at a time, off the event loop.

ONNX Runtime computes without the interpreter lock, so the loop goes on answering while a device trains. Each job has a
thread, but only one computes: two trainings at once would only take the processor from each other. Who goes on after a
step, and whether anybody does, is decided in turnstile.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from edgefl.daemon.turnstile import Turnstile
from edgefl.daemon.workplace import Workplace
from edgefl.errors import DataError, EdgeflError
from edgefl.learning.effects import DECLINED, TrainJob, TrainResult
from edgefl.learning.node import MAX_APPLICATIONS
from edgefl.learning.turns import Turns
from edgefl.limits import DeviceLimits
from edgefl.trainer.running.cancelled import TrainingCancelledError
from edgefl.wire.application import Manifest
from edgefl.wire.learning import RoundKind

log = logging.getLogger("edgefl.training")

MAX_THREADS = 2 * MAX_APPLICATIONS
"""A job of each application, and one that takes its place; chores wait for a thread if need be."""

T = TypeVar("T")


class Training:
    """Jobs of all applications take turns; a newer job of an application stops the older one between two steps."""

    def __init__(
        self,
        notes: Path,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        limits: DeviceLimits | None = None,
    ) -> None:
        """`notes`: where it is remembered which artifacts have been tried (trainer/trial.py)."""
        self._notes = notes
        self._provider = provider
        self._executor = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="edgefl-training")
        self._limits = limits or DeviceLimits()
        cores = len(os.sched_getaffinity(0))
        limited = self._limits.cpu < 1
        self.gate = Turnstile(Turns(self._weight), cores=self._limits.cpu * cores if limited else math.inf)
        # Fewer threads rather than longer rests: other work finds a free core at any moment.
        self._threads = max(1, min(cores - 1, math.ceil(self._limits.cpu * cores))) if limited else threads
        self._places: dict[int, Workplace] = {}
        self._names: dict[int, str] = {}
        self._newest: dict[int, object] = {}
        self._closing = threading.Event()
        self.last_error: dict[int, EdgeflError] = {}

    async def prepare(self, app: int, directory: Path, manifest: Manifest, source: str | None) -> tuple[bytes, int]:
        """Open the artifacts and the data source (None: no data), and check them against each other and the manifest.

        Returns the initial model (float32, little-endian) and how many values of it are trained. Raises EdgeflError
        naming what does not fit.
        """
        self._names[app] = manifest.name
        return await self._run(lambda: self._chore(lambda: self._prepare(app, directory, manifest, source)))

    def _prepare(self, app: int, directory: Path, manifest: Manifest, source: str | None) -> tuple[bytes, int]:
        from edgefl.trainer import Session, check_fit, open_source
        from edgefl.trainer.running.trial import require_tried

        require_tried(directory, self._notes, provider=self._provider, should_stop=self._closing.is_set)
        session = Session(directory, threads=self._threads, provider=self._provider)
        train = held_back = None
        if source is not None:
            data = check_fit(open_source(source), session.manifest)
            train = data
            if manifest.held_back > 0:
                train, held_back = data.split(manifest.held_back, manifest.seed & (2**63 - 1))
        place = Workplace(session, train, held_back)
        initial = place.initial(manifest)
        self._places[app] = place
        return initial

    def tensors(self, app: int) -> tuple[int, ...]:
        """Sizes of the trained tensors of an application that was prepared, in the order of the vector."""
        place = self._places.get(app)
        return () if place is None else tuple(parameter.size for parameter in place.session.manifest.parameters)

    async def train(self, app: int, job: TrainJob, spec: Manifest, model: Any) -> TrainResult | None:
        """Do a job from `model` (a buffer of float32). None when it was cancelled, failed, or cannot run here; DECLINED
        when this device cannot do it in time, at once if that is known at once."""
        ticket = self._newest[app] = object()
        self.gate.wake()
        deadline = min(job.deadline, self.gate.clock() + spec.deadline_s)
        if self.gate.hopeless(app, deadline):
            return DECLINED

        def unwanted() -> bool:
            return self._newest.get(app) is not ticket or self.gate.clock() > job.deadline

        try:
            return await self._run(lambda: self._train(app, job, spec, model, deadline, unwanted))
        except EdgeflError as error:
            if error.name != "cancelled":
                self.last_error[app] = error
                log.warning("round %s: local training failed: %s (next: %s)", job.tag[1], error.cause, error.hint)
            return None

    def _train(
        self, app: int, job: TrainJob, spec: Manifest, model: Any, deadline: float, unwanted: Callable[[], bool]
    ) -> TrainResult | None:
        place = self._places.get(app)
        if place is None or place.train is None:
            return None
        with self.gate.job(app, deadline, unwanted) as turn:
            try:
                if turn.should_stop():
                    return DECLINED if turn.declined else None
                result = place.work(job, spec, model, turn.should_stop)
            except TrainingCancelledError:
                if turn.declined:
                    return DECLINED
                raise
            turn.done = job.kind is RoundKind.TRAIN
        self.last_error.pop(app, None)
        return result

    def release(self, app: int) -> None:
        """Forget an application; a job of it stops at its next step."""
        self._newest.pop(app, None)
        self._places.pop(app, None)
        self._names.pop(app, None)
        self.last_error.pop(app, None)
        self.gate.forget(app)

    def name(self, app: int) -> str:
        """Of an application, for people."""
        return self._names.get(app, f"{app:016x}")

    def _weight(self, app: int) -> float:
        return self._limits.weight(app, self._names.get(app, ""))

    def _chore(self, work: Callable[[], T]) -> T:
        with self.gate.chore():
            return work()

    async def check_data(self, directory: Path, source: str) -> None:
        """Raise DataError or ModelError when this data source does not fit these artifacts."""

        def check() -> None:
            from edgefl.trainer import check_fit, open_source, read_manifest

            check_fit(open_source(source), read_manifest(directory))

        await self._run(lambda: self._chore(check))

    async def close(self) -> None:
        self._closing.set()
        self.gate.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except MemoryError:
            raise DataError(
                "not enough memory to train this application here", hint="use a smaller model, batch or data source"
            ) from None
