"""For whom a consensus step waits: a neighbour that was silent for a whole slot costs no second one."""

from __future__ import annotations


class Patience:
    """Which neighbours are silent. While only a minority is heard, they are waited for as well: a device that waits for
    nobody runs away from the others."""

    def __init__(self) -> None:
        self._silent: set[int] = set()
        self._spoke: set[int] = set()

    def on_step(self) -> None:
        """A step begins to wait."""
        self._spoke.clear()

    def on_word(self, neighbour: int) -> None:
        self._silent.discard(neighbour)
        self._spoke.add(neighbour)

    def on_slot_over(self, missing: set[int]) -> None:
        """These were waited for in vain; those of them that said something, if only of an earlier step, are slow."""
        self._silent |= missing - self._spoke

    def waits_for(self, missing: set[int], wanted: set[int]) -> set[int]:
        """Those of the missing that are still waited for."""
        return missing if 2 * len(missing) > len(wanted) else missing - self._silent

    def forget_all_but(self, neighbours: set[int]) -> None:
        self._silent &= neighbours
