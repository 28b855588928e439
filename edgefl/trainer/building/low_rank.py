"""What is asked for when adapters are wanted; lora.py, which needs the onnx package, makes them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgefl.errors import ModelError

MAX_RANK = 1024
"""Beyond this an adapter is as large as any weight on a small device."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What to adapt: weights by glob (None: all that can be), the rank, and alpha, the strength (None: the rank)."""

    rank: int
    targets: tuple[str, ...] | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise ModelError(f"a rank of {self.rank} is not possible", hint=f"choose 1 to {MAX_RANK}")

    @property
    def scale(self) -> float:
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def wants(self, name: str) -> bool:
        return self.targets is None or any(fnmatchcase(name, glob) for glob in self.targets)
