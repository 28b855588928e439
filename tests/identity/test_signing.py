"""Adverts: signed by the owner that the manifest names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgefl.errors import UsageError
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.signing import sign_advert, verify_advert
from edgefl.wire.application import AppState, Artifact, Manifest, pack_advert, unpack_advert
from edgefl.wire.blob import ref_of
from edgefl.wire.contact import Contact

OWNER = DeviceKeys.generate()
HOLDER = Contact(OWNER.node_id, "192.0.2.1", 7600)


def manifest(owner: bytes) -> Manifest:
    return Manifest("digits", owner, bytes(16), (Artifact("training_model.onnx", ref_of(b"x")),), "digits", 10, 3)


@pytest.mark.parametrize("owner", [OWNER, FleetKey.generate()])
def test_the_owners_advert_is_genuine_wherever_the_holder_is(owner: DeviceKeys | FleetKey) -> None:
    advert = sign_advert(owner, manifest(owner.public), 1, AppState.RUNNING, HOLDER)
    assert verify_advert(unpack_advert(pack_advert(advert)))
    assert verify_advert(replace(advert, holder=replace(HOLDER, port=1)))


def test_a_changed_advert_is_not() -> None:
    advert = sign_advert(OWNER, manifest(OWNER.public), 1, AppState.RUNNING, HOLDER)
    assert not verify_advert(replace(advert, version=2))
    assert not verify_advert(replace(advert, state=AppState.STOPPED))
    assert not verify_advert(replace(advert, signature=bytes(64)))
    assert not verify_advert(replace(advert, manifest=b"\xa0"))
    other = sign_advert(OWNER, replace(manifest(OWNER.public), rounds=9), 1, AppState.RUNNING, HOLDER)
    assert not verify_advert(replace(advert, manifest=other.manifest))


def test_nobody_signs_for_another_owner() -> None:
    with pytest.raises(UsageError):
        sign_advert(DeviceKeys.generate(), manifest(OWNER.public), 1, AppState.RUNNING, HOLDER)
