"""A boot does without Python where the card holds nothing new, and only there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from firstboot.test_steps import CALLS, DAEMON, card_bytes, device, kept_token, put
from support.power_cut import until_cut

from edgefl.firstboot import status, taken
from edgefl.firstboot.settings import CardSettings, render
from edgefl.firstboot.steps import Places, take_settings

SCRIPT = Path(__file__).resolve().parents[2] / "firmware-images/overlay/usr/lib/edgefl/take-settings"

LOOKED = 127
"""The script went on to a Python that is not there."""


def take(places: Places) -> str:
    """As edgefl.firstboot.__main__ does it."""
    found, outcome = take_settings(places)
    text = outcome.text("edgefl-test")
    status.write(places.card, text)
    if not outcome.problems:
        taken.note(places, found, text, "edgefl-test", [places.etc.parent / "cmdline"])
    return text


def start(places: Places, machine_id: str = "machine-id") -> subprocess.CompletedProcess[str]:
    base = places.etc.parent
    arguments = [base / "etc" / "taken", places.card.directory / status.FILE, base / "hostname"]
    arguments += [base / machine_id, base / "no-python"]
    return subprocess.run(["sh", SCRIPT, *arguments], capture_output=True, text=True, timeout=30)


@pytest.fixture
def places(tokens: tuple[str, str], tmp_path: Path) -> Places:
    """A device that has taken a token and a data file, and has joined."""
    places = device(tmp_path)
    (tmp_path / "cmdline").write_text("edgefl.slot=a")
    (tmp_path / "here.npz").write_bytes(b"data")
    data = {"digits": "digits.npz", "here": str(tmp_path / "here.npz")}
    put(places, render(CardSettings(tokens[0], {"site": "plant-2", "data": data}, ssh_keys=("ssh-ed25519 AAAA me",))))
    (places.card.directory / "digits.npz").write_bytes(b"data")
    places.host_key.write_text("key")
    take(places)
    status.report(places.card, "is in its fleet")
    return places


def test_a_card_with_nothing_new_is_seen_without_python(places: Places, tmp_path: Path) -> None:
    for _ in range(2):
        done = start(places)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{status.outcome_of(status.read(places.card))}\n"
        assert (tmp_path / "hostname").read_text() == "edgefl-test"


def in_place(places: Places, old: bytes, new: bytes) -> None:
    """As `edgefl image customize` writes: neither size nor time of the file tell."""
    path = places.card.directory / "edgefl.toml"
    times = path.stat()
    content = path.read_bytes()
    assert old in content
    put(places, content.replace(old, new))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "no settings on the card": lambda at: (at / "card/edgefl.toml").unlink(),
    "other data on the card": lambda at: (at / "card/digits.npz").write_bytes(b"other"),
    "other data of the same size": lambda at: os.utime(at / "card/digits.npz", (0, 0)),
    "data off the card": lambda at: (at / "card/digits.npz").unlink(),
    "data off the device": lambda at: next((at / "data").iterdir()).unlink(),
    "data that was there": lambda at: (at / "here.npz").unlink(),
    "no status on the card": lambda at: (at / "card/edgefl-status.txt").unlink(),
    "another status": lambda at: (at / "card/edgefl-status.txt").write_text("device: b\r\nsettings: ok\r\n"),
    "settings of the device": lambda at: (at / "etc/edgefl.toml").write_text(""),
    "no settings in the device": lambda at: (at / "etc/edgefl.toml").unlink(),
    "no updates": lambda at: (at / "etc/updates.toml").unlink(),
    "no token": lambda at: (at / "etc/token").unlink(),
    "a wipe that was cut": lambda at: (at / "etc/wiping").write_text("{}"),
    "keys of ssh": lambda at: (at / "ssh/edgefl-admin").write_text(""),
    "no host key": lambda at: (at / "ssh_host_ed25519_key").unlink(),
    "another system": lambda at: (at / "cmdline").write_text("edgefl.slot=b"),
    "another name": lambda at: (at / "etc/taken/name").write_text("other"),
    "fewer files": lambda at: (at / "etc/taken/files").write_text(""),
    "no files": lambda at: (at / "etc/taken/files").unlink(),
    "empty sums": lambda at: (at / "etc/taken/sums").write_text(""),
    "half the sums": lambda at: (at / "etc/taken/sums").write_bytes((at / "etc/taken/sums").read_bytes()[:-40]),
    "no note": lambda at: (at / "etc/taken/sums").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_python_looks_at_whatever_has_changed(change: Callable[[Path], object], places: Places, tmp_path: Path) -> None:
    change(tmp_path)
    assert start(places).returncode == LOOKED
    assert not (tmp_path / "hostname").exists()


def test_python_looks_at_a_first_boot(places: Places) -> None:
    """There is no machine id yet: systemd has mounted one, and it is to be kept."""
    assert start(places, "/").returncode == LOOKED  # a mount point on any machine


def test_settings_that_are_corrected_in_place_are_taken(places: Places, tmp_path: Path) -> None:
    in_place(places, b"plant-2", b"plant-3")
    assert start(places).returncode == LOOKED
    take(places)
    assert 'site = "plant-3"' in (places.etc / "edgefl.toml").read_text()
    assert start(places).returncode == 0


def test_data_that_come_back_to_the_card_are_taken(places: Places) -> None:
    original = places.card.directory / "digits.npz"
    original.unlink()
    take(places)
    assert start(places).returncode == 0  # it may be deleted there
    original.write_bytes(b"new data")
    assert start(places).returncode == LOOKED


def test_a_token_on_the_card_is_never_passed_over(places: Places, tokens: tuple[str, str]) -> None:
    put(places, f'token = "{tokens[1]}"\n'.encode() + card_bytes(places))
    assert start(places).returncode == LOOKED
    take(places)
    assert kept_token(places) == tokens[1]
    assert tokens[1].encode() not in card_bytes(places)
    assert start(places).returncode == 0


def test_what_is_wrong_is_looked_at_at_every_start(places: Places) -> None:
    put(places, b'site = "plant-2"\n[data]\ndigits = "other.npz"\n')
    (places.data / "digits.npz").unlink()
    assert "SOMETHING IS WRONG" in take(places)
    assert start(places).returncode == LOOKED


def test_a_cut_leaves_no_note_of_what_was_not_taken(tokens: tuple[str, str], tmp_path: Path) -> None:
    """A device that had taken one card is given another; the power goes after each of its writes."""
    noted = 0
    for cut in range(1, 200):
        at = tmp_path / str(cut)
        places = device(at)
        (at / "cmdline").write_text("edgefl.slot=a")
        put(places, b'site = "plant-1"\n')
        take(places)
        put(places, render(CardSettings(tokens[1], DAEMON)))
        (places.card.directory / "digits.npz").write_bytes(b"data")
        went = until_cut(partial(take, places), CALLS, cut)
        if start(places).returncode == 0:
            noted += 1
            assert tokens[1].encode() not in card_bytes(places)
            assert kept_token(places) == tokens[1]
            assert 'site = "plant-2"' in (places.etc / "edgefl.toml").read_text()
            assert (places.data / "digits.npz").read_bytes() == b"data"
        take(places)
        assert kept_token(places) == tokens[1]
        assert start(places).returncode == 0
        if not went:
            break
    assert cut > 30
    assert 0 < noted < 10
