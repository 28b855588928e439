"""The ways by which files of other people come into the trainer, and what becomes of damaged ones.

    build        a user's ONNX file becomes artifacts
    loss         the same for a loss of one's own
    artifacts    a directory with one file damaged, the manifest made to fit again: first the trial, then a session

The first two do here, hundreds in one process, what `trainer.build` does in a new process for each; `really` takes the
mutants that went wrong through `trainer.build` itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import onnx.reference  # noqa: F401 - everything that is loaded lazily, before memory is counted

from edgefl import trainer
from edgefl.errors import EdgeflError
from edgefl.trainer.building.artifacts import build_here
from edgefl.trainer.files.manifest import CHECKPOINT, EVALUATION, INFERENCE, MANIFEST, OPTIMIZER, TRAINING, blake2b
from edgefl.trainer.running import trial
from edgefl.trainer.running.gradient_check import synthetic_batch
from support.mutants import BYTES, Mutant, mutant
from support.seed_models import model, node, seed_losses, seed_models

FAILED = "FAILED: "

GRAPHS = (TRAINING, EVALUATION, OPTIMIZER, INFERENCE)

TRIED_SEEDS = ("image", "attention", "lstm", "indexing", "newest", "groups")
"""Models whose artifacts are damaged."""


class Door:
    """Makes mutants and tries them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder

    def random(self, index: int) -> Random:
        return Random(f"{self.seed}/{index}")

    def mutant(self, index: int) -> Mutant:
        raise NotImplementedError

    def attempt(self, index: int, mutant: Mutant) -> tuple[str, str]:
        """What became of it, and more about that."""
        raise NotImplementedError

    def really(self, index: int) -> tuple[str, str]:
        """The same through the door that people use."""
        raise NotImplementedError


def verdict(action: Callable[[], object], good: str) -> tuple[str, str]:
    """What becomes of an action: the name of the error that edgefl raises, or a failure."""
    try:
        action()
    except EdgeflError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return f"{FAILED}memory asked for", f"{error!r} from {cause!r}"
            cause = cause.__cause__ or cause.__context__
        masked = f" from {type(error.__cause__).__name__}" if error.__cause__ else ""
        return type(error).__name__ + masked, str(error)
    except MemoryError as error:
        return f"{FAILED}MemoryError", _traceback(error)
    except Exception as error:
        return f"{FAILED}{type(error).__name__}", _traceback(error)
    return good, ""


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-1500:]


class BuildDoor(Door):
    """A user's model."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.seeds = seed_models()
        (folder / "weights.bin").write_bytes(bytes(4000))

    def mutant(self, index: int) -> Mutant:
        return mutant(self.random(index), self.seeds)

    def attempt(self, index: int, mutant: Mutant) -> tuple[str, str]:
        return verdict(lambda: build_here(**self._order(index, mutant)), "built")

    def really(self, index: int) -> tuple[str, str]:
        return verdict(lambda: trainer.build(**self._order(index, self.mutant(index))), "built")

    def _order(self, index: int, mutant: Mutant) -> dict[str, Any]:
        rng = self.random(-1 - index)
        given: Any = mutant.content
        if rng.random() < 0.1:
            given = self.folder / "model.onnx"
            given.write_bytes(mutant.content)
        return {
            "model": given,
            "loss": rng.choice(("mse", "mse", "cross-entropy", "bce", "mae", "huber")),
            "optimizer": rng.choice(("sgd", "adam")),
            "portable": rng.random() < 0.2,
            "lora": trainer.LowRank(2) if rng.random() < 0.1 else None,
            "out": self.folder / "built",
        }


class LossDoor(Door):
    """A user's own loss."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.model = model([node("Gemm", ["x", "w"], ["y"])], {"w": (4, 3)})
        self.seeds = seed_losses()

    def mutant(self, index: int) -> Mutant:
        return mutant(self.random(index), self.seeds, inputs=("prediction", "target"))

    def attempt(self, index: int, mutant: Mutant) -> tuple[str, str]:
        return verdict(
            lambda: build_here(model=self.model, loss=mutant.content, out=self.folder / "built"),
            "built",
        )

    def really(self, index: int) -> tuple[str, str]:
        loss = self.mutant(index).content
        return verdict(lambda: trainer.build(self.model, loss=loss, out=self.folder / "built"), "built")


class ArtifactsDoor(Door):
    """Artifacts that somebody else has made."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        models = seed_models()
        self.seeds: dict[str, dict[str, bytes]] = {}
        for name in TRIED_SEEDS:
            out = folder / name
            build_here(model=models[name], loss="mse", optimizer="adam", out=out)
            self.seeds[name] = {path.name: path.read_bytes() for path in out.iterdir()}

    def mutant(self, index: int) -> Mutant:
        """Its content is that of one file; `origin` says which."""
        rng = self.random(index)
        name = rng.choice(TRIED_SEEDS)
        file = rng.choice((*GRAPHS, TRAINING, TRAINING, EVALUATION, CHECKPOINT, MANIFEST))
        content = self.seeds[name][file]
        if file in GRAPHS:
            damaged = mutant(rng, {file: content})
            return Mutant(f"{name}/{file}: {damaged.origin}", damaged.content)
        for _ in range(rng.randint(1, 3)):
            content = rng.choice(BYTES)(content, content, rng)
        return Mutant(f"{name}/{file}: bytes", content)

    def attempt(self, index: int, mutant: Mutant) -> tuple[str, str]:
        place = self._write(mutant)
        pid = os.fork()
        if pid == 0:
            signal.setitimer(signal.ITIMER_REAL, 60.0)
            what, _ = verdict(lambda: trial.try_artifacts(place, 1, "cpu"), "")
            os._exit(2 if what.startswith(FAILED) else 1 if what else 0)
        _, status = os.waitpid(pid, 0)
        if status:
            ending = (
                ("", "named error", "unnamed error")[os.waitstatus_to_exitcode(status)] if status > 255 else "crash"
            )
            return f"refused by the trial ({ending})", ""
        return verdict(lambda: self._train(place), "trained")

    def really(self, index: int) -> tuple[str, str]:
        place = self._write(self.mutant(index))

        def tried() -> None:
            trial.require_trial(place)
            self._train(place)

        return verdict(tried, "trained")

    def _train(self, place: Path) -> None:
        session = trainer.Session(place, threads=1)
        session.step(synthetic_batch(session.manifest, 3), 0.1)
        session.export(place / "trained.onnx")

    def _write(self, mutant: Mutant) -> Path:
        name, file = mutant.origin.split(": ")[0].split("/")
        place = self.folder / "artifacts"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        files = {**self.seeds[name], file: mutant.content}
        if file != MANIFEST:
            manifest = json.loads(files[MANIFEST])
            manifest["files"][file] = {"size_bytes": len(mutant.content), "blake2b": blake2b(mutant.content)}
            files[MANIFEST] = json.dumps(manifest).encode()
        for path, content in files.items():
            (place / path).write_bytes(content)
        return place


DOORS: dict[str, Callable[[int, Path], Door]] = {"build": BuildDoor, "loss": LossDoor, "artifacts": ArtifactsDoor}
