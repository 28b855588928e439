"""An application of the fleet, for a program on one of its devices: what `edgefl app` does, as calls.

It asks the daemon of this device over the control socket, so it needs no event loop, and nothing of it runs when the
program has ended. The daemon may be `edgefl join`, or a Node in this or another program.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgefl.config import control_socket
from edgefl.control import ControlClient
from edgefl.errors import UsageError


class App:
    """One application, by its name, its id, or the beginning of its id. Making this object asks nobody.

    Every call waits for the daemon's answer. It raises UnreachableError when no daemon listens, ControlError (with the
    `name`, `cause` and `hint` that the command line shows) for what the daemon refuses, and UsageError on the event
    loop of a Node in the same program, which could not answer: `await asyncio.to_thread(app.history)` there.
    """

    def __init__(self, name: str, *, state: str | Path | None = None) -> None:
        """`state`: the state directory of the daemon (edgefl join --state)."""
        self.name = name
        self._client = _client(state)

    def __repr__(self) -> str:
        return f"App({self.name!r})"

    @classmethod
    def create(
        cls,
        directory: str | Path,
        *,
        name: str,
        data: str,
        target: str | None = None,
        state: str | Path | None = None,
        **options: Any,
    ) -> App:
        """Train the artifacts in `directory` (edgefl.trainer.build) on the devices that have the data source `data`.

        `target`: "METRIC>=VALUE". `options` are those of `edgefl app create` by their names in a manifest: rounds,
        topology, strategy, quorum, deadline_s, local_epochs, batch, learning_rate, lr_schedule, compress, pace, … The
        object that comes back names the application by its id.
        """
        wanted = {"name": name, "data": data, "target": parse_target(target), **options}
        found = _client(state).call("app.create", directory=str(Path(directory).absolute()), **wanted)
        return cls(found["id"], state=state)

    @classmethod
    def all(cls, *, state: str | Path | None = None) -> list[dict[str, Any]]:
        """Every application that this device has heard of, and what it does about it (`edgefl app list --json`)."""
        found: list[dict[str, Any]] = _client(state).call("app.list")
        return found

    def show(self) -> dict[str, Any]:
        """Settings, place in the tree, history (`edgefl app show --json`)."""
        found: dict[str, Any] = self._client.call("app.show", app=self.name)
        return found

    def history(self) -> list[dict[str, Any]]:
        """What is known here of every round, oldest first: loss, metrics, participants, bytes, seconds."""
        found: list[dict[str, Any]] = self._client.call("app.history", app=self.name)
        return found

    def watch(self) -> Iterator[dict[str, Any]]:
        """An event at every change until the application has finished; `history` in it are the newest rounds."""
        yield from self._client.stream("app.watch", app=self.name)

    def wait(self, *, round: int | None = None, timeout_s: float = 3600.0) -> None:
        """Return when this device knows of the model of `round`, or, without it, that the application has finished.
        Raises ControlError (`try-again`) when that takes longer."""
        until: dict[str, Any] = {"until": "done"} if round is None else {"until": "round", "round": round}
        self._client.call("wait", app=self.name, timeout_s=timeout_s, **until)

    def pull(self, path: str | Path, *, best: bool = False) -> dict[str, Any]:
        """Write the newest (or best) model as a plain ONNX file, whole or not at all; {size, round, finished}."""
        return self._client.pull(self.name, Path(path), best=best)

    def pause(self) -> None:
        """Start no further round. Like `resume` and `stop`, for the device that has created it."""
        self._set("paused")

    def resume(self) -> None:
        """Go on."""
        self._set("running")

    def stop(self) -> None:
        """End it after the round that is open; the model stays."""
        self._set("stopped")

    def _set(self, state: str) -> None:
        self._client.call("app.state", app=self.name, state=state)


def parse_target(text: str | None) -> tuple[str, float] | None:
    """(metric, value) of METRIC>=VALUE. Raises UsageError."""
    if text is None:
        return None
    metric, sign, value = text.partition(">=")
    try:
        if not sign or not metric.strip():
            raise ValueError
        return metric.strip(), float(value)
    except ValueError:
        raise UsageError(f"{text!r} is no target", hint="for example accuracy>=0.95") from None


def _client(state: str | Path | None) -> ControlClient:
    return ControlClient(control_socket(Path(state) if state is not None else None))
