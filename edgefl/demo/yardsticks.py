"""The demonstration's two yardsticks: the same model from the same start, with as many local epochs as the federation
has in all its rounds, trained on all data in one place, and by every device alone.

Each yardstick is a process of its own (`python -m edgefl.demo.yardsticks …` prints one number), so that all cores work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefl.demo.digits import RECIPES, Division, divide
from edgefl.errors import LocalError
from edgefl.trainer import Dataset, LocalSpec, Session, train_local

KINDS = ("centralised", "local_mean")


@dataclass(frozen=True, slots=True)
class Question:
    """One application's yardsticks: the artifacts it starts from, and the division of the digits."""

    artifacts: Path
    model: str
    nodes: int
    seed: int
    rounds: int


def answer(question: Question, kind: str) -> float:
    """Accuracy on the test set: `centralised`, or `local_mean` over the devices."""
    division = divide(question.nodes, question.seed)
    recipe = RECIPES[question.model]
    spec = LocalSpec(recipe.local_epochs * question.rounds, recipe.batch, recipe.lr)
    session = Session(question.artifacts, threads=1)
    start = session.vector()

    def accuracy(data: Dataset) -> float:
        session.load_vector(start)
        train_local(session, data, spec, seed=question.seed)
        test = {session.manifest.inputs[0].name: division.test.x, "target": division.test.y}
        return session.evaluate(test)["accuracy"]

    if kind == "centralised":
        return accuracy(_together(division))
    return float(np.mean([accuracy(part) for part in division.parts]))


def _together(division: Division) -> Dataset:
    return Dataset(
        np.concatenate([part.x for part in division.parts]), np.concatenate([part.y for part in division.parts])
    )


def ask(questions: list[Question]) -> list[tuple[float, float]]:
    """(centralised, local_mean) for every question, in processes beside each other. Raises LocalError."""

    def run(task: tuple[Question, str]) -> float:
        question, kind = task
        numbers = [str(question.nodes), str(question.seed), str(question.rounds)]
        arguments = [str(question.artifacts), question.model, *numbers, kind]
        done = subprocess.run(
            [sys.executable, "-m", "edgefl.demo.yardsticks", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LocalError(f"a yardstick could not be computed: {done.stderr.strip()[-300:]}")
        return float(done.stdout)

    tasks = [(question, kind) for question in questions for kind in KINDS]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        answers = list(pool.map(run, tasks))
    return list(zip(answers[::2], answers[1::2], strict=True))


if __name__ == "__main__":
    directory, model, nodes, seed, rounds, wanted = sys.argv[1:]
    print(answer(Question(Path(directory), model, int(nodes), int(seed), int(rounds)), wanted))  # noqa: T201  (its result)
