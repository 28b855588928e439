"""What a device gives: real daemons that are paused, out of bytes, or too small for a model."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import Any

import pytest

from edgefl.daemon.budget import SETTING
from edgefl.daemon.create import create_application
from edgefl.daemon.daemon import Daemon
from edgefl.demo import digits
from edgefl.errors import EdgeflError
from edgefl.identity.signing import sign_advert
from edgefl.limits import Quota
from edgefl.telemetry.allowance import Allowance
from edgefl.wire import Role
from edgefl.wire.application import AppState
from tests.daemon.fleet import Daemons, with_daemons

OPTIONS: dict[str, Any] = {"name": "digits", "data": "digits", "rounds": 3, "deadline_s": 60.0, "min_members": 1}


def prepare(fleet: Daemons, devices: int) -> tuple[list[dict[str, str]], Path]:
    """Data for each device, and artifacts."""
    parts = digits.write_parts(digits.divide(devices, 0), fleet.directory)
    digits.build_artifacts("mlp", 0, fleet.directory / "artifacts")
    return parts, fleet.directory / "artifacts"


def look(daemon: Daemon) -> None:
    """As with the next sample of the load."""
    daemon.budget.look(daemon.load, daemon.effects.now)
    daemon.whereabouts.wake.set()


def reason(daemon: Daemon, app: int) -> str:
    return daemon.learning.ignored.get(app, "")


@with_daemons
async def test_a_device_whose_bytes_are_used_up_is_a_leaf_that_declines_and_says_so(fleet: Daemons) -> None:
    parts, artifacts = prepare(fleet, 2)
    first = await fleet.start("first", data=parts[0])
    poor = await fleet.start("poor", data=parts[1], limits={"transfer": "1 B/day"})
    look(poor)
    await fleet.until(lambda: poor.overlay.contact.role is Role.LEAF, "it is a leaf")
    limits = poor.status()["limits"]
    assert limits["transfer"]["spent"]
    assert limits["transfer"]["used_bytes"] > 1
    assert "used up" in limits["paused"]["why"]
    advert = await create_application(first, artifacts, {**OPTIONS, "min_members": 2, "quorum": 0.5})
    app = advert.decode_manifest().app_id
    poor.overlay.discover(poor.effects.now)
    await fleet.until(lambda: app in poor.learning.applications, "it takes part")
    mine = poor.learning.applications[app]
    await fleet.until(lambda: mine.ledger.finished, "the end")  # long before any round's deadline
    assert mine.counters["training_declined"] >= 1
    assert "training_failed" not in mine.counters
    assert [record.participants for record in mine.ledger.history.tail(3)] == [1, 1, 1]
    poor.budget.allowance = Allowance(Quota(10**9, "day"), None)  # as if it were another day, with more to spend
    look(poor)
    await fleet.until(lambda: poor.overlay.contact.role is Role.NODE, "it is a node again")
    assert poor.status()["limits"]["paused"] is None


@with_daemons
async def test_what_was_transferred_survives_a_stop(fleet: Daemons) -> None:
    await fleet.start("first")
    daemon = await fleet.start("second", limits={"transfer": "1 GB/month"})
    look(daemon)
    await fleet.stop()
    used = daemon.budget.allowance.used_bytes if daemon.budget.allowance is not None else 0
    fleet.running.clear()
    await fleet.start("first")
    again = await fleet.start("second", limits={"transfer": "1 GB/month"}, token="")
    assert again.budget.allowance is not None
    assert again.budget.allowance.used_bytes >= used > 0
    kept = again.store.read_setting(SETTING)
    assert Allowance(Quota(10**9, "month"), kept).used_bytes <= again.budget.allowance.used_bytes + 10**7


@with_daemons
async def test_a_model_that_is_larger_than_the_budget_is_refused_where_it_is_made_and_by_every_device(
    fleet: Daemons,
) -> None:
    parts, artifacts = prepare(fleet, 2)
    large = await fleet.start("large", data=parts[0])
    small = await fleet.start("small", data=parts[1], memory="50 kB")
    with pytest.raises(EdgeflError, match=r"parameters needs .* of memory") as caught:
        await create_application(small, artifacts, OPTIONS)
    assert caught.value.name == "manifest"
    assert "memory" in caught.value.hint
    assert small.learning.applications == {}
    advert = await create_application(large, artifacts, OPTIONS)
    app = advert.decode_manifest().app_id
    small.overlay.discover(small.effects.now)
    await fleet.until(lambda: reason(small, app), "the other device refuses it")
    assert "of memory" in reason(small, app)
    await fleet.until(lambda: large.learning.applications[app].ledger.finished, "the end")


BAD = [
    ({"strategy": "magic"}, "no strategy is called 'magic'"),
    ({"strategy": "fedadam:beta1=1"}, "beta1 of fedadam is 1"),
    ({"quorum": 0.0}, "quorum is 0.0"),
    ({"quorum": 1.5}, "quorum is 1.5"),
    ({"quorum": float("nan")}, "quorum is nan"),
    ({"rounds": 0}, "rounds is 0"),
    ({"deadline_s": 0.0}, "deadline_s is 0.0"),
    ({"local_epochs": 0}, "local_epochs is 0"),
    ({"batch": 0}, "batch is 0"),
    ({"learning_rate": float("inf")}, "learning_rate is inf"),
    ({"held_back": 0.95}, "held_back is 0.95"),
    ({"min_members": 0}, "min_members is 0"),
    ({"compress": "zip"}, "compress"),
]


@with_daemons
async def test_bad_manifests_are_refused_where_they_are_made_and_by_every_device(fleet: Daemons) -> None:
    """The second time they come from an owner whose program does not check: signed, and announced in the fleet."""
    parts, artifacts = prepare(fleet, 2)
    owner, other = await fleet.start("owner"), await fleet.start("other", data=parts[1])
    good = await create_application(owner, artifacts, OPTIONS)
    before = set(owner.learning.applications)
    for number, (changes, words) in enumerate(BAD):
        with pytest.raises(EdgeflError, match=words.replace("(", r"\(")) as caught:
            await create_application(owner, artifacts, {**OPTIONS, **changes})
        assert caught.value.name in ("manifest", "usage")
        assert caught.value.hint
        if not all(math.isfinite(value) for value in changes.values() if isinstance(value, float)):
            continue  # no number on the wire: such an advert cannot even be read
        manifest = dataclasses.replace(good.decode_manifest(), name=f"bad {number}", **changes)
        advert = sign_advert(owner.keys, manifest, 1, AppState.RUNNING, owner.overlay.contact)
        owner.overlay.publish(advert, owner.effects.now)
        other.overlay.discover(other.effects.now)
        app = manifest.app_id
        await fleet.until(lambda app=app: reason(other, app), f"the other device refuses {changes}")
        assert words in reason(other, app)
        assert app not in other.learning.applications
    assert set(owner.learning.applications) == before


def at(hour: int, minute: int) -> time.struct_time:
    return time.struct_time((2026, 11, 26, hour, minute, 0, 3, 330, 0))


@with_daemons
async def test_a_pause_is_logged_once_and_shown_with_who_waits(fleet: Daemons) -> None:
    parts, artifacts = prepare(fleet, 1)
    limits = {"hours": "01:00-02:00", "cpu": 0.5, "shares": {"digits": 3}}
    daemon = await fleet.start("first", data=parts[0], limits=limits)
    daemon.budget._clock = lambda: at(1, 30)
    look(daemon)
    assert daemon.status()["limits"] == {"paused": None, "training": None, "waiting": [], "cpu": 0.5, "transfer": None}
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("edgefl.budget").addHandler(handler)
    logging.getLogger("edgefl.budget").setLevel(logging.INFO)
    try:
        daemon.budget._clock = lambda: at(0, 59)
        for _ in range(3):
            look(daemon)
        # A minute to go, and ten for the round: it is worth waiting for.
        advert = await create_application(daemon, artifacts, {**OPTIONS, "deadline_s": 600.0})
        mine = daemon.learning.applications[advert.decode_manifest().app_id]
        await fleet.until(lambda: daemon.status()["limits"]["waiting"] == ["digits"], "its job waits")
        assert "01:00 to 02:00" in daemon.status()["limits"]["paused"]["why"]
        assert daemon.training._weight(mine.id) == 3.0
        daemon.budget._clock = lambda: at(1, 0)
        for _ in range(3):
            look(daemon)
        await fleet.until(lambda: mine.ledger.finished, "the end")
    finally:
        logging.getLogger("edgefl.budget").removeHandler(handler)
    assert [text.split(":")[0] for text in said] == ["training pauses", said[-1]]
    assert said[-1].startswith("training goes on")
    assert "training_declined" not in mine.counters
