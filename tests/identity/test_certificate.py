"""Certificates: a chain that holds, and every way to break it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.errors import NotAdmittedError, WireError
from edgefl.identity.certificate import DeviceCertificate, verify
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.reason import Reason, RefusedError
from edgefl.wire.codec import decode_record, encode_record
from tests.identity.builders import claim_of

FLEET = FleetKey.generate()
OTHER_FLEET = FleetKey.generate()
KEYS = DeviceKeys.generate()
OTHER = DeviceKeys.generate()
BY_TOKEN = FLEET.invite((), site="mill", uses=5).certify(KEYS)
BY_APPROVAL = FLEET.approve(claim_of(KEYS, site="mill"))


@pytest.mark.parametrize("certificate", [BY_TOKEN, BY_APPROVAL])
def test_a_genuine_certificate_holds_offline(certificate: DeviceCertificate) -> None:
    verify(certificate, fleet=FLEET.public)
    verify(decode_record(DeviceCertificate, encode_record(certificate)), fleet=FLEET.public)
    assert certificate.node_id == KEYS.node_id
    assert certificate.site == "mill"


def test_a_certificate_and_its_token_fit_a_door_frame_with_room() -> None:
    largest = FLEET.invite((), site="x" * 64, uses=1024).certify(KEYS)
    assert len(encode_record(largest)) < 700


def refused(certificate: DeviceCertificate, fleet: bytes | None = FLEET.public) -> Reason:
    with pytest.raises(RefusedError) as caught:
        verify(certificate, fleet=fleet)
    assert isinstance(caught.value, NotAdmittedError)
    assert caught.value.cause.startswith(caught.value.reason.text)
    assert caught.value.hint
    return caught.value.reason


def test_another_fleets_certificate_is_refused() -> None:
    assert refused(OTHER_FLEET.invite(()).certify(KEYS)) is Reason.WRONG_FLEET
    assert refused(OTHER_FLEET.approve(claim_of(KEYS))) is Reason.WRONG_FLEET


def test_an_enrolment_of_another_fleet_does_not_carry_over() -> None:
    foreign = OTHER_FLEET.invite(()).certify(KEYS)
    assert refused(replace(foreign, fleet=FLEET.public)) is Reason.WRONG_FLEET


def test_a_self_made_enrolment_is_refused() -> None:
    token = FLEET.invite(())
    forged = replace(token.enrolment, uses=0, site="elsewhere")
    assert refused(replace(BY_TOKEN, enrolment=forged, site="elsewhere")) is Reason.BAD_SIGNATURE


def test_another_devices_key_under_the_certificate_is_refused() -> None:
    for certificate in (BY_TOKEN, BY_APPROVAL):
        assert refused(replace(certificate, device=OTHER.public)) is Reason.BAD_SIGNATURE
        assert refused(replace(certificate, curve=OTHER.curve_public)) is Reason.BAD_SIGNATURE
        assert refused(replace(certificate, site="palace")) is Reason.BAD_SIGNATURE
        assert refused(replace(certificate, signature=bytes(64))) is Reason.BAD_SIGNATURE


def test_an_issuer_cannot_bind_a_key_that_the_device_did_not_sign() -> None:
    claim = replace(claim_of(KEYS), curve=OTHER.curve_public)
    with pytest.raises(Exception, match="not signed by the device"):
        FLEET.approve(claim)


@settings(max_examples=60)
@given(at=st.integers(0, 10_000), flip=st.integers(1, 255), chosen=st.sampled_from([BY_TOKEN, BY_APPROVAL]))
def test_one_changed_byte_breaks_the_chain(at: int, flip: int, chosen: DeviceCertificate) -> None:
    data = bytearray(encode_record(chosen))
    data[at % len(data)] ^= flip
    with pytest.raises((NotAdmittedError, WireError)):
        verify(decode_record(DeviceCertificate, bytes(data)), fleet=FLEET.public)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_named_error(data: bytes) -> None:
    with pytest.raises((NotAdmittedError, WireError)):
        verify(decode_record(DeviceCertificate, data), fleet=FLEET.public)
