"""What a trial of an image waits for, without an emulator."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgefl.demo.local_fleet import LocalFleet
from edgefl.image.guest import Guest, TrialError


class FleetOfOneThatEnds(LocalFleet):
    def start(self) -> None:
        self.processes[0] = subprocess.Popen(["true"])
        self.processes[0].wait()


def test_a_trial_does_not_wait_beside_a_fleet_that_has_ended(tmp_path: Path) -> None:
    """Seen: somebody else's signal ended the daemon, and the device knocked for an hour."""
    guest = Guest(tmp_path / "image", "pc", tmp_path, lambda text: None)
    guest.start_fleet(FleetOfOneThatEnds(tmp_path, 1, []))
    with pytest.raises(TrialError, match="a daemon of this machine ended while waiting for the image"):
        guest.until(lambda: False, "the image", 60.0, alone=True)
