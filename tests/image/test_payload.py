"""What goes into packages and images: pinned wheels, an environment made without the target, scripts that parse."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgefl.errors import UsageError
from edgefl.image import recipe as recipes
from edgefl.image.bill import write_companions
from edgefl.image.payload import BuildError, fetch, platforms, python_of, run, unpack

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "firmware-images"
LOCKS = sorted((HOME / "locks").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_all_that_running_needs_is_pinned_with_hashes(lock: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    needed = {
        re.split(r"[><=; ]", line.strip())[0].lower()
        for line in parser["options"]["install_requires"].splitlines()
        if line.strip() and (";" not in line or python_of(lock) == "3.10")
    }
    text = lock.read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    assert needed <= pinned.keys()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    # A wheel for every architecture, or one for all.
    assert all(len(re.findall("--hash=sha256:[0-9a-f]{64}", block)) in (1, 2) for block in blocks)
    native = [block for block in blocks if block.startswith(("onnxruntime", "numpy", "pyzmq", "psutil", "pynacl"))]
    assert all(block.count("--hash") == 2 for block in native)


def wheel(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_an_environment_is_made_without_running_anything_of_the_target(tmp_path: Path) -> None:
    one = wheel(
        tmp_path / "one-1-py3-none-any.whl",
        **{"one/__init__.py": "VALUE = 7", "one/tests/test_one.py": "", "one/one.pyi": "", "one-1.data/scripts/x": ""},
    )
    unpack([one], tmp_path / "root", "3.13")
    prefix = tmp_path / "root/opt/edgefl"
    found = sorted(
        str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir() or path.is_symlink()
    )
    assert found == ["bin/edgefl", "bin/python", "lib/python3.13/site-packages/one/__init__.py", "pyvenv.cfg"]
    assert os.readlink(prefix / "bin/python") == "/usr/bin/python3.13"
    assert (prefix / "bin/edgefl").read_text().startswith("#!/opt/edgefl/bin/python\n")


def test_an_old_glibc_is_enough() -> None:
    assert "manylinux_2_28_aarch64" in platforms("aarch64")
    assert not any("_2_3" in name and int(name.split("_")[2]) > 35 for name in platforms("x86_64"))


def test_wheels_are_fetched_once_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "cp313.txt"
    lock.write_text("one==1\n")
    calls = []
    monkeypatch.setattr("edgefl.image.payload.run", lambda *command: calls.append(command))
    for _ in range(2):
        fetch(lock, "aarch64", tmp_path)
    lock.write_text("one==2\n")
    fetch(lock, "aarch64", tmp_path)
    assert len(calls) == 2
    assert "--require-hashes" in calls[0]
    assert "--no-deps" in calls[0]


def test_programs_that_are_missing_or_fail_are_told() -> None:
    with pytest.raises(BuildError) as caught:
        run("no-such-program-here")
    assert "apt-get install no-such-program-here" in caught.value.hint
    with pytest.raises(BuildError, match="failed with 3:\nwhy"):
        run("sh", "-c", "echo why >&2; exit 3")


@pytest.mark.parametrize("target", ["pc", "arm64", "rpi", "rpi5"])
def test_recipes_are_whole_and_their_base_is_named_by_its_content(target: str) -> None:
    found = recipes.load(HOME, target)
    assert found.lock.exists()
    assert " ro " in f" {found.cmdline} "
    assert "root=" not in found.cmdline  # that is the place's (edgefl/update/slots.py)
    key = found.base_key("deb somewhere trixie main\n")
    assert key == found.base_key("deb somewhere trixie main\n")
    assert key != found.base_key("deb elsewhere trixie main\n")


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        recipes.load(HOME, "toaster")
    assert "arm64, pc, rpi, rpi5" in caught.value.hint


def test_beside_an_image_lies_what_it_is_made_of(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: bash\nVersion: 5.2\nArchitecture: arm64\n\nPackage: zstd\nArchitecture: arm64\nVersion: 1\n"
    )
    base, raw = tmp_path / "base.tar", tmp_path / "a.img"
    with tarfile.open(base, "w") as archive:
        archive.add(status, "./var/lib/dpkg/status")
    raw.write_bytes(b"image")
    made = {path.name: path for path in write_companions(recipes.load(HOME, "rpi"), raw, raw, base)}
    assert made["a.img.sha256"].read_text().split() == [
        "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d",
        "a.img",
    ]
    names = {part["purl"] for part in json.loads(made["a.img.cdx.json"].read_text())["components"]}
    assert {"pkg:deb/debian/bash@5.2?arch=arm64", "pkg:deb/debian/zstd@1?arch=arm64"} <= names
    assert any(name.startswith("pkg:pypi/onnxruntime@") for name in names)
    entry = json.loads(made["a.img.rpi-imager-manifest"].read_text())["os_list"][0]
    assert (entry["extract_size"], entry["url"]) == (5, raw.as_uri())


SCRIPTS = [*(HOME / "deb" / name for name in ("postinst", "prerm", "postrm")), *(HOME / "base").glob("[bf]i*")]
SCRIPTS += sorted((HOME / "overlay/usr/lib/edgefl").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_errors(script: Path) -> None:
    assert subprocess.run(["sh", "-n", script], capture_output=True, timeout=30).returncode == 0
    assert "\nset -e\n" in script.read_text()
    assert script.parent.name == "deb" or os.access(script, os.X_OK)


def test_no_archive_is_named() -> None:
    """Where Debian's packages come from is the builder's choice."""
    for path in HOME.rglob("*"):
        if path.is_file() and path.suffix != ".txt":
            assert not re.search(r"^deb |https?://(?!www\.debian\.org/doc)", path.read_text(), re.MULTILINE), path
