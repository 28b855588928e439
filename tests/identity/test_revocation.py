"""The list of revocations: signed by the fleet, growing, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.errors import NotAdmittedError, UsageError, WireError
from edgefl.identity.fleet import FleetKey
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.revocation import (
    MAX_REVOKED_NODES,
    MAX_REVOKED_SERIALS,
    pack_revocations,
    unpack_revocations,
)
from edgefl.wire.link import MAX_REVOCATIONS_BYTES

FLEET = FleetKey.generate()
LIST = FLEET.revoke(None, nodes=[7, 5], serials=[bytes(16)])


def test_lists_grow_and_their_version_with_them() -> None:
    assert (LIST.version, LIST.nodes, LIST.serials) == (1, (5, 7), (bytes(16),))
    following = FLEET.revoke(LIST, nodes=[6])
    assert (following.version, following.nodes, following.serials) == (2, (5, 6, 7), (bytes(16),))
    assert unpack_revocations(pack_revocations(following), fleet=FLEET.public) == following


def test_a_full_list_fits_one_message_and_more_is_refused() -> None:
    full = FLEET.revoke(
        None,
        nodes=range((1 << 64) - MAX_REVOKED_NODES, 1 << 64),
        serials=[n.to_bytes(16, "big") for n in range(MAX_REVOKED_SERIALS)],
    )
    assert len(pack_revocations(full)) < MAX_REVOCATIONS_BYTES
    with pytest.raises(UsageError, match="full"):
        FLEET.revoke(full, nodes=[1])


def test_another_fleets_list_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        unpack_revocations(pack_revocations(LIST), fleet=FleetKey.generate().public)
    assert caught.value.reason is Reason.WRONG_FLEET
    with pytest.raises(UsageError):
        FleetKey.generate().revoke(LIST, nodes=[1])


@settings(max_examples=40)
@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_changed_byte_is_refused(at: int, flip: int) -> None:
    data = bytearray(pack_revocations(LIST))
    data[at % len(data)] ^= flip
    with pytest.raises((NotAdmittedError, WireError)):
        unpack_revocations(bytes(data), fleet=FLEET.public)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_named_error(data: bytes) -> None:
    with pytest.raises((NotAdmittedError, WireError)):
        unpack_revocations(data, fleet=FLEET.public)
