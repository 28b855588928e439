"""edgefl.toml on the card: what people write, and where they are told that it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import ConfigError, UsageError
from edgefl.firstboot.settings import END, MARKER, SLOT_BYTES, CardSettings, read, render
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake somebody"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> str:
    return FleetKey.create(tmp_path_factory.mktemp("fleet")).invite([Bootstrap("192.168.1.20", 7321)]).text


def test_a_slot_as_the_image_has_it_sets_nothing() -> None:
    slot = render(CardSettings())
    assert len(slot) == SLOT_BYTES
    assert slot.startswith(MARKER.encode())
    assert slot.endswith(END.encode())
    assert read(slot).empty


def test_settings_come_back_as_they_were_written(token: str) -> None:
    settings = CardSettings(
        token,
        {
            "site": "plant 2",
            "bootstrap": ["10.0.0.1:7321"],
            "data": {"digits": "digits.npz"},
            "overlay": {"zones": "anchors"},
        },
        "press-4",
        (KEY,),
        "plant",
        "pass phrase",
    )
    assert read(render(settings)) == settings


def test_notepad_writes_a_mark_and_carriage_returns(token: str) -> None:
    text = f'site = "a"\r\ntoken = """\r\n{token[:60]}\r\n{token[60:]}"""\r\n'
    assert read(b"\xef\xbb\xbf" + text.encode()) == CardSettings(token, {"site": "a"})


@given(st.text(max_size=50), st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=4))
def test_any_text_survives_the_card(site: str, data: dict[str, str]) -> None:
    # TOML texts hold any character but lone surrogates, which are none.
    clean = {"site": site, "data": data} if site and data else {}
    try:
        slot = render(CardSettings(daemon=clean))
    except UnicodeEncodeError:
        return
    assert read(slot).daemon == clean


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('site = "a"\ntoken = "edgefl1-abc"\n', 2, "cut off"),
        ('\n\ntoken = "hello"\n', 3, "no join token"),
        ('site = "a"\nsit = "b"\n', 2, "unknown key 'sit'"),
        ("site = 3\n", 1, "must be a str"),
        ('site = "a\n', 1, ""),
        ('site = "a"\nbootstrap = ["nowhere"]\n', 2, "not HOST:PORT"),
        ('site = "a"\n[gateway]\nhostname = "Press 4"\n', 3, "hostname"),
        ("[gateway]\nssh_authorized_keys = ['-----BEGIN OPENSSH PRIVATE KEY-----']\n", 2, "public ssh key"),
        ("[gateway]\npassword = 'x'\n", 2, "unknown key 'password'"),
        ("gateway = 1\n", None, "table"),
        ("[wifi]\npassphrase = 'correct horse'\n", 1, "ssid"),
        ("[wifi]\nssid = 'a'\npassphrase = 'short'\n", 1, "8 to 63"),
        ("[wifi]\nssid = 'a'\npassword = 'correct horse'\n", 1, "keys ssid and passphrase"),
        ("[data]\ndigits = 1\n", 1, "texts"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text.encode())
    assert said in caught.value.cause
    assert caught.value.hint
    if line is not None:
        assert f"line {line}" in caught.value.cause


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a" * 70_000], ids=["no utf-8", "large"])
def test_what_is_no_settings_file(content: bytes) -> None:
    with pytest.raises(ConfigError):
        read(content)


def test_too_much_does_not_fit() -> None:
    with pytest.raises(UsageError, match="fit"):
        render(CardSettings(daemon={"data": {f"d{n}": "x" * 200 for n in range(100)}}))


def test_the_example_in_the_slot_is_right(token: str) -> None:
    """Each commented line of the slot, made to count, is a valid setting."""
    lines = render(CardSettings()).decode().splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("#   ") and ("=" in line or "[" in line))
    example = example.split("  in ")[0].replace("edgefl1-...", token).replace("ssh-ed25519 ...", KEY)
    cleaned = []
    for line in example.splitlines():
        body, _, _ = line.partition("   ")
        cleaned.append(body)
    found = read("\n".join(cleaned).encode())
    assert found.token == token
    assert found.hostname == "press-4"
    assert found.ssh_keys == (KEY,)
    assert Path(found.daemon["data"]["digits"]).suffix == ".npz"
