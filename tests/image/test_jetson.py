"""The installation on a Jetson, played in a folder: which onnxruntime is taken, and that none is taken in vain."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2] / "firmware-images"

CHROOT = """#!/bin/sh
# Not a chroot: the same programs, with /opt/edgefl meant below the folder.
root=$1
shift
left=$#
while [ $left -gt 0 ]; do
    set -- "$@" "$(printf %s "$1" | sed "s#/opt/edgefl#$root/opt/edgefl#g")"
    shift
    left=$((left - 1))
done
exec "$@"
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def runtime(providers: list[str]) -> str:
    return f"__version__ = '1.23.0'\ndef get_available_providers():\n    return {providers!r}\n"


def jetson(home: Path, *, system: str = "") -> Path:
    """A root file system and the programs that the script calls; `system` is what the system's Python says of its own
    onnxruntime."""
    root = home / "root"
    program(home / "bin/chroot", CHROOT)
    program(home / "bin/dpkg", f'#!/bin/sh\necho "$@" >> {home}/dpkg.log\n')
    program(home / "bin/python3", f"#!/bin/sh\necho '{system}'\n")
    (root / "opt/edgefl/bin").mkdir(parents=True)
    # Isolated from this machine's packages, as the device's own environment is from the system's.
    program(root / "opt/edgefl/bin/python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (root / "usr/share/doc/edgefl").mkdir(parents=True)
    (root / "usr/share/doc/edgefl/edgefl-gpu.conf").write_bytes((HOME / "systemd/edgefl-gpu.conf").read_bytes())
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\n")
    (home / "edgefl.deb").write_bytes(b"package")
    return root


def install(home: Path, *more: str) -> str:
    done = subprocess.run(
        [HOME / "jetson/install", home / "edgefl.deb", *more],
        env={**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "ROOT": str(home / "root")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def drop_ins(root: Path) -> list[str]:
    folder = root / "etc/systemd/system/edgefl.service.d"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def wheel(home: Path, providers: list[str]) -> Path:
    path = home / "onnxruntime_gpu.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("onnxruntime/__init__.py", runtime(providers))
    return path


@pytest.mark.parametrize("place", ["wheel", "system"])
def test_the_vendors_runtime_is_taken_when_it_has_cuda(place: str, tmp_path: Path) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    on_system = tmp_path / "dist-packages/onnxruntime"
    program(on_system / "__init__.py", runtime(providers))
    root = jetson(tmp_path, system=str(on_system) if place == "system" else "")
    said = install(tmp_path, *([str(wheel(tmp_path, providers))] if place == "wheel" else []))
    assert "training is on the GPU" in said
    assert drop_ins(root) == ["gpu-packages.conf", "gpu.conf"]
    assert "PYTHONPATH=/opt/edgefl-gpu" in (root / "etc/systemd/system/edgefl.service.d/gpu-packages.conf").read_text()
    assert (root / "opt/edgefl-gpu/onnxruntime/__init__.py").exists()
    assert (tmp_path / "dpkg.log").read_text() == "-i /edgefl.deb\n"
    assert not (root / "edgefl.deb").exists()


def test_a_runtime_without_cuda_is_left_alone(tmp_path: Path) -> None:
    root = jetson(tmp_path)
    assert "training is on the processor" in install(tmp_path, str(wheel(tmp_path, ["CPUExecutionProvider"])))
    assert drop_ins(root) == []
    assert not (root / "opt/edgefl-gpu").exists()


def test_without_any_the_processor_trains_and_an_older_choice_is_forgotten(tmp_path: Path) -> None:
    root = jetson(tmp_path)
    install(tmp_path, str(wheel(tmp_path, ["CUDAExecutionProvider"])))
    assert drop_ins(root)
    assert "there is no onnxruntime with CUDA" in install(tmp_path)
    assert drop_ins(root) == []


@pytest.mark.parametrize("script", ["install", "bake"])
def test_scripts_parse_and_say_what_they_need(script: str) -> None:
    path = HOME / "jetson" / script
    assert subprocess.run(["sh", "-n", path], capture_output=True, timeout=30).returncode == 0
    done = subprocess.run([path], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "which package" in done.stderr or "where is" in done.stderr


def test_nothing_is_baked_into_what_is_not_nvidias(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    done = subprocess.run(
        [HOME / "jetson/bake", tmp_path, tmp_path / "edgefl.deb"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "apply_binaries.sh" in done.stderr
