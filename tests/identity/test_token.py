"""A join token: one line that is either whole and genuine, or refused with the reason."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.errors import EXIT_NOT_ADMITTED, NotAdmittedError, UsageError
from edgefl.identity.certificate import verify
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.token import MAX_BOOTSTRAPS, PREFIX, Bootstrap, Token, describe, parse

FLEET = FleetKey.generate()
DOORS = (Bootstrap("192.0.2.7", 7600, 0x0123456789ABCDEF), Bootstrap("door.example.org", 7600))
TOKEN = FLEET.invite(DOORS, site="greenhouse", uses=3)


def test_what_is_printed_can_be_read_again() -> None:
    again = parse(TOKEN.text)
    assert again == TOKEN
    assert again.bootstrap == DOORS
    assert again.fleet == FLEET.public
    assert (again.enrolment.site, again.enrolment.uses) == ("greenhouse", 3)


def test_the_text_is_one_word() -> None:
    assert TOKEN.text.startswith(PREFIX)
    assert len(TOKEN.text) < 600
    assert TOKEN.text.split() == [TOKEN.text]


def test_a_wrapped_paste_is_fine() -> None:
    text = TOKEN.text
    assert parse("  " + text[:70] + "\n   " + text[70:200] + "\r\n\t" + text[200:] + "\n") == TOKEN


def test_a_device_certifies_itself_with_it() -> None:
    keys = DeviceKeys.generate()
    certificate = parse(TOKEN.text).certify(keys)
    verify(certificate, fleet=FLEET.public)
    assert certificate.node_id == keys.node_id
    assert certificate.site == "greenhouse"


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 50, 200, 350])
def test_a_truncated_token_is_told_apart_from_a_forged_one(cut: int) -> None:
    with pytest.raises(UsageError, match="cut off") as caught:
        parse(TOKEN.text[:-cut])
    assert "copy the whole line" in caught.value.hint


def test_a_mistyped_token_is_told() -> None:
    at = 100
    letter = "A" if TOKEN.text[at] != "A" else "B"
    with pytest.raises(UsageError, match=r"mistyped|checksum"):
        parse(TOKEN.text[:at] + letter + TOKEN.text[at + 1 :])


def test_a_forged_token_is_not_admitted() -> None:
    forged = FleetKey.generate().invite(DOORS)
    liar = Token(FLEET.invite(DOORS).enrolment, forged._secret, DOORS)
    with pytest.raises(NotAdmittedError, match="bad signature") as caught:
        parse(liar.text)
    assert caught.value.exit_code == EXIT_NOT_ADMITTED


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "does not begin with edgefl1-"),
        ("SWMTKN-1-abc", "does not begin with edgefl1-"),
        ("edgefl2-AAAA", "format 2"),
        ("edgefl1-", "cut off"),
        ("edgefl1-ä", "characters"),
        ("edgefl1-" + "A" * 10_000, "too long"),
        (TOKEN.text + "AAAA", "followed by something else"),
    ],
)
def test_other_texts_are_refused_with_the_next_step(text: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        parse(text)
    assert caught.value.hint


def test_describing_and_printing_a_token_shows_no_secret() -> None:
    shown = str(describe(TOKEN)) + repr(TOKEN)
    assert TOKEN._secret.hex() not in shown
    assert base64.urlsafe_b64encode(TOKEN._secret).decode()[:20] not in shown
    assert str(TOKEN._secret) not in shown
    assert describe(TOKEN)["bootstrap"] == [
        {"host": "192.0.2.7", "port": 7600, "node": "0123456789abcdef"},
        {"host": "door.example.org", "port": 7600, "node": None},
    ]


def test_doors_are_bounded() -> None:
    with pytest.raises(UsageError):
        FLEET.invite([Bootstrap("192.0.2.7", 7600)] * (MAX_BOOTSTRAPS + 1))


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_a_named_error(text: str) -> None:
    with pytest.raises((UsageError, NotAdmittedError)):
        parse(text)


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_prefix_are_a_named_error(data: bytes) -> None:
    with pytest.raises((UsageError, NotAdmittedError)):
        parse(PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("="))


@settings(max_examples=40)
@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_changed_byte_is_never_taken_for_the_token(at: int, flip: int) -> None:
    padded = TOKEN.text[len(PREFIX) :]
    framed = bytearray(base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4)))
    framed[at % len(framed)] ^= flip
    with pytest.raises((UsageError, NotAdmittedError)):
        parse(PREFIX + base64.urlsafe_b64encode(bytes(framed)).decode().rstrip("="))
