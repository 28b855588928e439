"""The policy: who is admitted, who waits, who is refused and why; all of it bounded, all of it surviving restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgefl.errors import ConfigError, NotAdmittedError, WireError
from edgefl.identity import admission as module
from edgefl.identity.admission import MAX_PENDING, MAX_PENDING_PER_HOST, Admission, AdmissionState
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.revocation import pack_revocations
from tests.identity.builders import claim_of, member

FLEET = FleetKey.generate()


def test_a_member_of_the_fleet_is_admitted_and_stands_on_the_allow_list() -> None:
    door, guest = member(FLEET), member(FLEET)
    assert door.decide(guest.claim(), guest.certificate).reason is Reason.ADMITTED
    assert door.allowed(guest.keys.curve_public) == guest.keys.node_id
    assert door.admits(guest.keys.node_id)


def test_a_stranger_waits_is_approved_and_finds_its_certificate_at_the_next_knock() -> None:
    door, guest = member(FLEET), Admission(DeviceKeys.generate(), site="barn")
    assert door.decide(guest.claim(), None, host="192.0.2.9").reason is Reason.PENDING
    (waiting,) = door.pending
    assert (waiting.node_id, waiting.site, waiting.host) == (guest.keys.node_id, "barn", "192.0.2.9")
    assert not door.admits(guest.keys.node_id)

    door.approve(FLEET.approve(waiting.claim()))
    assert door.pending == ()
    verdict = door.decide(guest.claim(), None)
    assert verdict.reason is Reason.ADMITTED
    assert verdict.approval is not None
    guest.adopt(verdict.approval)
    assert (guest.fleet, guest.certificate) == (FLEET.public, verdict.approval)
    assert door.decide(guest.claim(), guest.certificate).reason is Reason.ADMITTED


def test_refusals_have_a_stable_reason() -> None:
    door = member(FLEET)
    foreign = member(FleetKey.generate())
    assert door.decide(foreign.claim(), foreign.certificate).reason is Reason.WRONG_FLEET

    guest, thief = member(FLEET), DeviceKeys.generate()
    assert door.decide(claim_of(thief), guest.certificate).reason is Reason.BAD_SIGNATURE
    assert guest.certificate is not None
    damaged = replace(guest.certificate, signature=bytes(64))
    assert door.decide(guest.claim(), damaged).reason is Reason.BAD_SIGNATURE

    lone = Admission(DeviceKeys.generate())
    assert lone.decide(guest.claim(), guest.certificate).reason is Reason.NO_FLEET


def test_a_token_admits_as_many_devices_as_it_says() -> None:
    door, token = member(FLEET), FLEET.invite((), uses=2)
    guests = [Admission(DeviceKeys.generate()) for _ in range(3)]
    for guest in guests:
        guest.join(token)
    reasons = [door.decide(guest.claim(), guest.certificate).reason for guest in guests]
    assert reasons == [Reason.ADMITTED, Reason.ADMITTED, Reason.TOKEN_USED_UP]
    assert door.decide(guests[0].claim(), guests[0].certificate).reason is Reason.ADMITTED


def test_revoked_devices_and_tokens_lose_their_place_for_good() -> None:
    door = member(FLEET)
    token = FLEET.invite(())
    by_token, by_node, bystander = Admission(DeviceKeys.generate()), member(FLEET), member(FLEET)
    by_token.join(token)
    for guest in (by_token, by_node, bystander):
        door.decide(guest.claim(), guest.certificate)
    gone: list[frozenset[int]] = []
    door.on_revoked = gone.append

    revocations = FLEET.revoke(None, nodes=[by_node.keys.node_id], serials=[token.enrolment.serial])
    assert door.merge_revocations(pack_revocations(revocations))
    assert gone == [frozenset({by_token.keys.node_id, by_node.keys.node_id})]
    assert not door.merge_revocations(pack_revocations(revocations)), "the same list is no news"
    for guest in (by_token, by_node):
        assert door.allowed(guest.keys.curve_public) is None
        assert door.decide(guest.claim(), guest.certificate).reason is Reason.REVOKED
    assert door.decide(by_node.claim(), None).reason is Reason.REVOKED
    assert door.admits(bystander.keys.node_id)

    older = FLEET.revoke(None)
    assert not door.merge_revocations(pack_revocations(older)), "a list never goes back"
    assert door.decide(by_node.claim(), by_node.certificate).reason is Reason.REVOKED


def test_a_device_knows_that_it_was_revoked_itself() -> None:
    device = member(FLEET)
    device.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=[device.keys.node_id])))
    assert device.revoked_self


def test_only_the_own_fleet_can_revoke() -> None:
    door = member(FLEET)
    with pytest.raises(NotAdmittedError):
        door.merge_revocations(pack_revocations(FleetKey.generate().revoke(None)))
    with pytest.raises(WireError):
        door.merge_revocations(b"nonsense")


def test_pending_requests_are_bounded_and_one_machine_cannot_fill_the_list() -> None:
    door = member(FLEET)
    honest = DeviceKeys.generate()
    door.decide(claim_of(honest), None, host="192.0.2.1")
    for _ in range(MAX_PENDING + 5):
        door.decide(claim_of(DeviceKeys.generate()), None, host="192.0.2.66")
    assert len(door.pending) == 1 + MAX_PENDING_PER_HOST
    assert door.pending[0].node_id == honest.node_id
    for host in range(4):
        for _ in range(MAX_PENDING_PER_HOST):
            door.decide(claim_of(DeviceKeys.generate()), None, host=f"198.51.100.{host}")
    assert len(door.pending) == MAX_PENDING


def test_the_allow_list_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ALLOWED", 3)
    door, guests = member(FLEET), [member(FLEET) for _ in range(4)]
    for guest in guests:
        door.decide(guest.claim(), guest.certificate)
    assert [door.admits(guest.keys.node_id) for guest in guests] == [False, True, True, True]


def test_a_new_transport_key_replaces_the_old_one() -> None:
    door, old = member(FLEET), DeviceKeys.generate()
    lines = old.encode().decode().splitlines()
    new = DeviceKeys(bytes.fromhex(lines[1]), bytes(range(32)))
    token = FLEET.invite(())
    for keys in (old, new):
        door.admit(token.certify(keys))
    assert door.allowed(new.curve_public) == old.node_id
    assert door.allowed(old.curve_public) is None


def test_everything_survives_a_restart() -> None:
    keys = DeviceKeys.generate()
    door = Admission(keys)
    door.join(FLEET.invite(()))
    token = FLEET.invite((), uses=1)
    guest, waiting, approved = Admission(DeviceKeys.generate()), DeviceKeys.generate(), DeviceKeys.generate()
    guest.join(token)
    door.decide(guest.claim(), guest.certificate)
    door.decide(claim_of(waiting), None)
    door.approve(FLEET.approve(claim_of(approved)))
    door.merge_revocations(pack_revocations(FLEET.revoke(None, nodes=[99])))

    state = AdmissionState.decode(door.export().encode())
    again = Admission(keys)
    again.restore(state)
    assert again.export() == state
    assert again.allowed(guest.keys.curve_public) == guest.keys.node_id
    second = Admission(DeviceKeys.generate())
    second.join(token)
    assert again.decide(second.claim(), second.certificate).reason is Reason.TOKEN_USED_UP
    assert again.decide(claim_of(approved), None).reason is Reason.ADMITTED


def test_a_stored_membership_of_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit this device"):
        Admission(DeviceKeys.generate()).restore(member(FLEET).export())


def test_a_device_stays_in_its_fleet() -> None:
    device = member(FLEET)
    device.join(FLEET.invite(()))
    with pytest.raises(ConfigError, match="already belongs"):
        device.join(FleetKey.generate().invite(()))
    with pytest.raises(RefusedError):
        device.adopt(FLEET.approve(claim_of(DeviceKeys.generate())))


def test_changes_are_reported_and_repetitions_are_not() -> None:
    changes: list[int] = []
    door = member(FLEET)
    door.on_change = lambda: changes.append(1)
    guest = member(FLEET)
    for _ in range(3):
        door.decide(guest.claim(), guest.certificate)
    stranger = DeviceKeys.generate()
    for _ in range(3):
        door.decide(claim_of(stranger), None)
    assert len(changes) == 2
