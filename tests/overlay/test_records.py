"""What a tracker remembers: a member's own word before a copy, and every table within its bounds."""

from __future__ import annotations

from dataclasses import replace

from support.overlay_contacts import contact
from support.solo import Solo

from edgefl.overlay.device import Device
from edgefl.overlay.profile import WAN
from edgefl.overlay.records import COPY, MAX_APPS, MAX_APPS_PER_MEMBER, MAX_COPIED_APPS, Records, Tracked
from edgefl.wire.overlay import MAX_TRACKER_ENTRIES, Scope

APP, MEMBER = 0xA99, contact(7)


def records_with(*apps: int) -> tuple[Records, Tracked]:
    """Records that serve these applications, and the first of those."""
    records = Records(Device(contact(1), Solo(), WAN))
    tracked = [records.serve(app, Scope.GLOBAL, 0.0) for app in apps or (APP,)]
    assert tracked[0] is not None
    return records, tracked[0]


def test_a_lease_that_is_not_renewed_ends() -> None:
    records, tracked = records_with()
    assert records.keep(APP, tracked, MEMBER, 0.0)
    records.expire(tracked, WAN.lease_s - 1)
    assert records.members(APP) == [MEMBER]
    assert records.knows(MEMBER.node_id)
    records.expire(tracked, WAN.lease_s)
    assert records.members(APP) == []
    assert not records.knows(MEMBER.node_id)


def test_a_copy_takes_out_nobody_who_has_renewed_lately() -> None:
    records, tracked = records_with()
    records.keep(APP, tracked, MEMBER, 0.0)
    records.merge(APP, tracked, MEMBER, 0, WAN.recently_heard_s - 1)
    assert records.members(APP) == [MEMBER]
    records.merge(APP, tracked, MEMBER, 0, WAN.recently_heard_s)
    assert records.members(APP) == []


def test_a_copy_lengthens_a_lease_and_never_shortens_it() -> None:
    records, tracked = records_with()
    records.keep(APP, tracked, MEMBER, 0.0)
    for lease_s, now, ends in ((10, 0.0, WAN.lease_s), (200, 200.0, 400.0), (10**9, 200.0, 200.0 + WAN.lease_s)):
        records.merge(APP, tracked, MEMBER, lease_s, now)
        assert tracked.entries[MEMBER.node_id].expires_at == ends


def test_what_a_member_was_before_its_last_start_does_not_count() -> None:
    records, tracked = records_with()
    restarted = replace(MEMBER, incarnation=MEMBER.incarnation + 1, port=4242)
    records.keep(APP, tracked, restarted, 0.0)
    assert records.keep(APP, tracked, MEMBER, 1.0)
    records.merge(APP, tracked, MEMBER, 100, 1.0)
    assert records.members(APP) == [restarted]


def test_changes_wait_to_be_copied_and_renewals_are_none() -> None:
    solo = Solo()
    records = Records(Device(contact(1), solo, WAN))
    tracked = records.serve(APP, Scope.GLOBAL, 0.0)
    assert tracked is not None
    records.keep(APP, tracked, MEMBER, 0.0)
    assert solo.timers()[COPY] == WAN.copy_batch_s
    tracked.changed.clear()
    records.keep(APP, tracked, MEMBER, 5.0)
    assert not tracked.changed
    records.drop(tracked, MEMBER.node_id, 6.0)
    assert list(tracked.changed.values()) == [MEMBER]
    assert solo.timers()[COPY] == 6.0 + WAN.copy_batch_s


def test_an_application_is_forgotten_when_nobody_has_to_hear_of_it_any_more() -> None:
    records, tracked = records_with()
    records.keep(APP, tracked, MEMBER, 0.0)
    records.drop(tracked, MEMBER.node_id, 1.0)
    records.forget_if_empty(APP)
    assert APP in records.apps
    tracked.changed.clear()
    records.forget_if_empty(APP)
    assert APP not in records.apps


def test_tables_are_bounded_whoever_writes() -> None:
    records, tracked = records_with()
    for n in range(MAX_TRACKER_ENTRIES + 10):
        records.keep(APP, tracked, contact(100 + n), 0.0)
    assert len(records.members(APP)) == MAX_TRACKER_ENTRIES
    copied = [records.copied(1000 + n, Scope.GLOBAL, 5) for n in range(MAX_COPIED_APPS + 10)]
    assert copied.count(None) == 10
    served = [records.serve(5000 + n, Scope.GLOBAL, 0.0) for n in range(MAX_APPS + 10)]
    assert served.count(None) == 11  # copies gave way, the first application did not
    assert len(records.apps) == MAX_APPS
    kept = [records.keep(app, one, MEMBER, 0.0) for app, one in records.apps.items()]
    assert kept.count(True) == MAX_APPS_PER_MEMBER
