"""Error feedback: what a lossy encoding leaves out of an update is kept on the device and added to the next one.

Nothing is lost, only late: over the rounds, what was sent plus what is kept is what was trained (Seide et al. 2014;
Stich et al. 2018; Karimireddy et al. 2019). Kept in the unit of the sum that was encoded (sum of n * delta), so leaves
and inner devices do the same; an inner device keeps what encoding its subtree's sum again has cost.

The memory is committed, and made durable, when a parent has taken the update. An update that is refused or replaced by
a newer round is forgotten with its memory: the next round begins from what was last made durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.aggregate import is_finite
from edgefl.wire.blob import FLOAT_BYTES
from edgefl.wire.learning import CHUNK_PARAMETERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.effects import Tag
    from edgefl.learning.forest.application import ForestApplication


class Feedback:
    """One application's memory: float32 [parameters] while it is needed, nothing for encodings that need none."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self._memory: NDArray[np.float32] | None = None

    def recall(self, tag: Tag) -> bool:
        """Have the memory ready; True when that takes until `on_recalled`."""
        app = self._app
        if not app.encoding.feedback or self._memory is not None:
            return False
        app.effects.recall(app.id, ("feedback", tag))
        return True

    def on_recalled(self, data: Any) -> None:
        """What was made durable last; None, or anything that does not fit, is a fresh start."""
        parameters = self._app.travelling
        self._memory = np.zeros(parameters, np.float32)
        if data is not None and memoryview(data).nbytes == parameters * FLOAT_BYTES:
            kept = np.frombuffer(data, "<f4")
            if is_finite(kept):
                self._memory[...] = kept

    def chunk(self, index: int) -> NDArray[np.float32] | None:
        """A chunk of the memory, to be written over; None where there is none."""
        if self._memory is None:
            return None
        return self._memory[index * CHUNK_PARAMETERS : (index + 1) * CHUNK_PARAMETERS]

    def commit(self) -> None:
        """The update that this memory goes with is with the parent."""
        if self._memory is not None:
            self._app.effects.remember(self._app.id, self._memory.tobytes())

    def forget(self) -> None:
        """It is not: go back to what was committed last."""
        self._memory = None
