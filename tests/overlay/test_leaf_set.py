"""The leaf set holds exactly the nearest on either side, whatever the order of comings and goings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.overlay_contacts import peer

from edgefl.overlay.ids import clockwise
from edgefl.overlay.leaf_set import LeafSet

OWN = 1 << 63
ids = st.integers(0, 2**64 - 1).filter(lambda node_id: node_id != OWN) | st.integers(OWN + 1, OWN + 9)


def nearest(known: set[int], side: int) -> tuple[list[int], list[int]]:
    after = sorted(known, key=lambda node_id: clockwise(OWN, node_id))[:side]
    before = sorted(known, key=lambda node_id: clockwise(node_id, OWN))[:side]
    return after, before


@given(st.lists(st.tuples(st.booleans(), ids), max_size=40), st.integers(1, 4))
def test_both_sides_are_the_nearest_known(steps: list[tuple[bool, int]], side: int) -> None:
    leaves = LeafSet(OWN, side)
    peers = {node_id: peer(node_id) for _, node_id in steps}
    known: set[int] = set()
    for comes, node_id in steps:
        if comes:
            would_be_after, would_be_before = nearest(known | {node_id}, side)
            assert leaves.wants(node_id) == (node_id not in known and node_id in would_be_after + would_be_before)
            known.add(node_id)
            leaves.offer(peers[node_id])
        else:
            known.discard(node_id)
            leaves.remove(node_id, [peers[other] for other in sorted(known)])
        after, before = nearest(known, side)
        assert {p.node_id for p in leaves.peers()} == {*after, *before}
        assert [p.node_id for p in leaves.neighbours()] == list(dict.fromkeys(after[:1] + before[:1]))
        assert len(leaves) <= 2 * side
        successor = leaves.successor()
        assert (successor.node_id if successor else None) == (after[0] if after else None)


def test_the_version_tells_of_every_change_and_of_nothing_else() -> None:
    leaves = LeafSet(OWN, 1)
    assert leaves.version == 0
    assert leaves.offer(peer(OWN + 5))
    version = leaves.version
    assert not leaves.offer(peer(OWN + 5))
    assert not leaves.remove(OWN + 77, [])
    assert leaves.version == version
    assert leaves.offer(peer(OWN + 4))
    assert leaves.version > version


def test_we_are_not_our_own_neighbour() -> None:
    assert not LeafSet(OWN, 4).wants(OWN)
