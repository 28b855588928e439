"""The systemd files, judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "firmware-images" / "systemd"
SERVICE = UNITS / "edgefl.service"

MAX_EXPOSURE = 2.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def runnable(text: str) -> str:
    """The unit with a program that exists on every machine, so that `verify` judges the rest."""
    return re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)


@needs_systemd
def test_the_unit_is_understood_whole(tmp_path: Path) -> None:
    unit = tmp_path / "edgefl.service"
    unit.write_text(runnable(SERVICE.read_text()))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_a_mistake_in_the_unit_would_be_seen(tmp_path: Path) -> None:
    unit = tmp_path / "edgefl.service"
    unit.write_text(runnable(SERVICE.read_text()).replace("ProtectClock=", "ProtectTime="))
    assert "ProtectTime" in analyze("verify", "--man=no", str(unit)).stderr


def exposure(unit: Path) -> float:
    done = analyze("security", "--no-pager", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd cannot judge units offline (it came with 250): {done.stderr.strip()[:200]}")
    return float(found[1])


@needs_systemd
def test_the_service_is_little_exposed(tmp_path: Path) -> None:
    assert exposure(SERVICE) <= MAX_EXPOSURE
    bare = tmp_path / "edgefl.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) > MAX_EXPOSURE  # the measure itself tells an open service from a closed one


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", SERVICE.read_text(), flags=re.MULTILINE)


def test_what_the_daemon_and_the_unit_agree_on() -> None:
    assert setting("Type") == ["notify"]
    assert setting("NotifyAccess") == ["main"]
    assert setting("RestartPreventExitStatus") == ["2 77 78"]
    assert setting("StartLimitIntervalSec") == ["0"]
    assert setting("LoadCredential") == ["token:/etc/edgefl/token"]
    assert setting("ProcSubset") == []  # psutil reads /proc/stat and /proc/meminfo


OVERLAY = UNITS.parent / "overlay/etc/systemd/system"


@needs_systemd
@pytest.mark.parametrize("name", sorted(path.name for path in OVERLAY.iterdir() if path.is_file()))
def test_the_units_of_an_image_are_understood(name: str, tmp_path: Path) -> None:
    """All together, because they name each other; programs and mounts of the image are not here."""
    for path in (SERVICE, *(path for path in OVERLAY.iterdir() if path.is_file())):
        text = runnable(path.read_text()).replace("RequiresMountsFor=", "#RequiresMountsFor=")
        text = re.sub(r"^Requires=dev-disk.*$", "", text, flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    done = analyze("verify", "--man=no", str(tmp_path / name))
    ours = [line for line in done.stderr.splitlines() if "edgefl" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
