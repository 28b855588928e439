"""Rounds for the tools in which people compare runs: TensorBoard's event files, MLflow's tracking server.

Both packages are extras, imported when they are asked for. A round is written once, when it is complete: its model is
evaluated in the round after it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from edgefl.errors import MissingPackageError, UnreachableError

NOT_WRITTEN = frozenset({"round", "epoch", "train_epsilon"})
"""The step, the root's number, and what is written as `epsilon`."""

COSTS = frozenset(
    {"participants", "samples", "seconds", "bytes", "attempts", "members", "budget_s", "stalest", "dropped"}
)
"""Of a round of training: round 0, the model before any, has none."""

EXPERIMENT = "edgefl"
"""At MLflow; each application is a run."""

APP_TAG, ROUND_TAG = "edgefl.app", "edgefl.next_round"
"""Of a run: which application it is, and the first round that is not in it yet."""


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """What is written of one round (a document of the daemon): every number, by its name in the CSV file."""
    return {
        name: float(value)
        for name, value in record.items()
        if name not in NOT_WRITTEN and (record["round"] > 0 or name not in COSTS)
    }


class Writer(ABC):
    """Writes rounds in order, each once. Use as a context."""

    def __init__(self) -> None:
        self.next_round = 0

    def write(self, records: Iterable[dict[str, Any]], *, finished: bool) -> None:
        """Write what is new and complete; with `finished`, the newest round as it is."""
        news = sorted((one for one in records if one["round"] >= self.next_round), key=lambda one: int(one["round"]))
        for position, record in enumerate(news):
            if "loss" in record or finished or position < len(news) - 1:
                self.write_round(record["round"], scalars(record))
                self.next_round = record["round"] + 1

    @abstractmethod
    def write_round(self, number: int, values: dict[str, float]) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorBoard(Writer):
    """Event files in DIRECTORY/NAME, one run for each application. What was written there before is superseded: the
    history of an application begins anew in each file (`purge_step`)."""

    def __init__(self, directory: Path, name: str) -> None:
        """Raises MissingPackageError without tensorboardX."""
        super().__init__()
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise MissingPackageError(
                "writing for TensorBoard needs tensorboardX", hint="pip install 'edgefl[tensorboard]'"
            ) from None
        # A thread of the package's own writes; who watches a run wants to see a round soon after it is done.
        self._events = SummaryWriter(str(directory / name), purge_step=0, flush_secs=1)

    def write_round(self, number: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, number)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class MLflow(Writer):
    """A run named after the application in the experiment `edgefl`. A second time it goes on in the same run."""

    def __init__(self, uri: str, name: str, app: str) -> None:
        """Raises MissingPackageError without mlflow, UnreachableError when the tracking server does not answer."""
        super().__init__()
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise MissingPackageError(
                "logging to MLflow needs its client", hint="pip install 'edgefl[mlflow]'"
            ) from None
        self._failure: type[Exception] = MlflowException
        self._uri = uri
        try:
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = self._client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
            runs = self._client.search_runs([experiment], f"tags.`{APP_TAG}` = '{app}'", max_results=1)
            run = runs[0] if runs else self._client.create_run(experiment, run_name=name, tags={APP_TAG: app})
        except self._failure as error:
            raise self._unreachable(error) from None
        self._run: str = run.info.run_id
        self.next_round = int(run.data.tags.get(ROUND_TAG, 0))

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"MLflow at {self._uri} did not take it: {str(error).splitlines()[0]}",
            hint="check the address with a browser; for one's own machine: mlflow server",
        )

    def write_round(self, number: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        try:
            self._client.log_batch(
                self._run,
                metrics=[Metric(name, value, now, number) for name, value in values.items()],
                tags=[RunTag(ROUND_TAG, str(number + 1))],
            )
        except self._failure as error:
            raise self._unreachable(error) from None

    def close(self) -> None:
        """Nothing is held open; the run stays open on the server for rounds that follow."""
