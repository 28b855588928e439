"""The policies of this device's owner: found on its own Python path, called beside the daemon, and not believed.

A reference stands in the configuration, never in a message:

    [policies]
    NAME = "module:function[:key=number,…]"

Each call has a thread of its own and CALL_S seconds. What a policy raises, or returns that cannot be (another shape,
not finite), is a PolicyError: the round goes on without this device's part, and `edgefl status` shows why. One that
hangs keeps its thread, is not called again before it returns, and holds up nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgefl.errors import EXIT_CONFIG, LocalError
from edgefl.learning.policies import REFERENCE, parse_policies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.learning.effects import TrainJob, TrainResult
    from edgefl.wire.application import Manifest
    from edgefl.wire.blob import BlobRef

log = logging.getLogger("edgefl.policies")

CALL_S = 60.0
"""One call: a pass over the largest model takes a second on a small device."""


class PolicyError(LocalError):
    """A policy that is not there, or that failed."""

    name = "policy"
    exit_code = EXIT_CONFIG


def resolve(name: str, reference: str) -> Callable[..., Any]:
    """Import a policy. Raises PolicyError: whatever a module may do while it is imported."""
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise PolicyError(f"policy {name!r} is {reference!r}", hint="see [policies] in the configuration")
    try:
        function = getattr(importlib.import_module(found["module"]), found["function"])
        options = [pair.partition("=") for pair in (found["options"] or "").split(",") if pair]
        arguments = {key: float(value) for key, _, value in options}
    except BaseException as error:  # a module may even call sys.exit
        raise PolicyError(
            f"policy {name!r} ({reference}) cannot be imported: {error!r}",
            hint="correct [policies] in the configuration, or the Python path of the daemon (PYTHONPATH)",
        ) from None
    if not callable(function):
        raise PolicyError(f"policy {name!r} ({reference}) is no function", hint="see [policies] in the configuration")
    return functools.partial(function, **arguments) if arguments else function


class Policies:
    """The policies of one device. `facts` tells the load of the device. Not known here means: not to be had."""

    def __init__(
        self, references: Mapping[str, str], facts: Callable[[], Mapping[str, Any]], *, call_s: float = CALL_S
    ) -> None:
        self.references = references
        self._facts = facts
        self._call_s = call_s
        self._functions: dict[int, dict[str, Callable[..., Any]]] = {}
        self._states: dict[int, tuple[BlobRef, dict[str, Any]]] = {}
        self._busy: set[tuple[int, str]] = set()
        self._logged: set[tuple[int, str]] = set()

    def missing(self, manifest: Manifest) -> str:
        """Why this device cannot take part, or an empty text."""
        for hook, name in parse_policies(manifest.policies).items():
            if name not in self.references:
                return f"this device has no policy named {name!r}, which the application wants for {hook}"
        return ""

    async def prepare(self, app: int, manifest: Manifest) -> None:
        """Import what the application wants, for the rounds to come. Raises PolicyError."""
        self._functions[app] = await self.find(manifest)

    async def find(self, manifest: Manifest) -> dict[str, Callable[..., Any]]:
        """{hook: function} of what the application wants. Raises PolicyError."""
        wanted = parse_policies(manifest.policies)
        problem = self.missing(manifest)
        if problem:
            raise PolicyError(problem, hint="its owner can add it under [policies] in the configuration")

        def load() -> dict[str, Callable[..., Any]]:
            return {hook: resolve(name, self.references[name]) for hook, name in wanted.items()}

        found: dict[str, Callable[..., Any]] = await self._call(manifest.app_id, "import", load) if wanted else {}
        return found

    def release(self, app: int) -> None:
        """Forget an application."""
        self._functions.pop(app, None)
        self._states.pop(app, None)

    async def selects(self, app: int, manifest: Manifest, round_: int) -> bool:
        """Whether this device takes part in the round. Raises PolicyError."""
        function = self._functions.get(app, {}).get("select")
        if function is None:
            return True
        answer = await self._call(app, "select", function, manifest, {**self._facts(), "round": round_})
        if type(answer) is not bool:
            raise self._nonsense("select", f"returned {answer!r}, which is neither True nor False")
        return answer

    async def shape(self, app: int, manifest: Manifest, job: TrainJob, result: TrainResult) -> TrainResult:
        """What is left of this device's delta after `privacy` and `compress`. Raises PolicyError."""
        functions = self._functions.get(app, {})
        hooks = [hook for hook in ("privacy", "compress") if hook in functions]
        if result.delta is None or result.diverged or not hooks:
            return result
        import numpy as np

        from edgefl.policies import Context

        delta = result.delta
        context = Context(manifest.name, job.tag[1], result.samples, np.random.default_rng())
        for hook in hooks:
            delta = self._vector(hook, await self._call(app, hook, functions[hook], delta, context), delta.shape)
        return replace(result, delta=delta)

    async def step(
        self, app: int, start: BlobRef, model: Any, mean: NDArray[np.float32], *, trained: int = 0
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The next model by `aggregate`, and the policy's state as of it (for `keep_state`). `model` (a buffer of
        float32) is the blob `start`, `mean` the devices' mean delta; what follows the first `trained` values (0: all)
        are running statistics, which are averaged whatever makes the model. Raises PolicyError."""
        import numpy as np

        function = self._functions.get(app, {}).get("aggregate")
        if function is None:
            raise PolicyError("this device has not imported the policy for aggregate")
        vectors = np.frombuffer(model, "<f4"), mean.view()
        for vector in vectors:
            vector.flags.writeable = False
        known, kept = self._states.get(app, (None, {}))
        state = dict(kept) if known == start else {}
        new = self._vector("aggregate", await self._call(app, "aggregate", function, *vectors, state), mean.shape)
        if trained:
            new[trained:] = vectors[0][trained:] + mean[trained:]
        return new, state

    def keep_state(self, app: int, made: BlobRef, state: dict[str, Any]) -> None:
        """The model that `step` has made has this name: its state is given to the step that starts from there."""
        self._states[app] = (made, state)

    def _vector(self, hook: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A copy of its own of what a policy has returned. Raises PolicyError."""
        import numpy as np

        from edgefl.learning.aggregate import is_finite

        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != "f":
            what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise self._nonsense(hook, f"returned {what} where float32 {shape} belongs")
        with np.errstate(over="ignore"):
            vector = np.array(value, np.float32)
        if not is_finite(vector):
            raise self._nonsense(hook, "returned values that are not finite (or far too large)")
        return vector

    def _nonsense(self, hook: str, what: str) -> PolicyError:
        return PolicyError(f"the policy for {hook} {what}", hint="correct the function that [policies] names")

    async def _call(self, app: int, hook: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it in a thread of its own, and wait for it as long as a policy may take. Raises PolicyError."""
        call = (app, hook)
        if call in self._busy and hook != "import":  # which an application may ask for twice
            raise self._nonsense(hook, "has not come back from an earlier call")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: PolicyError | None) -> None:
            self._busy.discard(call)
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        def work() -> None:
            value, failed = None, None
            try:
                value = function(*arguments)
            except PolicyError as error:
                failed = error
            except BaseException as error:  # even sys.exit ends nothing but this call
                if call not in self._logged:
                    self._logged.add(call)
                    log.warning("the policy for %s of application %016x failed", hook, app, exc_info=True)
                failed = PolicyError(f"the policy for {hook} failed: {error!r}", hint="see the daemon's log")
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, value, failed)

        self._busy.add(call)
        threading.Thread(target=work, name=f"edgefl-{hook}", daemon=True).start()
        try:
            return await asyncio.wait_for(future, self._call_s)
        except asyncio.TimeoutError:
            raise self._nonsense(hook, f"has not come back for {self._call_s:g} s") from None
