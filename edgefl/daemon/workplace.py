"""What one application trains with on this device, and one job of it: from the vector that came to what travels up.

    the vector that came -> (strategy) -> shared weights -> (with the personal tensors) -> the session
    the session's change -> shared part -> (strategy) -> the vector that travels, and what stays here

What stays is one vector: the strategy's own (SCAFFOLD's c_i) first, the personal tensors behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.errors import ModelError
from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.manifest import travelling
from edgefl.learning.strategies.rates import learning_rate
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire.application import Manifest
from edgefl.wire.blob import FLOAT_BYTES
from edgefl.wire.learning import Metric, RoundKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.trainer import Dataset, Session
    from edgefl.trainer.files.manifest import Manifest as Artifacts
    from edgefl.trainer.files.split import Split

    Vector = NDArray[np.float32]

EVALUATION_BATCH = 256


def split_of(artifacts: Artifacts, manifest: Manifest) -> Split:
    """How the application divides its model. Raises ModelError where artifacts and application do not fit."""
    from edgefl.trainer.files.split import Split
    from edgefl.trainer.running.pace import adds_up

    if parse_strategy(manifest.strategy).controls and not adds_up(artifacts.optimizer):
        raise ModelError(
            f"{manifest.strategy} needs steps that are sums of gradients, which {artifacts.optimizer.name} does not "
            "take",
            hint="build the artifacts with --optimizer sgd or momentum, or choose another strategy",
        )
    return Split(artifacts, manifest.personal)


@dataclass(slots=True)
class Workplace:
    """One application's session and data. `train` is None for an observer."""

    session: Session
    train: Dataset | None
    held_back: Dataset | None

    def initial(self, manifest: Manifest) -> tuple[bytes, int]:
        """The vector that the first round begins with (float32, little-endian), and how many values of it are trained.
        Raises ModelError when the artifacts do not fit the manifest."""
        import numpy as np

        split = split_of(self.session.manifest, manifest)
        if split.shared_size != manifest.parameters:
            raise ModelError(
                f"the artifacts have {split.shared_size} parameters to share, the manifest says {manifest.parameters}",
                hint="the application was put together wrongly: create it again",
            )
        vector = np.zeros(travelling(manifest), "<f4")
        vector[: split.shared_size] = split.shared(self.session.view())
        return vector.tobytes(), split.trained

    def work(self, job: TrainJob, manifest: Manifest, model: Any, should_stop: Callable[[], bool]) -> TrainResult:
        """Do a job from `model` (a buffer of float32, as it travels). Raises EdgeflError."""
        import numpy as np

        from edgefl.learning.strategies.local import Outcome, local_part
        from edgefl.trainer import LocalSpec, evaluate_local, train_local
        from edgefl.trainer.running.pace import plain_steps

        session, artifacts = self.session, self.session.manifest
        split, part = split_of(artifacts, manifest), local_part(manifest.strategy)
        given = np.frombuffer(model, "<f4").astype(np.float32, copy=False)
        control, personal = take_apart(job.kept, manifest, split)
        if personal is None:
            personal = initial_personal(session.directory, split)
        plan = part.plan(given, control)
        session.load_vector(split.join(plan.weights, personal))
        metrics: list[Metric] = []
        if self.held_back is not None:
            sums = evaluate_local(session, self.held_back, EVALUATION_BATCH, should_stop=should_stop)
            metrics += [Metric(name, total, weight) for name, (total, weight) in sums.items()]
        if job.kind is not RoundKind.TRAIN or self.train is None:
            return TrainResult(None, 0, tuple(metrics))
        before = 0.0
        if plan.wants_loss:
            total, weight = evaluate_local(session, self.train, EVALUATION_BATCH, should_stop=should_stop)["loss"]
            before = total / weight if weight else 0.0
        shift = None
        if plan.shift is not None:
            shift = split.join(plan.shift, np.zeros_like(personal))[: artifacts.trained_size]
        lr = learning_rate(manifest.lr_schedule, manifest.learning_rate, job.tag[1], manifest.rounds)
        spec = LocalSpec(manifest.local_epochs, manifest.batch, lr, proximal=plan.proximal)
        result = train_local(session, self.train, spec, seed=job.seed, shift=shift, should_stop=should_stop)
        steps = plain_steps(artifacts.optimizer, result.steps)
        outcome = Outcome(split.shared(result.delta), result.samples, steps, lr, before)
        report = part.report(given, control, outcome, split.trained)
        metrics += [Metric("train_loss", result.loss * result.samples, float(result.samples)), *report.metrics]
        kept = [] if report.kept is None else [report.kept]
        if split.personal_size:
            kept.append(split.personal(session.view()))
        return TrainResult(report.vector, result.samples, tuple(metrics), np.concatenate(kept) if kept else None)


def take_apart(kept: Any, manifest: Manifest, split: Split) -> tuple[Vector | None, Vector | None]:
    """(the strategy's vector, the personal tensors) in what stayed here. None where nothing did, or nothing that fits:
    then both begin afresh."""
    import numpy as np

    controls = manifest.parameters if parse_strategy(manifest.strategy).controls else 0
    if kept is None or memoryview(kept).nbytes != FLOAT_BYTES * (controls + split.personal_size):
        return None, None
    vector = np.frombuffer(kept, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(vector).all():
        return None, None
    return vector[:controls] if controls else None, vector[controls:]


def initial_personal(directory: Path, split: Split) -> Vector:
    """The personal tensors as the artifacts have them. Raises ModelError."""
    import numpy as np

    from edgefl.trainer.files import checkpoint
    from edgefl.trainer.files.manifest import CHECKPOINT, read_file, read_manifest

    if not split.personal_size:
        return np.empty(0, np.float32)
    manifest = read_manifest(directory)
    tensors = checkpoint.parse(read_file(directory, manifest, CHECKPOINT))
    return split.personal(np.concatenate([tensors[tensor.name].ravel() for tensor in manifest.carried]))


def export_model(directory: Path, manifest: Manifest, model: Any, kept: Any) -> bytes:
    """The user's own ONNX file with these weights in it: `model` as it travels, with the personal tensors of this
    device (in `kept`, a buffer of float32; those of the artifacts where it has none). Raises ModelError."""
    import numpy as np

    from edgefl.trainer.files.inference_model import with_weights
    from edgefl.trainer.files.manifest import INFERENCE, read_file, read_manifest

    artifacts = read_manifest(directory)
    split = split_of(artifacts, manifest)
    shared = np.frombuffer(model, "<f4")[: manifest.parameters].astype(np.float32, copy=False)
    _, personal = take_apart(kept, manifest, split)
    if personal is None:
        personal = initial_personal(directory, split)
    return with_weights(read_file(directory, artifacts, INFERENCE), artifacts, split.join(shared, personal))
