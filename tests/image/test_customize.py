"""Settings go into an image in place; a check says what is in it; what is no image is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgefl.cli import main
from edgefl.errors import EdgeflError, UsageError
from edgefl.firstboot.settings import SLOT_BYTES, CardSettings, render
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap, parse
from edgefl.image.check import check_image
from edgefl.image.customize import settings_in, write_copies, write_settings
from edgefl.image.disk import ImageError, find_slot, partitions
from tests.image.sample import BOOT, SLOT_AT, image


@pytest.fixture
def token(tmp_path: Path) -> str:
    return FleetKey.create(tmp_path).invite([Bootstrap("10.0.0.1", 7321)]).text


@pytest.mark.parametrize("gpt", [False, True], ids=["mbr", "gpt"])
def test_settings_change_the_slot_and_nothing_else(gpt: bool, token: str, tmp_path: Path) -> None:
    path = image(tmp_path / "a.img", gpt=gpt)
    before = path.read_bytes()
    settings = CardSettings(token, {"site": "plant", "data": {"digits": "digits.npz"}}, "press-4")
    write_settings(path, settings)
    after = path.read_bytes()
    at = BOOT[0] + SLOT_AT
    assert find_slot(path) == at
    assert (after[:at], after[at + SLOT_BYTES :]) == (before[:at], before[at + SLOT_BYTES :])
    assert settings_in(path) == settings
    write_settings(path, CardSettings())
    assert path.read_bytes() == before


def test_each_copy_has_its_own_token(tmp_path: Path) -> None:
    path = image(tmp_path / "a.img")
    FleetKey.create(tmp_path)
    arguments = [
        "--fleet",
        str(tmp_path),
        "--bootstrap",
        "10.0.0.1:7321",
        "--count",
        "3",
        "--hostname",
        "press",
        "--json",
    ]
    done = CliRunner().invoke(main, ["image", "customize", str(path), *arguments])
    assert done.exit_code == 0, done.output
    made = [Path(name) for name in json.loads(done.output)["images"]]
    found = [settings_in(copy) for copy in made]
    assert [copy.name for copy in made] == ["a-001.img", "a-002.img", "a-003.img"]
    assert [one.hostname for one in found] == ["press-001", "press-002", "press-003"]
    assert len({one.token for one in found}) == 3
    assert all(parse(one.token).enrolment.uses == 1 for one in found)
    assert all(copy.stat().st_mode & 0o777 == 0o600 for copy in made)
    assert settings_in(path).empty
    at = find_slot(path)
    assert made[0].read_bytes()[:at] == path.read_bytes()[:at]
    with pytest.raises(UsageError, match="exists already"):
        write_copies(path, [CardSettings()])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token", "edgefl1-abc"], "cut off"),
        (["--token", "file:/dev/null"], "the token is empty"),
        (["--data", "digits"], "NAME=SOURCE"),
        (["--hostname", "Not A Name"], "hostname"),
        (["--fleet", "/nowhere"], "--bootstrap"),
        (["--bootstrap", "nowhere"], "HOST:PORT"),
    ],
)
def test_what_no_device_would_take_is_refused_before_anything_is_written(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    path = image(tmp_path / "a.img")
    before = path.read_bytes()
    done = CliRunner().invoke(main, ["image", "customize", str(path), *arguments])
    assert done.exit_code in (2, 78)
    assert said in done.output
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "slots", [(), (SLOT_AT, SLOT_AT + 2 * SLOT_BYTES), (SLOT_AT + 8,)], ids=["none", "two", "askew"]
)
def test_an_image_without_its_one_place_is_refused(slots: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="place"):
        find_slot(image(tmp_path / "a.img", slots=slots))


def test_a_slot_in_pieces_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path / "a.img")
    content = bytearray(path.read_bytes())
    content[BOOT[0] + SLOT_AT + SLOT_BYTES - 8 : BOOT[0] + SLOT_AT + SLOT_BYTES] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(ImageError):
        write_settings(path, CardSettings())


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "no table":
        content[510:512] = b"\0\0"
    elif how == "cut off":
        content = content[: 12 << 20]
    elif how == "no gpt":
        content[512:520] = bytes(8)
    else:
        content[(8 << 20) + 1080] = 0
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("gpt", "how", "said"),
    [
        (False, "no table", "no partition table"),
        (False, "cut off", "cut off"),
        (True, "no gpt", "damaged partition table"),
        (False, "no root", "its file systems"),
    ],
)
def test_the_check_sees_damage(gpt: bool, how: str, said: str, tmp_path: Path) -> None:
    path = image(tmp_path / "a.img", gpt=gpt)
    assert check_image(path)[1] == []
    damaged(path, how)
    assert said in check_image(path)[1][0][0]
    assert CliRunner().invoke(main, ["image", "check", str(path)]).exit_code == 1


def test_the_check_compares_with_the_checksum_and_shows_no_token(token: str, tmp_path: Path) -> None:
    path = image(tmp_path / "a.img")
    (tmp_path / "a.img.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  a.img\n")
    assert "checksum: as built" in check_image(path)[0]
    write_settings(path, CardSettings(token))
    said = CliRunner().invoke(main, ["image", "check", str(path)])
    assert (said.exit_code, token in said.output) == (0, False)
    assert "settings: token" in said.output
    write_settings(path, CardSettings())
    with path.open("r+b") as file:
        file.seek(9 << 20)
        file.write(b"x")
    assert check_image(path)[1][0][0].startswith("its checksum")


@pytest.mark.skipif(
    not (shutil.which("mcopy") and shutil.which("mkfs.vfat")), reason="mtools or dosfstools are not installed"
)
def test_a_real_fat_has_the_slot_in_one_piece(tmp_path: Path) -> None:
    """As an image has it: a file that mtools wrote is found without FAT code, and mtools reads what was put there."""
    path, fat, slot = image(tmp_path / "a.img", slots=()), tmp_path / "fat", tmp_path / "edgefl.toml"
    fat.write_bytes(bytes(BOOT[1]))
    slot.write_bytes(render(CardSettings()))
    subprocess.run(["mkfs.vfat", "--invariant", fat], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", fat, slot, "::"], check=True)
    with path.open("r+b") as file:
        file.seek(BOOT[0])
        file.write(fat.read_bytes())
    write_settings(path, CardSettings(daemon={"site": "plant"}))
    read = subprocess.run(["mtype", "-i", f"{path}@@{BOOT[0]}", "::edgefl.toml"], check=True, capture_output=True)
    assert read.stdout == render(CardSettings(daemon={"site": "plant"}))


def test_partitions_are_found_whatever_their_table_claims(tmp_path: Path) -> None:
    path = image(tmp_path / "a.img", gpt=True)
    assert [(part.start, part.size) for part in partitions(path)] == [
        (4 << 20, 1 << 20),
        (8 << 20, 1 << 20),
        (9 << 20, 1 << 20),
        (12 << 20, 1 << 20),
    ]
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, 512 + 80, 2**31, 128)  # a table that claims two billion entries
    path.write_bytes(content)
    assert len(partitions(path)) <= 128
    assert issubclass(ImageError, EdgeflError)
