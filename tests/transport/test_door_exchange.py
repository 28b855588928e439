"""The exchange at the door, without sockets: both sides proved, nothing moved, replayed or guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.errors import NotAdmittedError, WireError
from edgefl.identity.certificate import DeviceCertificate
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.reason import Reason, RefusedError
from edgefl.transport import door_exchange as module
from edgefl.transport.door_exchange import (
    FRAME_BYTES,
    KNOCK_BYTES,
    Answer,
    DialBack,
    HostExchange,
    Introduction,
    VisitorExchange,
    refusal,
    revocation_frame_bytes,
)
from edgefl.wire.contact import Contact
from edgefl.wire.link import MAX_REVOCATIONS_BYTES

FLEET = FleetKey.generate()
LONGEST = FLEET.invite((), site="s" * 64, uses=1024)
HOST, VISITOR, THIRD = DeviceKeys.generate(), DeviceKeys.generate(), DeviceKeys.generate()
HOST_CERTIFICATE, VISITOR_CERTIFICATE = LONGEST.certify(HOST), LONGEST.certify(VISITOR)


def introduction(keys: DeviceKeys, certificate: DeviceCertificate | None) -> Introduction:
    contact = Contact(keys.node_id, "2001:db8::1", 7600)
    return Introduction(
        keys.public, keys.curve_public, keys.binding, contact, 65_535, 65_534, certificate, "s" * 64, 2**32 - 1, True
    )


class Meeting:
    """A visitor and a host, and the frames between them as they were sent."""

    def __init__(self, visitor: DeviceKeys = VISITOR, host: DeviceKeys = HOST) -> None:
        self.visitor, self.host = VisitorExchange(visitor), HostExchange(host)
        self.frames: list[bytes] = []

    def run(self, tamper: tuple[int, int, int] | None = None, expect: int | None = HOST.node_id) -> Answer:
        """The whole exchange; `tamper` = (frame, position, xor) changes one byte on the way."""

        def carry(frame: bytes) -> bytes:
            self.frames.append(frame)
            if tamper is not None and tamper[0] == len(self.frames) - 1:
                changed = bytearray(frame)
                changed[tamper[1] % len(frame)] ^= tamper[2]
                return bytes(changed)
            return frame

        self.host.read_knock(carry(self.visitor.knock()))
        self.visitor.read_welcome(carry(self.host.welcome(HOST_CERTIFICATE)), expect=expect)
        self.host.read_introduction(carry(self.visitor.introduce(introduction(VISITOR, VISITOR_CERTIFICATE))))
        answer = Answer(Reason.ADMITTED, "f" * 39, Contact(HOST.node_id, "2001:db8::2", 1), 1, 2, VISITOR_CERTIFICATE)
        return self.visitor.read_answer(carry(self.host.answer(answer)))


def test_an_exchange_with_the_longest_certificates_fits_its_frames() -> None:
    meeting = Meeting()
    answer = meeting.run()
    assert answer.approval == VISITOR_CERTIFICATE
    assert [len(frame) for frame in meeting.frames] == [KNOCK_BYTES, FRAME_BYTES, FRAME_BYTES, FRAME_BYTES]


def test_an_onlooker_sees_no_identity() -> None:
    meeting = Meeting()
    meeting.run()
    seen = b"".join(meeting.frames)
    for keys in (HOST, VISITOR):
        assert keys.public not in seen
        assert keys.curve_public not in seen
    assert FLEET.public not in seen


def test_the_visitor_knows_whom_it_expects() -> None:
    with pytest.raises(RefusedError) as caught:
        Meeting().run(expect=THIRD.node_id)
    assert caught.value.reason is Reason.OTHER_DEVICE


@settings(max_examples=150, deadline=None)
@given(frame=st.integers(0, 3), at=st.integers(0, FRAME_BYTES), flip=st.integers(1, 255))
def test_one_changed_byte_anywhere_ends_the_exchange(frame: int, at: int, flip: int) -> None:
    """Only the padding of the two clear heads is free of meaning, and even that is part of the transcript."""
    version_or_padding = frame == 0 and 12 <= at % KNOCK_BYTES < 16
    if version_or_padding:
        return  # a version range that still overlaps is fine for this frame alone; the transcript catches it later
    with pytest.raises((WireError, NotAdmittedError)):
        Meeting().run(tamper=(frame, at, flip))


def test_a_changed_version_range_is_caught_by_the_transcript() -> None:
    with pytest.raises((WireError, NotAdmittedError)):
        Meeting().run(tamper=(0, 15, 2))  # newest 1 -> 3: acceptable by itself


def test_a_recorded_exchange_cannot_be_replayed() -> None:
    recorded = Meeting()
    recorded.run()
    host = HostExchange(HOST)
    host.read_knock(recorded.frames[0])
    host.welcome(HOST_CERTIFICATE)
    with pytest.raises(WireError):
        host.read_introduction(recorded.frames[2])


def test_a_device_cannot_show_another_ones_certificate() -> None:
    for expect, reason in ((HOST.node_id, Reason.OTHER_DEVICE), (None, Reason.BAD_SIGNATURE)):
        impostor, visitor = HostExchange(THIRD), VisitorExchange(VISITOR)
        impostor.read_knock(visitor.knock())
        with pytest.raises(RefusedError) as caught:
            visitor.read_welcome(impostor.welcome(HOST_CERTIFICATE), expect=expect)
        assert caught.value.reason is reason


def test_a_device_in_the_middle_cannot_pass_frames_on() -> None:
    """It would have to run an exchange with each side, and what one side signs does not hold in the other."""
    visitor, host, middle = VisitorExchange(VISITOR), HostExchange(HOST), VisitorExchange(THIRD)
    visitor.knock()
    host.read_knock(middle.knock())
    with pytest.raises(WireError):
        visitor.read_welcome(host.welcome(HOST_CERTIFICATE), expect=HOST.node_id)


def test_a_visitor_cannot_introduce_another_device() -> None:
    host, visitor = HostExchange(HOST), VisitorExchange(THIRD)
    host.read_knock(visitor.knock())
    visitor.read_welcome(host.welcome(HOST_CERTIFICATE), expect=None)
    with pytest.raises(RefusedError) as caught:
        host.read_introduction(visitor.introduce(introduction(VISITOR, VISITOR_CERTIFICATE)))
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_a_visitor_cannot_name_another_devices_contact() -> None:
    host, visitor = HostExchange(HOST), VisitorExchange(VISITOR)
    host.read_knock(visitor.knock())
    visitor.read_welcome(host.welcome(HOST_CERTIFICATE), expect=None)
    wrong = replace(introduction(VISITOR, VISITOR_CERTIFICATE), contact=Contact(THIRD.node_id, "192.0.2.1", 1))
    with pytest.raises(RefusedError):
        host.read_introduction(visitor.introduce(wrong))


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_an_ephemeral_key_of_low_order_is_refused(point: bytes) -> None:
    knock = bytearray(VisitorExchange(VISITOR).knock())
    knock[17:49] = point
    with pytest.raises(WireError):
        HostExchange(HOST).read_knock(bytes(knock))


def test_versions_that_do_not_overlap_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = VisitorExchange(VISITOR)
    monkeypatch.setattr(module, "PROTOCOL_OLDEST", 7)
    monkeypatch.setattr(module, "PROTOCOL_VERSION", 8)
    newer = VisitorExchange(VISITOR).knock()
    monkeypatch.undo()
    with pytest.raises(RefusedError) as caught:
        HostExchange(HOST).read_knock(newer)
    assert caught.value.reason is Reason.PROTOCOL_VERSION
    visitor.knock()
    with pytest.raises(RefusedError, match="protocol version") as caught:
        visitor.read_welcome(refusal(Reason.PROTOCOL_VERSION), expect=None)
    assert "update edgefl" in caught.value.hint


@pytest.mark.parametrize("length", [1, 1006, 1007, MAX_REVOCATIONS_BYTES])
def test_revocations_of_any_length_travel_in_whole_frames(length: int) -> None:
    meeting = Meeting()
    meeting.run()
    data = bytes(length)
    frame = meeting.host.revocations(data)
    assert len(frame) == revocation_frame_bytes(length)
    assert len(frame) % FRAME_BYTES == 0
    assert meeting.visitor.read_revocations(frame) == data


@given(st.binary(min_size=KNOCK_BYTES, max_size=KNOCK_BYTES))
def test_any_first_frame_is_a_named_error(frame: bytes) -> None:
    with pytest.raises((WireError, NotAdmittedError)):
        HostExchange(HOST).read_knock(frame)


@settings(deadline=None)
@given(st.binary(min_size=FRAME_BYTES, max_size=FRAME_BYTES), st.booleans())
def test_any_later_frame_is_a_named_error(frame: bytes, looks_right: bool) -> None:
    visitor, host = VisitorExchange(VISITOR), HostExchange(HOST)
    host.read_knock(visitor.knock())
    welcome = host.welcome(HOST_CERTIFICATE)
    with pytest.raises((WireError, NotAdmittedError)):
        host.read_introduction(frame)
    with pytest.raises((WireError, NotAdmittedError)):
        visitor.read_welcome(welcome[:64] + frame[64:] if looks_right else frame, expect=None)


def test_a_way_of_failing_that_a_later_release_knows_is_silence_to_this_one() -> None:
    assert [Answer(Reason.ADMITTED, "", reachable=number).dial_back for number in (0, 1, 3, 99)] == [
        DialBack.NOT_TRIED,
        DialBack.REACHED,
        DialBack.REFUSED,
        DialBack.SILENT,
    ]
    assert not DialBack.NOT_TRIED.failed
    assert DialBack.OTHER.failed
