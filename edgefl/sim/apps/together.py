"""How soon have several models that share one fleet all reached their targets: one after the other, all at once, with
fixed equal shares of the devices, or with shares by need (`--together`)?

The overlay, the learning layer and the scheduler are those that run on devices, as in run.py, and gradients are real.
All models learn from the same images, but not the same thing, nor with the same ease. A model is measured on images
that no device has; once it is as good as wanted in STEADY looks, its owner stops the application.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgefl.datasets.partition import dirichlet
from edgefl.errors import TryAgainError
from edgefl.learning.effects import Prepared, TrainJob, TrainResult
from edgefl.sim.apps.device import AppDevice
from edgefl.sim.apps.run import Fleet, Setting
from edgefl.sim.network import Handler
from edgefl.sim.train.learner import Images, Labels, Learner, Vector, initial_model
from edgefl.sim.train.traces import Trace
from edgefl.sim.training import make_application
from edgefl.sim.world import Member
from edgefl.wire import Contact
from edgefl.wire.application import AppState, Manifest
from edgefl.wire.learning import Metric, RoundKind

LOOK_S = 1.0
"""Between two looks at the newest models."""

STEADY = 3
"""Different models in a row that are as good as wanted."""

TEST_SHARE = 0.2
UNENDING = 100_000
LONGEST_S = 20_000.0
"""A run that takes longer has failed."""

WAYS = {"in turn": "", "at once": "", "equal shares": "all:share=1", "by need": "all"}
"""How they are trained, and what their manifests say of it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One model: what it tells of an image (`classes`: of the digit in it), how, and how good it has to become.
    `alpha`: how unlike the devices' data are (Dirichlet)."""

    name: str
    classes: int
    tells: Callable[[Labels], Labels]
    target: float
    hidden: int = 0
    alpha: float = 100.0
    lr: float = 0.1
    batch: int = 20


def tasks(targets: tuple[float, float, float, float]) -> tuple[Task, ...]:
    """Four models: two that are learnt quickly, one that needs longer, one whose devices' data are unlike."""
    easy, larger, longer, uneven = targets
    return (
        Task("small or large", 2, lambda y: (y >= 5).astype(np.int64), easy, 16),
        Task("digits", 10, lambda y: y, larger, 0),
        Task("even or odd", 2, lambda y: y % 2, longer, 16),
        Task("digits, uneven", 10, lambda y: y, uneven, 16, alpha=0.1, batch=5),
    )


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one device learns a task from."""

    task: Task
    learner: Learner
    x: Images
    y: Labels


class Pupil(AppDevice):
    """A device that trains for real. `lessons`: by device and application."""

    lessons: dict[tuple[int, int], Lesson]

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        initial = initial_model(self.lessons[self.member.node_id, app].learner, manifest)
        self._later(0.5, self.learning.on_prepared, app, Prepared(self._hold(initial.tobytes())))

    def result(self, app: int, data: bytes, job: TrainJob) -> TrainResult:
        lesson = self.lessons[self.member.node_id, app]
        task, learner, x, y = lesson.task, lesson.learner, lesson.x, lesson.y
        model = np.frombuffer(data, "<f4")
        metrics = (Metric("loss", learner.loss(model, x, y) * len(y), float(len(y))),)
        if job.kind is not RoundKind.TRAIN:
            return TrainResult(None, len(y), metrics)
        trained = learner.train(
            model, x, y, steps=self._steps, batch=task.batch, lr=task.lr, momentum=0.0, seed=job.seed
        )
        return TrainResult(trained - model, len(y), metrics)


class School(Fleet):
    """A fleet that trains the tasks in one of WAYS; ready, and paused."""

    kind = Pupil

    def __init__(
        self, setting: Setting, traces: list[Trace], x: Images, y: Labels, chosen: tuple[Task, ...], pace: str, way: str
    ) -> None:
        rng = np.random.default_rng(setting.seed)
        order = rng.permutation(len(y))
        test = int(TEST_SHARE * len(y))
        self.tasks, self._pace, self._way = chosen, pace, way
        self._test_x, self._test_y = x[order[:test]], y[order[:test]]
        self._x, self._y = x[order[test:]], y[order[test:]]
        self._learners = [Learner(x.shape[1], task.classes, task.hidden) for task in chosen]
        self._parts = [dirichlet(self._y, setting.nodes, task.alpha, rng, minimum=1) for task in chosen]
        self.lessons: dict[tuple[int, int], Lesson] = {}
        self._looked: dict[int, tuple[int, int]] = {}
        super().__init__(replace(setting, apps=len(chosen), members=setting.nodes), traces, central=False)

    def _manifest(self, index: int) -> Manifest:
        task, setting = self.tasks[index], self.setting
        manifest = make_application(
            task.name,
            task.name,
            rounds=UNENDING,
            min_members=setting.nodes,
            quorum=setting.quorum,
            seed=setting.seed * 1000 + index,
            parameters=self._learners[index].parameters,
            deadline_s=setting.deadline_s,
            pace=self._pace,
            together=WAYS[self._way],
        )
        for device, part in zip(self.learners, self._parts[index], strict=True):
            lesson = Lesson(task, self._learners[index], self._x[part], task.tells(self._y[part]))
            self.lessons[device.member.node_id, manifest.app_id] = lesson
        return manifest

    def _equip(self, member: Member) -> list[Handler]:
        (device,) = super()._equip(member)
        if isinstance(device, Pupil):
            device.lessons = self.lessons
        return [device]

    def newest(self, app: int) -> tuple[int, Vector]:
        """(round, float32 [parameters]) of the newest model that a device holds."""
        holder = max(self.learners, key=lambda device: device.learning.applications[app].ledger.round)
        ledger = holder.learning.applications[app].ledger
        if ledger.model is None:
            raise ValueError("no model yet")
        return ledger.round, np.frombuffer(holder._blobs[ledger.model.id], "<f4")

    def is_good(self, index: int) -> bool:
        """Whether the newest models of a task are as good as wanted. Looks at each of them once."""
        app, task = self.manifests[index].app_id, self.tasks[index]
        round_, model = self.newest(app)
        seen, good = self._looked.get(index, (0, 0))
        if round_ > seen:
            right = self._learners[index].accuracy(model, self._test_x, task.tells(self._test_y)) >= task.target
            good = good + 1 if right else 0
            self._looked[index] = (round_, good)
        return good >= STEADY

    def run(self) -> list[float]:
        """Seconds from the beginning until each task is done. Raises TryAgainError."""
        begin, done = self.world.clock.now, dict.fromkeys(range(len(self.tasks)), 0.0)
        waiting, learning = list(done), list[int]()
        while waiting or learning:
            while waiting and (self._way != "in turn" or not learning):
                learning.append(waiting.pop(0))
                self.start(self.manifests[learning[-1]])
            self.world.run(LOOK_S)
            for index in [one for one in learning if self.is_good(one)]:
                learning.remove(index)
                done[index] = self.world.clock.now - begin
                self.say(self.manifests[index], 3, AppState.STOPPED)
            if self.world.clock.now - begin > LONGEST_S:
                late = ", ".join(self.tasks[index].name for index in (*learning, *waiting))
                raise TryAgainError(
                    f"{self._way}: no good model of {late} after {LONGEST_S:g} s", hint="lower the target"
                )
        return list(done.values())


def compare_ways(
    setting: Setting,
    traces: list[Trace],
    x: Images,
    y: Labels,
    chosen: tuple[Task, ...],
    pace: str = "buffered",
    report: Callable[[str, float], None] = lambda what, share: None,
) -> dict[str, Any]:
    """The document of `edgefl sim together` (JSON types only): for each way the seconds until each task was done,
    rounds, participants, and what the devices have done for it."""
    rows = []
    for number, way in enumerate(WAYS):
        report(way, number / len(WAYS))
        school = School(setting, traces, x, y, chosen, pace, way)
        seconds = school.run()
        rows.append({"way": way, "all_s": round(max(seconds), 1), "tasks": _rows(school, seconds), **_cost(school)})
    first = rows[0]["all_s"]
    for row in rows:
        row["in_turn_over_this"] = round(first / row["all_s"], 3)
    named = [{"name": task.name, "target": task.target, "alpha": task.alpha} for task in chosen]
    kept = {key: value for key, value in asdict(setting).items() if key in ("nodes", "steps", "seed")}
    return {**kept, "pace": pace, "models": named, "ways": rows}


def _rows(school: School, seconds: list[float]) -> list[dict[str, Any]]:
    rows = []
    for task, manifest, took in zip(school.tasks, school.manifests, seconds, strict=True):
        records = [
            record
            for device in school.learners
            if (tree := device.learning.applications[manifest.app_id].tree) is not None and tree.is_root
            for record in device.learning.applications[manifest.app_id].ledger.history.all()
            if record.participants
        ]
        needs = [m.total / m.weight for record in records for m in record.metrics if m.name == "train_need"]
        participants = sum(record.participants for record in records) / max(1, len(records))
        rows.append(
            {
                "name": task.name,
                "seconds": round(took, 1),
                "rounds": len(records),
                "participants": round(participants, 1),
                "attempts": round(sum(record.attempts for record in records) / max(1, len(records)), 2),
                "need": round(float(np.median(needs)), 2) if needs else None,
            }
        )
    return rows


def _cost(school: School) -> dict[str, Any]:
    return {
        "device_seconds": round(sum(device.processor.busy_s for device in school.learners), 1),
        "sent_bytes": sum(device.uplink.sent_bytes for device in school.learners),
    }
