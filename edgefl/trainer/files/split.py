"""A model in two parts: what is shared with other devices, and tensors that stay at home (a personal head).

Both parts are flat float32 vectors in manifest order. The shared part is again trained parameters first and buffers
behind them, so all that averages it need not know that anything is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Manifest

Vector = npt.NDArray[np.float32]


class Split:
    """Takes vectors of a model apart and puts them together again. `patterns` name the personal tensors, with * and ?
    as in file names; without any, everything is shared. Raises ModelError for a pattern that names nothing, and when
    nothing that is trained would be shared."""

    def __init__(self, manifest: Manifest, patterns: Sequence[str]) -> None:
        self._shared: list[slice] = []
        self._personal: list[slice] = []
        self.size = manifest.vector_size
        self.trained = 0
        """Values of the shared part that are trained."""
        at, unused = 0, set(patterns)
        for number, tensor in enumerate(manifest.carried):
            hits = [pattern for pattern in patterns if fnmatchcase(tensor.name, pattern)]
            unused -= set(hits)
            _extend(self._personal if hits else self._shared, at, at + tensor.size)
            if not hits and number < len(manifest.parameters):
                self.trained += tensor.size
            at += tensor.size
        if unused:
            raise ModelError(
                f"no tensor of the model is called {sorted(unused)[0]!r}",
                hint="`edgefl artifacts show` lists their names; patterns may use * and ?",
            )
        if not self.trained:
            raise ModelError(
                "every tensor that is trained would be personal: devices would share nothing",
                hint="name the last layers alone, for example --personal 'head.*'",
            )
        self.shared_size = _length(self._shared)
        self.personal_size = _length(self._personal)

    def shared(self, vector: Vector) -> Vector:
        """The shared part of a whole model; a copy, or the vector itself where all of it is shared."""
        return vector if not self._personal else _taken(vector, self._shared)

    def personal(self, vector: Vector) -> Vector:
        """The personal part of a whole model; a copy."""
        return _taken(vector, self._personal)

    def join(self, shared: Vector, personal: Vector) -> Vector:
        """The whole model of both parts; `shared` itself where there is nothing else."""
        if not self._personal:
            return shared
        whole = np.empty(self.size, np.float32)
        for slices, part in ((self._shared, shared), (self._personal, personal)):
            at = 0
            for piece in slices:
                end = at + piece.stop - piece.start
                whole[piece] = part[at:end]
                at = end
        return whole


def _extend(slices: list[slice], start: int, stop: int) -> None:
    if slices and slices[-1].stop == start:
        slices[-1] = slice(slices[-1].start, stop)
    else:
        slices.append(slice(start, stop))


def _length(slices: list[slice]) -> int:
    return sum(piece.stop - piece.start for piece in slices)


def _taken(vector: Vector, slices: list[slice]) -> Vector:
    parts = [vector[piece] for piece in slices]
    taken: Vector = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return taken
