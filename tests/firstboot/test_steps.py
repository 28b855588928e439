"""The power goes after every write of first boot: the token is never lost, and never stays on the card."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.power_cut import until_cut

from edgefl.firstboot.card import Card
from edgefl.firstboot.settings import SLOT_BYTES, CardSettings, read, render
from edgefl.firstboot.status import read as read_status
from edgefl.firstboot.status import report, words_of_end
from edgefl.firstboot.status import write as write_status
from edgefl.firstboot.steps import Places, take_settings

PASSPHRASE = "correct horse"
DAEMON = {"site": "plant-2", "data": {"digits": "digits.npz"}}


def device(directory: Path) -> Places:
    """A device with an empty card."""
    for name in ("card", "etc"):
        (directory / name).mkdir(parents=True)
    return Places(
        Card(directory / "card", mounted=False),
        directory / "etc",
        directory / "data",
        directory / "ssh",
        directory / "wifi",
        directory / "ssh_host_ed25519_key",
    )


def put(places: Places, content: bytes) -> None:
    """A person writes the card on a PC."""
    (places.card.directory / "edgefl.toml").write_bytes(content)


def card_bytes(places: Places) -> bytes:
    return (places.card.directory / "edgefl.toml").read_bytes()


def kept_token(places: Places) -> str:
    path = places.etc / "token"
    return path.read_text().strip() if path.exists() else ""


def boot(places: Places) -> list[tuple[str, str]]:
    _, outcome = take_settings(places)
    write_status(places.card, outcome.text("edgefl-test"))
    return outcome.problems


CALLS = ("open", "pwrite", "fsync", "replace", "unlink", "fchmod")
"""Every way in which the program changes a disk (temporary names: os.open, by tempfile)."""


def boot_until(places: Places, cut: int) -> bool:
    """Boot until the power goes right after the `cut`-th change; whether it went."""
    return until_cut(lambda: boot(places), CALLS, cut)


@pytest.mark.parametrize(
    ("length", "step"), [(SLOT_BYTES, 1), (900, 7), (17_000, 7)], ids=["slot", "shortened", "lengthened"]
)
def test_the_power_goes_after_every_write(length: int, step: int, tokens: tuple[str, str], tmp_path: Path) -> None:
    token, _ = tokens
    text = f'site = "plant-2"\ntoken = "{token}"\n[wifi]\nssid = "plant"\npassphrase = "{PASSPHRASE}"\n'
    content = f'{text}[data]\ndigits = "digits.npz"\n'.encode().ljust(length, b"\n")
    for cut in range(1, 500, step):
        places = device(tmp_path / str(cut))
        put(places, content)
        (places.card.directory / "digits.npz").write_bytes(b"data")
        cut_off = boot_until(places, cut)
        assert token.encode() in card_bytes(places) or kept_token(places) == token, f"cut {cut}: the token is lost"
        assert not boot_until(places, 10_000)  # the next boot goes through
        assert token.encode() not in card_bytes(places), f"cut {cut}: the token stays on the card"
        assert kept_token(places) == token
        assert (places.etc / "token").stat().st_mode & 0o777 == 0o600
        assert read(card_bytes(places)) == CardSettings(daemon=DAEMON, ssid="plant"), f"cut {cut}: the settings changed"
        holders = [
            p for p in tmp_path.joinpath(str(cut)).rglob("*") if p.is_file() and token[20:].encode() in p.read_bytes()
        ]
        assert holders == [places.etc / "token"], f"cut {cut}: copies of the token"
        assert (places.data / "digits.npz").read_bytes() == b"data"
        assert PASSPHRASE.encode() not in card_bytes(places)
        assert (places.wifi / "=706c616e74.psk").read_text() == f"[Security]\nPassphrase={PASSPHRASE}\n"
        assert "settings: ok" in read_status(places.card)
        if not cut_off:
            break
    assert 30 < cut < 200  # every change was counted: the loop ends after the last one


def test_the_device_has_the_token_for_good_before_the_card_loses_it(
    tokens: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut takes is what was not synced: file, name and folder are, before the first byte of the wipe."""
    places = device(tmp_path)
    put(places, render(CardSettings(tokens[0], {"site": "a"})))
    trace: list[str] = []

    def traced(name: str) -> None:
        call = getattr(os, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            what = arguments[0]
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
            trace.append(f"{name} {Path(path).relative_to(tmp_path)}")
            return call(*arguments, **options)

        monkeypatch.setattr(os, name, wrapper)

    for name in ("fsync", "pwrite", "replace"):
        traced(name)
    boot(places)
    began = trace.index("pwrite card/edgefl.toml")
    renamed = next(at for at, what in enumerate(trace) if what.startswith("replace etc/.token."))
    assert trace[renamed - 1].startswith("fsync etc/.token.")
    assert trace[renamed + 1] == "fsync etc"
    assert renamed + 1 < began
    assert any(what.startswith("replace etc/.wiping.") for what in trace[:began])


def test_settings_changed_on_the_card_come_into_the_device(tokens: tuple[str, str], tmp_path: Path) -> None:
    places = device(tmp_path)
    put(places, render(CardSettings(tokens[0], {"site": "a"})))
    assert boot(places) == []
    put(places, b'site = "b"\n')
    assert boot(places) == []
    assert (places.etc / "edgefl.toml").read_text() == 'site = "b"\n'
    assert kept_token(places) == tokens[0]
    put(places, f'token = "{tokens[1]}"'.encode())
    assert boot(places) == []
    assert kept_token(places) == tokens[1]


def test_a_boot_that_finds_nothing_new_writes_nothing(
    tokens: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = device(tmp_path)
    put(places, render(CardSettings(tokens[0], {"site": "a", "data": {"d": "d.csv"}})))
    (places.card.directory / "d.csv").write_text("x,y\n")
    boot(places)
    boot(places)  # says that the data has been there already

    def forbidden(*_: Any) -> None:
        raise AssertionError("a needless write")

    for name in ("pwrite", "fsync", "replace"):
        monkeypatch.setattr(os, name, forbidden)
    boot(places)


def test_a_person_who_changes_the_card_while_a_wipe_was_cut_wins(tokens: tuple[str, str], tmp_path: Path) -> None:
    places = device(tmp_path)
    put(places, render(CardSettings(tokens[0], {"site": "a"})))
    boot(places)
    (places.etc / "wiping").write_text(json.dumps({"old": ["0" * 32], "new": render(CardSettings()).decode()}))
    put(places, f'site = "b"\ntoken = "{tokens[1]}"\n'.encode())
    assert boot(places) == []
    assert kept_token(places) == tokens[1]
    assert read(card_bytes(places)) == CardSettings(daemon={"site": "b"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b'site = "a"\ntoken = "edgefl1-wrong"\n', "line 2"),
        (b'site = "a\n', "line 1"),
        (b'site = "a"\n[data]\ndigits = "digits.npz"\n', "copy digits.npz beside edgefl.toml"),
        (b'[data]\nshadow = "../etc/token"\n', "no file ../etc/token on this card"),
        (b'[data]\ndigits = "/srv/nowhere.npz"\n', "no /srv/nowhere.npz on the device"),
        (None, "no edgefl.toml"),
    ],
    ids=["token", "toml", "missing data", "outside", "missing on device", "no file"],
)
def test_a_wrong_card_is_told_and_a_corrected_one_works(
    wrong: bytes | None, said: str, tokens: tuple[str, str], tmp_path: Path
) -> None:
    places = device(tmp_path)
    if wrong is not None:
        put(places, wrong)
    assert boot(places)
    status = read_status(places.card)
    assert "SOMETHING IS WRONG" in status
    assert said in status
    assert "next: " in status
    put(places, render(CardSettings(tokens[0], DAEMON)))
    (places.card.directory / "digits.npz").write_bytes(b"data")
    assert boot(places) == []
    assert kept_token(places) == tokens[0]
    assert tokens[0].encode() not in card_bytes(places)
    assert "settings: ok" in read_status(places.card)


def test_a_card_that_cannot_be_written_keeps_the_token_and_is_told(
    tokens: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = device(tmp_path)
    put(places, render(CardSettings(tokens[0])))

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Card, "overwrite", broken)
        _, outcome = take_settings(places)
        assert "cannot be written" in outcome.problems[0][0]
    assert kept_token(places) == tokens[0]
    assert boot(places) == []
    assert tokens[0].encode() not in card_bytes(places)


def test_keys_open_ssh_and_their_absence_closes_it(tmp_path: Path) -> None:
    places = device(tmp_path)
    put(places, render(CardSettings(ssh_keys=("ssh-ed25519 AAAA me",))))
    boot(places)
    assert (places.ssh / "edgefl-admin").read_text() == "ssh-ed25519 AAAA me\n"
    put(places, b"")
    boot(places)
    assert not (places.ssh / "edgefl-admin").exists()


def test_the_daemon_has_its_own_lines_in_the_status(tmp_path: Path) -> None:
    card = Card(tmp_path, mounted=False)
    write_status(card, "device: a\nsettings: ok")
    refused = words_of_end("77")
    assert refused is not None
    report(card, refused)
    assert "token was revoked" in read_status(card)
    report(card, "is in its fleet")
    assert read_status(card) == "device: a\nsettings: ok\ndaemon: is in its fleet"
    assert (tmp_path / "edgefl-status.txt").stat().st_size == 4096
    assert words_of_end("1") is None
    assert words_of_end("KILL") is None
