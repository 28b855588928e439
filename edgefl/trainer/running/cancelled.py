"""The error of work that was called off."""

from __future__ import annotations

from typing import ClassVar

from edgefl.errors import LocalError


class TrainingCancelledError(LocalError):
    """`Session.cancel` was called, or `should_stop` said so. The weights are those of the last complete step."""

    name: ClassVar[str] = "cancelled"
