"""The Debian package around a small wheel: whole or not there, and the same bytes each time."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from edgefl.image.package import build_package
from edgefl.image.payload import BuildError

HOME = Path(__file__).resolve().parents[2] / "firmware-images"
LOCK = HOME / "locks" / "cp313.txt"
EXTRA = {"usr/share/man/man1/edgefl.1.gz": b"manual"}

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here: apt-get install dpkg")


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "edgefl-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("edgefl/__init__.py", "VALUE = 7")
    monkeypatch.setattr("edgefl.image.package.fetch", lambda *_: [])
    monkeypatch.setattr("edgefl.image.package.own_wheel", lambda *_: wheel)


def build(out: Path) -> Path:
    return build_package(HOME, LOCK, "arm64", out, EXTRA, cache=out, compression="none")


@needs_dpkg
def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one"), build(tmp_path / "other")
    assert one.name == other.name
    assert one.name.endswith("+py313_arm64.deb")
    assert one.read_bytes() == other.read_bytes()
    assert list(one.parent.iterdir()) == [one]
    told = subprocess.run(["dpkg-deb", "--field", one, "Depends"], capture_output=True, text=True, check=True).stdout
    assert told.startswith("python3 (>= 3.13), python3 (<< 3.14)")


def test_a_build_that_fails_leaves_no_half_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*command: str) -> str:
        Path(command[-1]).write_bytes(b"half")
        raise BuildError("dpkg-deb was ended", hint="again")

    monkeypatch.setattr("edgefl.image.package.run", cut)
    with pytest.raises(BuildError):
        build(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.deb"))
