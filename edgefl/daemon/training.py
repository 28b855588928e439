"""The training thread: sessions and local data of all applications, one job at a time, off the event loop.

ONNX Runtime computes without the interpreter lock, so the loop goes on answering while a device trains. One thread, not
one per application: two trainings at once would only take the processor and the memory from each other.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgefl.errors import DataError, EdgeflError, ModelError
from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire.application import Manifest
from edgefl.wire.learning import Metric, RoundKind

if TYPE_CHECKING:
    from edgefl.trainer import Dataset, Session

log = logging.getLogger("edgefl.training")

EVALUATION_BATCH = 256

T = TypeVar("T")


@dataclass(slots=True)
class Workplace:
    """What one application trains with. `data` is None for an observer."""

    session: Session
    train: Dataset | None
    held_back: Dataset | None


class Training:
    """Runs jobs in order; a newer job of an application stops the older one between two steps."""

    def __init__(self, notes: Path, *, provider: str = "cpu", threads: int | None = None) -> None:
        """`notes`: where it is remembered which artifacts have been tried (trainer/trial.py)."""
        self._notes = notes
        self._provider = provider
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="edgefl-training")
        self._threads = threads
        self._places: dict[int, Workplace] = {}
        self._newest: dict[int, object] = {}
        self._closing = threading.Event()
        self.last_error: dict[int, EdgeflError] = {}

    async def prepare(self, app: int, directory: Path, manifest: Manifest, source: str | None) -> bytes:
        """Open the artifacts and the data source (None: no data), and check them against each other and the manifest.

        Returns the initial model: float32, little-endian. Raises EdgeflError naming what does not fit.
        """
        return await self._run(lambda: self._prepare(app, directory, manifest, source))

    def _prepare(self, app: int, directory: Path, manifest: Manifest, source: str | None) -> bytes:
        from edgefl.trainer import Session, check_fit, open_source
        from edgefl.trainer.running.trial import require_tried

        require_tried(directory, self._notes, provider=self._provider, should_stop=self._closing.is_set)
        session = Session(directory, threads=self._threads, provider=self._provider)
        if session.manifest.vector_size != manifest.parameters:
            raise ModelError(
                f"the artifacts have {session.manifest.vector_size} parameters, the manifest says "
                f"{manifest.parameters}",
                hint="the application was put together wrongly: create it again",
            )
        train = held_back = None
        if source is not None:
            data = check_fit(open_source(source), session.manifest)
            train = data
            if manifest.held_back > 0:
                train, held_back = data.split(manifest.held_back, manifest.seed & (2**63 - 1))
        self._places[app] = Workplace(session, train, held_back)
        return session.vector().astype("<f4", copy=False).tobytes()

    def tensors(self, app: int) -> tuple[int, ...]:
        """Sizes of the trained tensors of an application that was prepared, in the order of the vector."""
        place = self._places.get(app)
        return () if place is None else tuple(parameter.size for parameter in place.session.manifest.parameters)

    async def train(self, app: int, job: TrainJob, spec: Manifest, model: Any) -> TrainResult | None:
        """Do a job from `model` (a buffer of float32). None when it was cancelled, failed, or cannot run here."""
        ticket = self._newest[app] = object()

        def obsolete() -> bool:
            return self._closing.is_set() or self._newest.get(app) is not ticket

        try:
            return await self._run(lambda: self._train(app, job, spec, model, obsolete))
        except EdgeflError as error:
            if error.name != "cancelled":
                self.last_error[app] = error
                log.warning("round %s: local training failed: %s (next: %s)", job.tag[1], error.cause, error.hint)
            return None

    def _train(
        self, app: int, job: TrainJob, spec: Manifest, model: Any, obsolete: Callable[[], bool]
    ) -> TrainResult | None:
        import numpy as np

        from edgefl.trainer import LocalSpec, evaluate_local, train_local

        place = self._places.get(app)
        if place is None or place.train is None or obsolete():
            return None
        place.session.load_vector(np.frombuffer(model, "<f4").astype(np.float32, copy=False))
        metrics: list[Metric] = []
        if place.held_back is not None:
            sums = evaluate_local(place.session, place.held_back, EVALUATION_BATCH)
            metrics += [Metric(name, total, weight) for name, (total, weight) in sums.items()]
        if job.kind is not RoundKind.TRAIN:
            return TrainResult(None, 0, tuple(metrics))
        result = train_local(
            place.session,
            place.train,
            LocalSpec(
                spec.local_epochs,
                spec.batch,
                spec.learning_rate,
                proximal=parse_strategy(spec.strategy).proximal,
            ),
            seed=job.seed,
            should_stop=obsolete,
        )
        metrics.append(Metric("train_loss", result.loss * result.samples, float(result.samples)))
        self.last_error.pop(app, None)
        return TrainResult(result.delta, result.samples, tuple(metrics))

    def release(self, app: int) -> None:
        """Forget an application; a job of it stops at its next step."""
        self._newest.pop(app, None)
        self._places.pop(app, None)
        self.last_error.pop(app, None)

    async def check_data(self, directory: Path, source: str) -> None:
        """Raise DataError or ModelError when this data source does not fit these artifacts."""

        def check() -> None:
            from edgefl.trainer import check_fit, open_source, read_manifest

            check_fit(open_source(source), read_manifest(directory))

        await self._run(check)

    async def close(self) -> None:
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except MemoryError:
            raise DataError(
                "not enough memory to train this application here", hint="use a smaller model, batch or data source"
            ) from None


def export_model(directory: Path, model: Any) -> bytes:
    """The user's own ONNX file with these weights (a buffer of float32) in it. Raises ModelError."""
    import numpy as np

    from edgefl.trainer.files.inference_model import with_weights
    from edgefl.trainer.files.manifest import INFERENCE, read_file, read_manifest

    manifest = read_manifest(directory)
    vector = np.frombuffer(model, "<f4").astype(np.float32, copy=False)
    return with_weights(read_file(directory, manifest, INFERENCE), manifest, vector)
