"""An aarch64 Python with ONNX Runtime on another kind of machine: QEMU's user mode and a directory, nothing installed.

QEMU and Python are Debian's, from the first release with QEMU 10 (before it, ONNX Runtime's look at /proc and /sys
crashed); apt fetches and verifies them under a configuration and a state of its own, so that the machine's package
database knows nothing of them. ONNX Runtime and numpy are the wheels that a device would get, unzipped. Nothing foreign
runs before the test itself: maintainer scripts and installers do not.

Invariant: what is in the cache is complete; everything is made beside its place and renamed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgefl.errors import EXIT_TRY_AGAIN, LocalError

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
REPOSITORY = Path(__file__).resolve().parent.parent.parent

GLIBC_MINORS = range(36, 16, -1)
"""Wheels for glibc 2.17 to 2.36: what devices with Debian 12 can install too."""

APT = """
#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "{host}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Dir::Cache "{place}";
Dir::State "{place}";
Dir::State::status "{place}/status";
Dir::Etc::sourcelist "{place}/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""
"""On top of the machine's own, whose proxies and credentials are wanted and whose hooks are not."""

SOURCES = """
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Signed-By: {keyring}
"""


class MissingError(LocalError):
    """A tool, a mirror or a package that this test needs is not to be had."""

    name: ClassVar[str] = "missing"
    exit_code: ClassVar[int] = EXIT_TRY_AGAIN


@dataclass(frozen=True, slots=True)
class Emulator:
    """`root` holds Debian's files, `qemu` runs them."""

    qemu: Path
    root: Path

    @property
    def python(self) -> Path:
        """With its version in its name."""
        return (self.root / "usr" / "bin" / "python3").resolve()

    def command(self, cpu: str, *arguments: str) -> list[str]:
        return [str(self.qemu), "-L", str(self.root), "-cpu", cpu, str(self.python), *arguments]

    def environment(self, site: Path) -> dict[str, str]:
        """Of an emulated Python that imports edgefl from this repository, and wheels from `site`."""
        return {
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}",
            "PYTHONPYCACHEPREFIX": str(self.root.parent / "pycache"),
            "OPENBLAS_NUM_THREADS": "1",
        }


def fetch_emulator(cache: Path, mirror: str | None) -> Emulator:
    """From the cache, or else from a Debian mirror. Raises MissingError."""
    place = _made(cache / SUITE, lambda new: _unpack_debian(new, mirror))
    return Emulator(place / "qemu-aarch64", place / "root")


def fetch_wheels(cache: Path, emulator: Emulator, onnxruntime: str) -> Path:
    """The directory with this ONNX Runtime and a numpy for the emulated Python. Raises MissingError."""
    version = emulator.python.name.removeprefix("python")

    def fetch(new: Path) -> None:
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in GLIBC_MINORS]
        with tempfile.TemporaryDirectory() as wheels:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            target = ["--implementation=cp", f"--python-version={version}", *(f"--platform={p}" for p in platforms)]
            _run(
                [*pip, *target, f"--dest={wheels}", f"onnxruntime=={onnxruntime}", "numpy"],
                hint=f"choose an onnxruntime with an aarch64 wheel for Python {version}",
            )
            for wheel in Path(wheels).iterdir():
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(new)

    return _made(cache / f"wheels-{version}-{onnxruntime}", fetch)


def mirrors(targets: Iterable[str]) -> list[str]:
    """Where a further release may be, from the lines `URI RELEASE COMPONENT` of the machine's own sources, best first.

    Archives with nothing but updates hold no release."""
    rows = [line.split() for line in targets if len(line.split()) == 3]
    return list(dict.fromkeys(uri for uri, release, component in rows if component == "main" and "-" not in release))


def _unpack_debian(new: Path, mirror: str | None) -> None:
    for tool in ("apt-get", "dpkg", "dpkg-deb", "tar"):
        if not shutil.which(tool):
            raise MissingError(f"there is no {tool} here", hint="run this on Debian or one of its relatives")
    if not KEYRING.exists():
        raise MissingError(f"there is no {KEYRING}", hint="install debian-archive-keyring")
    host = _run(["dpkg", "--print-architecture"]).strip()
    with tempfile.TemporaryDirectory(dir=new) as directory:
        place = Path(directory)
        apt = ["apt-get", "--quiet", f"--config-file={place / 'apt.conf'}"]
        (place / "apt.conf").write_text(APT.format(place=place, host=host))
        (place / "status").touch()
        _choose_mirror(place / "debian.sources", apt, mirror)
        # as if on a machine with no package at all: everything that Python needs comes along
        _run([*apt, "install", "--yes", "--download-only", "python3:arm64", "libstdc++6:arm64"])
        _run([*apt, "download", f"qemu-user:{host}"], cwd=place)
        for package in (place / "archives").glob("*_arm64.deb"):
            _run(["dpkg-deb", "-x", str(package), str(new / "root")])
        (qemu,) = place.glob("qemu-user_*.deb")
        _run(["dpkg-deb", "-x", str(qemu), str(place / "qemu")])
        (place / "qemu" / "usr" / "bin" / "qemu-aarch64").rename(new / "qemu-aarch64")
    (new / "root" / "lib").symlink_to("usr/lib")  # of base-files, where programs look for their loader


def _choose_mirror(sources: Path, apt: list[str], mirror: str | None) -> None:
    """Write the sources of the first mirror that has the release, and fetch its lists."""
    names = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    own = ["apt-get", "indextargets", "--no-release-info", "--format", names, "Created-By: Packages"]
    last = MissingError(f"the machine's sources name no mirror of Debian {SUITE}", hint="name one with --mirror")
    for candidate in [mirror] if mirror else mirrors(_run(own).splitlines()):
        sources.write_text(SOURCES.format(mirror=candidate, suite=SUITE, keyring=KEYRING))
        try:
            _run([*apt, "update"], hint="name a reachable mirror of Debian with --mirror")
            return
        except MissingError as error:
            last = error
    raise last


def _made(place: Path, make: Callable[[Path], None]) -> Path:
    """The directory, made by `make` beside its place if it is not there yet."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="new-") as beside:
            new = Path(beside) / place.name
            new.mkdir()
            make(new)
            new.rename(place)
    return place


def _run(command: list[str], *, cwd: Path | None = None, hint: str = "") -> str:
    """What it prints. Raises MissingError with what it says on failure."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(line.strip() for line in done.stderr.splitlines()[-3:])
        raise MissingError(f"{' '.join(command[:3])} … failed: {said}", hint=hint)
    return done.stdout
