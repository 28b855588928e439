"""The program on the device: pinned wheels, unpacked into a virtual environment under /opt/edgefl.

Nothing of the target runs for it, so it is made for any architecture anywhere. A virtual environment is a folder of
packages, a link to the interpreter and pyvenv.cfg (PEP 405); it needs the distribution's own Python of the version that
the wheels are for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from edgefl.errors import LocalError

PREFIX = "opt/edgefl"

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names, and those of wheels."""

GLIBC = (17, 24, 26, 27, 28, 31, 34)
"""Versions 2.x whose wheels are taken: 2.35 of Ubuntu 22.04 is the oldest C library that is aimed at."""

UNUSED = (
    "onnxruntime/transformers",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/datasets",
    "numpy/f2py",
    "numpy/distutils",
)
"""A third of the bytes, and nothing that a device calls."""

UNUSED_SUFFIXES = (".pyi", ".a", ".h", ".pxd", ".pyx", ".c")

LAUNCHER = """\
#!/{prefix}/bin/python
import sys
from edgefl.cli import main
sys.exit(main())
"""

CLAMP = 1577836800
"""Times of all files, unless SOURCE_DATE_EPOCH says another: 2020-01-01."""


class BuildError(LocalError):
    """Something outside (pip, Debian's tools) did not do its part."""

    name = "build"


def epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH", CLAMP))


def platforms(machine: str) -> list[str]:
    return [*(f"manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)), f"manylinux2014_{machine}"]


def python_of(lock: Path) -> str:
    """Of cp313.txt: 3.13."""
    return f"{lock.stem[2]}.{lock.stem[3:]}"


def own_wheel(source: Path, directory: Path) -> Path:
    """edgefl itself as a wheel, built from a copy of the source tree, which stays as it is. Raises BuildError."""
    copy = directory / "source"
    shutil.copytree(source / "edgefl", copy / "edgefl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, copy / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(copy))
    shutil.rmtree(copy)
    (wheel,) = directory.glob("edgefl-*.whl")
    return wheel


def fetch(lock: Path, machine: str, cache: Path) -> list[Path]:
    """The locked wheels, in a folder of `cache` named by the lock; pip checks their hashes. Raises BuildError."""
    key = hashlib.blake2b(lock.read_bytes(), digest_size=6).hexdigest()
    directory = cache / f"wheels-{lock.stem}-{machine}-{key}"
    whole = directory / "whole"
    if whole.exists():
        return sorted(directory.glob("*.whl"))
    directory.mkdir(parents=True, exist_ok=True)
    chosen = [word for name in platforms(machine) for word in ("--platform", name)]
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--require-hashes", "--only-binary=:all:", "--implementation", "cp", "--python-version", python_of(lock)),
        *(*chosen, "--dest", str(directory), "--requirement", str(lock)),
    )
    whole.touch()
    return sorted(directory.glob("*.whl"))


def default_cache() -> Path:
    """Where wheels and base layers are kept between builds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefl" / "images"


def unpack(wheels: Iterable[Path], root: Path, python: str) -> None:
    """A virtual environment of Python `python` at root/opt/edgefl with these wheels."""
    prefix = root / PREFIX
    site = prefix / "lib" / f"python{python}" / "site-packages"
    site.mkdir(parents=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if ".data/" not in name.partition("/")[0] + "/"]
            archive.extractall(site, members)
    for name in UNUSED:
        shutil.rmtree(site / name, ignore_errors=True)
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and path.name == "tests":
            shutil.rmtree(path)
        elif path.is_file():
            if path.suffix in UNUSED_SUFFIXES:
                path.unlink()
            else:
                path.chmod(0o644)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(f"/usr/bin/python{python}")
    launcher = prefix / "bin" / "edgefl"
    launcher.write_text(LAUNCHER.format(prefix=PREFIX))
    launcher.chmod(0o755)
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")


def run(*command: str) -> str:
    """The output of a program. Raises BuildError with its last words, or naming what is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise BuildError(
            f"{command[0]} is not installed", hint=f"apt-get install {PACKAGE_OF.get(command[0], command[0])}"
        ) from None
    if done.returncode:
        words = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise BuildError(f"{' '.join(command[:4])} … failed with {done.returncode}:\n{words}", hint="see above")
    return done.stdout


PACKAGE_OF = {
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "dpkg-deb": "dpkg",
    "unshare": "util-linux",
    "newuidmap": "uidmap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64-static": "qemu-user-static",
}
