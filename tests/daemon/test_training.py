"""What a manifest asks of local training, with real artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from support.building import build
from support.learning_world import make_manifest

from edgefl import trainer
from edgefl.daemon.training import Training, Workplace
from edgefl.datasets import digits, models
from edgefl.learning.effects import TrainJob
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind


def test_the_mu_of_the_manifest_keeps_the_weights_near_the_model(tmp_path: Path) -> None:
    build(models.mlp(hidden=16), loss="cross-entropy", optimizer="momentum", out=tmp_path)
    session = trainer.Session(tmp_path, threads=1)
    start = session.vector()
    x, y = digits()
    training = Training(tmp_path / "notes", threads=1)
    training._places[1] = Workplace(session, trainer.Dataset(x[:70], y[:70]), None)
    job = TrainJob((1, 1, 1), RoundKind.TRAIN, BlobRef(bytes(32), start.nbytes), 3)

    async def length(strategy: str) -> float:
        spec = make_manifest(strategy=strategy, local_epochs=5, batch=16, learning_rate=0.02)
        result = await training.train(1, job, spec, start.tobytes())
        assert result is not None
        assert result.delta is not None
        return float(np.linalg.norm(result.delta))

    async def main() -> list[float]:
        try:
            return [await length(text) for text in ("fedavg", "fedadam:lr=0.5", "fedprox:mu=1", "fedprox:mu=10")]
        finally:
            await training.close()

    plain, adaptive, near, nearer = asyncio.run(main())
    assert plain == adaptive
    assert plain > 1.5 * near > 3 * nearer
