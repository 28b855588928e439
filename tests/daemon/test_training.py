"""What a manifest asks of local training, with real artifacts; several applications; a device with other work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.building import build
from support.learning_world import make_manifest

from edgefl import trainer
from edgefl.daemon.training import Training, Workplace
from edgefl.datasets import digits, models
from edgefl.learning import turns
from edgefl.learning.effects import DECLINED, TrainJob, TrainResult
from edgefl.limits import DeviceLimits
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind


class Device:
    """Training with as many applications as asked for, all of the same artifacts and with the same data."""

    def __init__(self, directory: Path, applications: int = 1, **limits: float) -> None:
        if not (directory / "manifest.json").exists():
            build(models.mlp(hidden=16), loss="cross-entropy", optimizer="momentum", out=directory)
        self.training = Training(directory / "notes", threads=1, limits=DeviceLimits(**limits))  # type: ignore[arg-type]
        x, y = digits()
        for app in range(1, applications + 1):
            session = trainer.Session(directory, threads=1)
            held_back = trainer.Dataset(x[70:100], y[70:100])
            self.training._places[app] = Workplace(session, trainer.Dataset(x[:70], y[:70]), held_back)
        self.start = session.vector()

    def job(self, *, seed: int = 3, deadline: float = math.inf, kind: RoundKind = RoundKind.TRAIN) -> TrainJob:
        return TrainJob((1, 1, 1), kind, BlobRef(bytes(32), self.start.nbytes), seed, deadline=deadline)

    async def train(
        self, app: int = 1, spec: Manifest | None = None, job: TrainJob | None = None
    ) -> TrainResult | None:
        spec = spec or make_manifest(local_epochs=5, batch=16, learning_rate=0.02)
        return await self.training.train(app, job or self.job(), spec, self.start.tobytes())


def run(device: Device, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await test()
        finally:
            await device.training.close()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    end = asyncio.get_running_loop().time() + 20.0
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.001)


def delta(result: TrainResult | None) -> np.ndarray:
    assert result is not None
    assert result.delta is not None
    return result.delta


def test_the_mu_of_the_manifest_keeps_the_weights_near_the_model(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        async def length(strategy: str) -> float:
            spec = make_manifest(strategy=strategy, local_epochs=5, batch=16, learning_rate=0.02)
            return float(np.linalg.norm(delta(await device.train(spec=spec))))

        names = ("fedavg", "fedadam:lr=0.5", "fedprox:mu=1", "fedprox:mu=10")
        plain, adaptive, near, nearer = [await length(name) for name in names]
        assert plain == adaptive
        assert plain > 1.5 * near > 3 * nearer

    run(device, test)


def test_applications_that_interrupt_each_other_learn_what_they_learn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path, 3)

    async def test() -> None:
        alone = [delta(await device.train(app, job=device.job(seed=app))) for app in (1, 2, 3)]
        monkeypatch.setattr(turns, "ALLOWANCE_S", 0.0)  # change places whenever somebody else has had less
        order: list[int] = []
        charge = device.training.gate.turns.charge

        def noted(app: int, seconds: float) -> None:
            order.append(app)
            charge(app, seconds)

        monkeypatch.setattr(device.training.gate.turns, "charge", noted)
        device.training.gate.close_gate(-1.0)  # until all three are there
        together = [asyncio.ensure_future(device.train(app, job=device.job(seed=app))) for app in (1, 2, 3)]
        await until(lambda: len(device.training.gate.turns.waiting) == 3)
        device.training.gate.open_gate()
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, delta(await other))
        changes = sum(one != other for one, other in pairwise(order))
        assert changes > 10

    run(device, test)


def test_a_pause_loses_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        spec = make_manifest(local_epochs=1000, batch=16, learning_rate=0.0005)
        gate = device.training.gate
        whole = delta(await device.train(spec=spec))
        again = asyncio.ensure_future(device.train(spec=spec))
        await until(lambda: gate._holder is not None)
        gate.close_gate(gate.clock() + 1.0)
        await until(lambda: gate._holder is None)
        assert not again.done()
        gate.open_gate()
        np.testing.assert_array_equal(whole, delta(await again))

    run(device, test)


def test_a_device_that_cannot_train_in_time_says_so_at_once(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        gate = device.training.gate
        gate.close_gate(math.inf)
        assert await device.train(job=device.job(deadline=gate.clock() + 600.0)) is DECLINED
        assert await device.train(job=device.job(deadline=gate.clock() + 600.0, kind=RoundKind.EVALUATE)) is DECLINED
        assert await device.train() is DECLINED  # a job without a deadline has the manifest's
        assert device.training.last_error == {}
        gate.open_gate()
        assert delta(await device.train()).any()

    run(device, test)


def test_a_pause_in_the_middle_of_a_job_that_takes_too_long_declines_it(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        spec = make_manifest(local_epochs=1000, batch=16, learning_rate=0.0001)
        gate = device.training.gate
        task = asyncio.ensure_future(device.train(spec=spec, job=device.job(deadline=gate.clock() + 600.0)))
        await until(lambda: gate._holder is not None)
        gate.close_gate(gate.clock() + 700.0)
        assert await task is DECLINED
        assert gate.turns.waiting == ()

    run(device, test)


def test_what_comes_too_late_for_its_round_is_not_trained(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        gate = device.training.gate
        assert await device.train(job=device.job(deadline=gate.clock() - 1.0)) is None

    run(device, test)


def test_a_newer_job_of_an_application_replaces_the_older_one(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        long = make_manifest(local_epochs=1000, batch=16, learning_rate=0.0001)
        older = asyncio.ensure_future(device.train(spec=long))
        await until(lambda: device.training.gate._holder is not None)
        newer = await device.train()
        assert await older is None
        assert delta(newer).any()
        np.testing.assert_array_equal(delta(newer), delta(await device.train()))

    run(device, test)


def test_an_application_that_is_gone_stops_at_its_next_step(tmp_path: Path) -> None:
    device = Device(tmp_path)

    async def test() -> None:
        long = make_manifest(local_epochs=1000, batch=16, learning_rate=0.0001)
        task = asyncio.ensure_future(device.train(spec=long))
        await until(lambda: device.training.gate._holder is not None)
        device.training.release(1)
        assert await task is None
        assert device.training.gate.turns.waiting == ()

    run(device, test)


def test_a_share_of_the_processor_means_fewer_threads_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    for cpu, threads in ((1.0, None), (0.75, 3), (0.5, 2), (0.3, 2), (0.1, 1)):
        training = Training(tmp_path, limits=DeviceLimits(cpu=cpu))
        assert training._threads == threads
        assert training.gate._duty._rate == (math.inf if cpu == 1 else 4 * cpu)
        asyncio.run(training.close())
