"""The real world behind the pure core: timers on the event loop, messages and blobs on the transport, training and disk
on their threads. The simulator has a twin of this class.

A blob may serve several applications at once (the same initial model, for one), and may be asked for several times at
once (from a parent that has just died, and from the next), so it is let go only when the last application has discarded
it and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from edgefl.daemon.disk import Disk
from edgefl.daemon.policies import Policies, PolicyError
from edgefl.daemon.training import Training
from edgefl.effects import TimerKey
from edgefl.errors import EdgeflError, StorageError
from edgefl.learning.border import is_inside
from edgefl.learning.effects import DECLINED, Prepared, Progress, Token, TrainJob
from edgefl.learning.encoding import check_extra
from edgefl.learning.fit import check_fits
from edgefl.learning.manifest import travelling
from edgefl.wire import Contact, Message
from edgefl.wire.application import Manifest
from edgefl.wire.blob import FLOAT_BYTES, BlobRef
from edgefl.wire.learning import RoundKind
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from edgefl.learning.node import Learning
    from edgefl.transport import Transport

log = logging.getLogger("edgefl.daemon")

MAX_MEMBERS_ASKED = 6
"""Members that are asked for a blob when its parent and sources have failed: high in the tree, so they had it early."""


class LoopEffects:
    """Implements `Effects` and `LearningEffects`. `guard` runs a handler of the core and reports its bugs,
    `top_ranked(app, count)` gives other members of an application; `memory_bytes` is what the daemon may take."""

    def __init__(
        self,
        transport: Transport,
        disk: Disk,
        training: Training,
        *,
        seed: int,
        on_timer: Callable[[TimerKey, float], None],
        guard: Callable[..., None],
        top_ranked: Callable[[int, int], tuple[Contact, ...]],
        policies: Policies | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._policies = policies or Policies({}, dict)
        self._top_ranked = top_ranked
        self._memory_bytes = memory_bytes
        self.random = Random(seed)
        self.learning: Learning | None = None
        self.data: dict[str, str] = {}
        self._transport = transport
        self._disk = disk
        self._training = training
        self._on_timer = on_timer
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._timers: dict[TimerKey, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._users: dict[bytes, set[int]] = {}
        self._awaited: Counter[bytes] = Counter()
        self._awaiting: dict[bytes, set[int]] = {}
        self._manifests: dict[int, Manifest] = {}
        self._unsaved: dict[int, Progress] = {}

    @property
    def now(self) -> float:
        """Monotonic seconds: the one place that reads the clock for the core."""
        return self._loop.time()

    def send(self, to: Contact, message: Message) -> None:
        self._transport.send(to, message)

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        self._transport.send_bulk(app, to.node_id, message, data)

    def set_timer(self, key: TimerKey, at: float) -> None:
        self.cancel_timer(key)
        self._timers[key] = self._loop.call_at(at, self._fire, key)

    def cancel_timer(self, key: TimerKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, key: TimerKey) -> None:
        self._timers.pop(key, None)
        self._guard(self._on_timer, key, self.now)

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        self._manifests[app] = manifest
        self._spawn(self._prepare(app, manifest, sources, observer=observer))

    async def _prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        learning = self.learning
        if learning is None:
            return
        try:
            check_extra(manifest.compress)
            check_fits(manifest, self._memory_bytes, trains=not observer)
            if not observer:
                await self._policies.prepare(app, manifest)
            directory = await self._fetch_artifacts(app, manifest, sources)
            source = None if observer else self.data[manifest.data]
            initial, trained = await self._training.prepare(app, directory, manifest, source)
            model = await self._transport.add_blob(initial)
            self._users.setdefault(model.id, set()).add(app)
            prepared = Prepared(model, trained=trained, tensors=self._training.tensors(app))
        except KeyError:
            prepared = Prepared(None, f"this device has no data source named {manifest.data!r}")
        except EdgeflError as error:
            # What may be different next time: nobody had the artifacts, or the disk was full.
            retry = error.exit_code in (69, 75)
            prepared = Prepared(None, f"{error.cause}{f' (next: {error.hint})' if error.hint else ''}", retry)
        if not prepared.model:
            log.warning("application %r: %s", manifest.name, prepared.refusal)
        self._guard(learning.on_prepared, app, prepared, self.now)

    async def _fetch_artifacts(self, app: int, manifest: Manifest, sources: tuple[Contact, ...]) -> Path:
        for artifact in manifest.artifacts:
            stored = await self._disk.run(lambda store, ref=artifact.blob: store.has_blob(ref))  # type: ignore[misc]
            if not stored:
                data = await self._transport.fetch(artifact.blob, sources, max_bytes=artifact.blob.size)
                await self._disk.run(
                    lambda store, ref=artifact.blob, data=data: store.save_artifact(app, ref, data)  # type: ignore[misc]
                )
                if not self._users.get(artifact.blob.id):
                    # It is kept now, and served from there: neither memory nor a second file is needed.
                    self._transport.discard_blob(artifact.blob)
        return await self._disk.run(lambda store: store.artifact_directory(app, manifest.artifacts))

    def release(self, app: int) -> None:
        self._training.release(app)
        self._policies.release(app)
        self._manifests.pop(app, None)
        for blob_id in [blob_id for blob_id, users in self._users.items() if app in users]:
            self._let_go(app, blob_id)

    def subscribe(self, app: int, parent: Contact) -> None:
        manifest = self._manifests.get(app)
        if manifest is not None:
            self._transport.subscribe(app, parent, travelling(manifest) * FLOAT_BYTES)

    def unsubscribe(self, app: int) -> None:
        self._transport.unsubscribe(app)

    def broadcast(self, app: int, blob: BlobRef) -> None:
        self._transport.publish(app, blob)

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        self._awaited[blob.id] += 1
        self._awaiting.setdefault(blob.id, set()).add(app)
        self._spawn(self._fetch(app, token, blob, sources, app if pushed else None))

    async def _fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], pushed_for: int | None
    ) -> None:
        data: memoryview | None = None
        try:
            data = await self._transport.fetch(blob, sources, app=pushed_for, max_bytes=blob.size)
        except EdgeflError as error:
            log.info("blob %s of application %016x: %s", blob, app, error.cause)
        self._awaited[blob.id] -= 1
        if data is not None:
            self._users.setdefault(blob.id, set()).add(app)
        self._discard_unused(blob.id)
        if self.learning is not None:
            self._guard(self.learning.on_fetched, app, token, blob, data, self.now)

    def keep(self, app: int, token: Token, data: Any) -> None:
        self._spawn(self._keep(app, token, data))

    async def _keep(self, app: int, token: Token, data: Any) -> None:
        blob = await self._transport.add_blob(memoryview(data).cast("B"))
        self._users.setdefault(blob.id, set()).add(app)
        if self.learning is not None:
            self._guard(self.learning.on_kept, app, token, blob, self.now)

    def renew(self, app: int, token: Token, start: BlobRef, model: Any, mean: NDArray[np.float32]) -> None:
        self._spawn(self._renew(app, token, start, model, mean))

    async def _renew(self, app: int, token: Token, start: BlobRef, model: Any, mean: NDArray[np.float32]) -> None:
        learning = self.learning
        if learning is None:
            return
        try:
            trained = learning.applications[app].trained if app in learning.applications else 0
            new, state = await self._policies.step(app, start, model, mean, trained=trained)
        except PolicyError as error:
            self._training.last_error[app] = error
            self._guard(learning.on_not_kept, app, token, error.cause, self.now)
            return
        blob = await self._transport.add_blob(memoryview(new.data).cast("B"))
        self._users.setdefault(blob.id, set()).add(app)
        self._policies.keep_state(app, blob, state)
        self._guard(learning.on_kept, app, token, blob, self.now)

    def discard(self, app: int, blob: BlobRef) -> None:
        self._let_go(app, blob.id)

    def _let_go(self, app: int, blob_id: bytes) -> None:
        users = self._users.get(blob_id)
        if users is not None:
            users.discard(app)
            self._discard_unused(blob_id)

    def _discard_unused(self, blob_id: bytes) -> None:
        if self._awaited[blob_id] <= 0:
            del self._awaited[blob_id]
            self._awaiting.pop(blob_id, None)
            if not self._users.get(blob_id):
                self._users.pop(blob_id, None)
                self._transport.discard_blob(blob_id)

    def may_have(self, peer: Contact, blob_id: bytes) -> bool:
        """Whether a peer that asks for a blob may be served: not one of another zone where every application that has
        the blob, or waits for it, is of one zone alone. What belongs to none that we know (a push that nobody has asked
        for yet) is treated as if it were theirs."""
        applications = self.learning.applications if self.learning is not None else {}
        scoped = [app for app in applications.values() if app.manifest.scope is Scope.ZONE]
        if not scoped:
            return True
        users = self._users.get(blob_id, set()) | self._awaiting.get(blob_id, set())
        having = [app for app in applications.values() if app.id in users or app.has_artifact(blob_id)]
        for app in having or scoped:
            if is_inside(app.manifest, app.me, peer):
                return True
        (having or scoped)[0].count("refused_foreign_zone")
        return False

    def members_of(self, app_id: int) -> tuple[Contact, ...]:
        """Other members of an application, of those that may have its blobs."""
        app = self.learning.applications.get(app_id) if self.learning is not None else None
        if app is None:
            return ()
        known = self._top_ranked(app_id, MAX_MEMBERS_ASKED)
        return tuple(
            peer for peer in known if app.manifest.scope is Scope.GLOBAL or is_inside(app.manifest, app.me, peer)
        )

    def may_subscribe(self, peer: Contact | None, app_id: int) -> bool:
        """Whether a peer may be pushed the models of an application; of one that has said nothing of its zone we assume
        the worst."""
        app = self.learning.applications.get(app_id) if self.learning is not None else None
        if app is None or app.manifest.scope is Scope.GLOBAL or (peer and is_inside(app.manifest, app.me, peer)):
            return True
        app.count("refused_foreign_zone")
        return False

    def train(self, app: int, job: TrainJob) -> None:
        self._spawn(self._train(app, job))

    async def _train(self, app: int, job: TrainJob) -> None:
        manifest, learning = self._manifests.get(app), self.learning
        if manifest is None or learning is None:
            return
        result = None
        try:
            if job.kind is RoundKind.TRAIN and not await self._policies.selects(app, manifest, job.tag[1]):
                self._guard(learning.on_trained, app, job.tag, DECLINED, self.now)
                return
            model = await self._transport.fetch(job.model, (), max_bytes=job.model.size)
            trained = await self._training.train(app, job, manifest, model)
            # Nothing but what the policies have left is handed on, whatever happens to them.
            result = trained and await self._policies.shape(app, manifest, job, trained)
        except PolicyError as error:
            self._training.last_error[app] = error
            log.warning("application %r: %s (next: %s)", manifest.name, error.cause, error.hint)
        except EdgeflError as error:
            log.warning("application %r: training did not start: %s", manifest.name, error.cause)
        self._guard(learning.on_trained, app, job.tag, result, self.now)

    def save(self, app: int, progress: Progress) -> None:
        busy = app in self._unsaved
        self._unsaved[app] = progress
        if not busy:
            self._spawn(self._save(app))

    async def _save(self, app: int) -> None:
        """Write the newest progress; what comes while the disk is busy replaces what waits."""
        while (progress := self._unsaved.get(app)) is not None:
            try:
                blobs = [await self._transport.fetch(blob, (), max_bytes=blob.size) for blob in progress.blobs()]
                await self._disk.run(lambda store, p=progress, b=blobs: store.save_progress(app, p, *b))  # type: ignore[misc]
            except StorageError:
                pass  # the disk remembers and shows it; the next round is saved again
            except EdgeflError as error:
                log.info("progress of application %016x was not saved: %s", app, error.cause)
            if self._unsaved.get(app) is progress:
                del self._unsaved[app]

    def uplink_bytes_s(self) -> float | None:
        return self._transport.serving_rate()

    def remember(self, app: int, data: Any, name: str = "feedback") -> None:
        self._disk.soon(lambda store: store.save_memory(app, name, data))

    def recall(self, app: int, token: Token) -> None:
        self._spawn(self._recall(app, token))

    async def _recall(self, app: int, token: Token) -> None:
        data = None
        with contextlib.suppress(StorageError):  # the disk remembers and shows it; what was remembered is lost
            data = await self._disk.run(lambda store: store.read_memory(app, str(token[0])))
        if self.learning is not None:
            self._guard(self.learning.on_recalled, app, token, data, self.now)

    async def restore(self, app: int, progress: Progress) -> bool:
        """Bring a saved model, and what was saved with it, back among the blobs that can be fetched. False when
        something cannot be read."""
        for blob in progress.blobs():
            data = await self._disk.run(lambda store, blob=blob: store.read_blob(blob))  # type: ignore[misc]
            if data is None:
                return False
            await self._transport.add_blob(data)
            self._users.setdefault(blob.id, set()).add(app)
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._guard(_raise, task.exception())

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _raise(error: BaseException) -> None:
    raise error
