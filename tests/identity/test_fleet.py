"""The fleet's key: private, never overwritten, and the only one that can speak for the fleet."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgefl.errors import ConfigError, UsageError
from edgefl.identity.fleet import FLEET_FILE, MAX_USES, FleetKey


def test_a_fleet_is_made_once_and_loaded_again(tmp_path: Path) -> None:
    made = FleetKey.create(tmp_path)
    assert FleetKey.load(tmp_path).public == made.public
    assert FleetKey.load(tmp_path / FLEET_FILE).public == made.public
    assert stat.S_IMODE((tmp_path / FLEET_FILE).stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="already holds a fleet"):
        FleetKey.create(tmp_path)
    assert FleetKey.load(tmp_path).public == made.public


def test_a_missing_open_or_damaged_key_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no fleet key"):
        FleetKey.load(tmp_path)
    FleetKey.create(tmp_path)
    (tmp_path / FLEET_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        FleetKey.load(tmp_path)
    (tmp_path / FLEET_FILE).chmod(0o600)
    (tmp_path / FLEET_FILE).write_text("nonsense")
    with pytest.raises(ConfigError, match="not a fleet key"):
        FleetKey.load(tmp_path)


def test_the_secret_does_not_show(tmp_path: Path) -> None:
    fleet = FleetKey.create(tmp_path)
    secret = (tmp_path / FLEET_FILE).read_text().splitlines()[1]
    assert secret not in repr(fleet)


def test_invitations_are_bounded() -> None:
    fleet = FleetKey.generate()
    with pytest.raises(UsageError):
        fleet.invite((), uses=MAX_USES + 1)
    with pytest.raises(UsageError):
        fleet.invite((), site="x" * 65)
    assert fleet.invite(()).enrolment.serial != fleet.invite(()).enrolment.serial
