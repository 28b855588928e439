"""What is known of updates over boots: the one on trial, and those that were found ill, which are not tried again.

Small files in a folder of root's. `trying` is one line, because a shell reads it too (edgefl-health): slot, serial, how
often it has been started, the manifest's digest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgefl.durable import sync_directory, write_atomically

TRYING, REFUSED, WORDS = "trying", "refused", "words"

MAX_ATTEMPTS = 3
"""Starts of one system: the power may go during a trial, and that is not its fault."""

MAX_REFUSED = 16


@dataclass(frozen=True, slots=True)
class Trial:
    slot: str
    serial: int
    attempts: int
    digest: str

    def line(self) -> str:
        return f"{self.slot} {self.serial} {self.attempts} {self.digest}\n"


class Records:
    """In `directory`. All raise OSError or StorageError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def trying(self) -> Trial | None:
        try:
            slot, serial, attempts, digest = (self._directory / TRYING).read_text().split()
            return Trial(slot, int(serial), int(attempts), digest)
        except (FileNotFoundError, ValueError):
            return None

    def begin(self, trial: Trial) -> None:
        write_atomically(self._directory / TRYING, trial.line().encode())

    def again(self, trial: Trial) -> Trial | None:
        """The trial once more, written down; None when it has had its attempts."""
        if trial.attempts >= MAX_ATTEMPTS:
            return None
        following = replace(trial, attempts=trial.attempts + 1)
        self.begin(following)
        return following

    def end(self, words: str, *, refuse: str = "") -> None:
        """No trial any more. `words` are for people, `refuse` is the digest of an update never to be tried again."""
        if refuse:
            kept = [*self.refused(), refuse][-MAX_REFUSED:]
            write_atomically(self._directory / REFUSED, "".join(f"{digest}\n" for digest in kept).encode())
        self.say(words)
        (self._directory / TRYING).unlink(missing_ok=True)
        sync_directory(self._directory)

    def refused(self) -> list[str]:
        path = self._directory / REFUSED
        return path.read_text().split() if path.exists() else []

    def say(self, words: str) -> None:
        write_atomically(self._directory / WORDS, words.encode())

    def words(self) -> str:
        """What there is to say of updates; empty at first."""
        path = self._directory / WORDS
        return path.read_text().strip() if path.exists() else ""
