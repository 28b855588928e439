"""The effects of a consensus application: every device has a model of its own, also in a round over the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.border import Border
from edgefl.learning.effects import LearningEffects, TrainJob

if TYPE_CHECKING:
    from edgefl.learning.consensus.application import ConsensusApplication
    from edgefl.wire.blob import BlobRef


class OwnModels(Border):
    """In a round over the tree, a device does not train the root's model: it speaks for its own."""

    def __init__(self, effects: LearningEffects, app: ConsensusApplication) -> None:
        super().__init__(effects, app.manifest, lambda: app.me, lambda: app.count("refused_foreign_zone"))
        self._app = app

    def train(self, app: int, job: TrainJob) -> None:
        if job.tag[0] == 0:
            self.compute(app, job)
        else:
            self._app.contribute(job)

    def compute(self, app: int, job: TrainJob) -> None:
        """Have the trainer do it."""
        super().train(app, job)

    def discard(self, app: int, blob: BlobRef) -> None:
        if not self._app.uses(blob):
            super().discard(app, blob)
