"""The Debian package: the virtual environment of payload.py with unit, settings, manual page and completions.

One package per Python, because wheels are: its version says so (0.1.0+py313), and it depends on that Python. It is put
together without running anything of the target, and is the same bytes each time.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from edgefl import __version__
from edgefl.image.payload import ARCHITECTURES, PREFIX, epoch, fetch, own_wheel, python_of, run, unpack

CONTROL = """\
Package: edgefl
Version: {version}
Architecture: {architecture}
Maintainer: edgefl maintainers <maintainers@edgefl.invalid>
Installed-Size: {kilobytes}
Depends: python3 (>= {python}), python3 (<< {next_python}), libc6 (>= 2.28), libstdc++6, libgcc-s1, systemd (>= 249)
Section: net
Priority: optional
Description: federated learning with no server, for edge devices
 A Raspberry Pi, a Jetson or an x86 gateway runs one small daemon; the daemons
 find each other, form their own network, and train ONNX models together on data
 that never leaves the device.
 .
 This package brings its own Python packages in /opt/edgefl, for the Python of
 the distribution. Nothing is fetched or compiled when it is installed.
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: edgefl
Comment: The packages under /opt/edgefl/lib have licenses of their own, in their .dist-info folders.

Files: *
Copyright: 2026 the edgefl authors
License: Apache-2.0

License: Apache-2.0
 On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.
"""

INSTALLED = {
    "systemd/edgefl.service": "usr/lib/systemd/system/edgefl.service",
    "systemd/edgefl.sysusers": "usr/lib/sysusers.d/edgefl.conf",
    "systemd/edgefl.tmpfiles": "usr/lib/tmpfiles.d/edgefl.conf",
    "systemd/edgefl-gpu.conf": "usr/share/doc/edgefl/edgefl-gpu.conf",
    "deb/edgefl.toml": "etc/edgefl/edgefl.toml",
    "deb/lintian-overrides": "usr/share/lintian/overrides/edgefl",
}

SCRIPTS = ("postinst", "prerm", "postrm")


def version_of(lock: Path) -> str:
    return f"{__version__}+{lock.stem.replace('cp', 'py')}"


def build_package(
    recipes: Path,
    lock: Path,
    architecture: str,
    out: Path,
    extra: Mapping[str, bytes],
    *,
    cache: Path,
    compression: str = "xz",
) -> Path:
    """The path of edgefl_VERSION_ARCHITECTURE.deb in `out`.

    `extra` are files made elsewhere (manual page, completions), by their paths below /. `compression` is dpkg-deb's: an
    image needs none. Raises BuildError.
    """
    with tempfile.TemporaryDirectory(prefix="edgefl-deb-") as scratch:
        room = Path(scratch)
        wheels = fetch(lock, ARCHITECTURES[architecture], cache)
        tree = room / "tree"
        unpack([*wheels, own_wheel(recipes.parent, room)], tree, python_of(lock))
        for source, target in INSTALLED.items():
            _place(tree / target, (recipes / source).read_bytes())
        for target, content in extra.items():
            _place(tree / target, content)
        _place(tree / "usr/share/doc/edgefl/copyright", COPYRIGHT.encode())
        _place(tree / "usr/share/doc/edgefl/changelog.gz", gzip.compress(_changelog(lock).encode(), 9, mtime=0))
        (tree / "usr/bin").mkdir(parents=True)
        (tree / "usr/bin/edgefl").symlink_to(f"/{PREFIX}/bin/edgefl")
        _control(recipes, lock, architecture, tree)
        _settle(tree)
        out.mkdir(parents=True, exist_ok=True)
        package = out / f"edgefl_{version_of(lock)}_{architecture}.deb"
        os.environ.setdefault("SOURCE_DATE_EPOCH", str(epoch()))
        part = package.with_suffix(".part")  # a build that is ended leaves no package that is half one
        run("dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(part))
        part.replace(package)
    return package


def _changelog(lock: Path) -> str:
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(epoch()))
    return (
        f"edgefl ({version_of(lock)}) stable; urgency=medium\n\n  * Release {__version__}.\n\n"
        f" -- edgefl maintainers <maintainers@edgefl.invalid>  {when}\n"
    )


def _control(recipes: Path, lock: Path, architecture: str, tree: Path) -> None:
    major, minor = python_of(lock).split(".")
    size = sum(path.lstat().st_size for path in tree.rglob("*"))
    text = CONTROL.format(
        version=version_of(lock),
        architecture=architecture,
        kilobytes=size // 1024,
        python=f"{major}.{minor}",
        next_python=f"{major}.{int(minor) + 1}",
    )
    control = tree / "DEBIAN"
    _place(control / "control", text.encode())
    _place(control / "conffiles", b"/etc/edgefl/edgefl.toml\n")
    for name in SCRIPTS:
        _place(control / name, (recipes / "deb" / name).read_bytes(), mode=0o755)


def _place(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _settle(tree: Path) -> None:
    """Modes and times that do not depend on who builds, and when."""
    for path in [tree, *tree.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (epoch(), epoch()), follow_symlinks=False)
