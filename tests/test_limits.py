"""The table [limits]: what its keys mean, and what is no limit says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgefl.config import from_memory, merge, read_files
from edgefl.errors import ConfigError, UsageError
from edgefl.limits import DeviceLimits, Quota, read_limits

WHOLE = """
[limits]
uplink = "20 Mbit/s"
memory = "256 MB"
cpu = 0.5
battery = 0.3
temperature = 75
background_cpu = 0.4
hours = "22:00-06:00"
transfer = "10 GiB/month"
shares = { digits = 2, "00000000000000ff" = 0.5 }
"""


def test_every_key(tmp_path: Path) -> None:
    file = tmp_path / "edgefl.toml"
    file.write_text(WHOLE)
    settings = merge(read_files(file))
    assert settings.device_limits == DeviceLimits(
        cpu=0.5,
        memory_bytes=256_000_000,
        battery=0.3,
        temperature_c=75.0,
        background_cpu=0.4,
        hours=(22 * 60, 6 * 60),
        transfer=Quota(10 * 2**30, "month"),
        shares={"digits": 2.0, "00000000000000ff": 0.5},
    )
    assert settings.uplink == "20 Mbit/s"
    assert merge(from_memory(settings.remembered())) == settings


def test_without_a_table_there_are_no_limits() -> None:
    assert merge({}).device_limits == DeviceLimits()


def test_shares_are_by_id_before_name_and_one_by_default() -> None:
    limits = read_limits({"shares": {"digits": 2, "00000000000000ff": 0.5}})
    assert [limits.weight(1, "digits"), limits.weight(255, "digits"), limits.weight(1, "other")] == [2.0, 0.5, 1.0]


def test_files_add_up_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgefl.toml").write_text("[limits]\ncpu = 0.5\nbattery = 0.2\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text("[limits]\nbattery = 0.4\n")
    monkeypatch.setattr("edgefl.config.default_config", lambda: tmp_path)
    assert merge(read_files(None)).limits == {"cpu": 0.5, "battery": 0.4}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpu", 0),
        ("cpu", 1.5),
        ("cpu", "half"),
        ("cpu", True),
        ("battery", -0.1),
        ("background_cpu", 50),
        ("background_cpu", float("nan")),
        ("temperature", 0),
        ("temperature", 167),
        ("hours", "22-6"),
        ("hours", "22:00-22:00"),
        ("hours", "24:00-00:00"),
        ("hours", "22:60-06:00"),
        ("hours", "25:00-06:00"),
        ("hours", 22),
        ("transfer", "10 GiB"),
        ("transfer", "10 GiB/year"),
        ("transfer", "much/day"),
        ("transfer", "0.1 B/day"),
        ("transfer", "/day"),
        ("transfer", 10),
        ("shares", 2),
        ("shares", {"digits": 0}),
        ("shares", {"digits": "2"}),
        ("shares", {str(number): 1 for number in range(65)}),
        ("downlink", "1 MB/s"),
    ],
)
def test_what_is_no_limit_says_so(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=key) as caught:
        read_limits({key: value})
    assert caught.value.hint


def test_a_file_with_a_wrong_limit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "edgefl.toml"
    file.write_text("[limits]\ncpu = 2\n")
    with pytest.raises(ConfigError, match=r"edgefl\.toml: \[limits\] cpu"):
        read_files(file)


def test_hours_may_begin_or_end_at_midnight() -> None:
    assert read_limits({"hours": "00:00-06:30"}).hours == (0, 390)
    assert read_limits({"hours": "18:00-24:00"}).hours == (18 * 60, 0)
