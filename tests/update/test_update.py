"""An update from a file to a system that stays, or that leads back: with systemd-boot, and with a Raspberry Pi."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.power_cut import until_cut

from edgefl.identity.fleet import FleetKey
from edgefl.update import steps
from edgefl.update.bundle import UpdateError
from edgefl.update.gate import Seen
from edgefl.update.install import Device, fetch
from edgefl.update.slots import Running
from edgefl.update.sources import opened
from edgefl.update.trial import MAX_ATTEMPTS
from tests.update import fake

GOOD = Seen(running=True, active=True, starts=0, peers=2)
DEAD = Seen(running=False, active=False, starts=0, peers=0)

both = pytest.mark.parametrize("pi", [False, True], ids=["uefi", "pi"])


def drop(home: Path, content: bytes) -> Path:
    path = home / "new.update"
    path.write_bytes(content)
    return path


def take(device: Device, *sources: Path | str) -> Running | None:
    return steps.take(device, fake.KEY.public, sources, sleep=lambda _: None)


def judge(device: Device, seen: Seen) -> str:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    return steps.judge(device, lambda: seen, alone=False, clock=lambda: now, sleep=sleep)


@both
def test_a_healthy_update_stays(pi: bool, tmp_path: Path) -> None:
    device = fake.device(tmp_path, pi=pi)
    file = drop(tmp_path, fake.bundle(5))
    assert take(device, file) == Running("b", 5, "pc")
    assert not file.exists()
    tried, line = fake.start(tmp_path)
    assert tried.running == Running("b", 5, "pc")
    assert f"root=PARTUUID={device.loader.roots['b']} " in line
    assert "ro quiet" in line
    assert "systemd.machine_id=cafe" in line
    assert (tmp_path / "partitions" / device.loader.roots["b"]).read_bytes().startswith(b"root" * 1000)
    assert judge(tried, GOOD) == steps.KEPT
    for _ in range(3):
        again, _ = fake.start(tmp_path)
        assert again.running.slot == "b"
        assert judge(again, DEAD) == steps.KEPT  # no longer on trial: an ill service is no reason to go back


@both
def test_an_ill_update_leads_back_and_is_not_tried_again(pi: bool, tmp_path: Path) -> None:
    device = fake.device(tmp_path, pi=pi)
    take(device, drop(tmp_path, fake.bundle(5)))
    tried, _ = fake.start(tmp_path)
    assert judge(tried, DEAD) == steps.GO
    back, _ = fake.start(tmp_path)
    assert back.running == Running("a", 0, "pc")
    assert judge(back, GOOD) == steps.KEPT
    assert "serial 5 was ill (the service did not start)" in back.records.words()
    assert take(back, drop(tmp_path, fake.bundle(5))) is None
    assert take(back, drop(tmp_path, fake.bundle(6))) == Running("b", 6, "pc")


@both
def test_a_system_that_dies_unjudged_is_tried_a_few_times(pi: bool, tmp_path: Path) -> None:
    take(fake.device(tmp_path, pi=pi), drop(tmp_path, fake.bundle(5)))
    starts = []
    for _ in range(2 * MAX_ATTEMPTS):
        runs, _ = fake.start(tmp_path)
        starts.append(runs.running.slot)
        if runs.running.slot == "a":
            found = judge(runs, GOOD)
    assert starts == ["b", "a"] * MAX_ATTEMPTS
    assert found == steps.BACK
    assert "did not come up in 3 starts" in runs.records.words()
    assert fake.start(tmp_path)[0].running.slot == "a"


@both
def test_the_next_update_goes_into_the_first_place(pi: bool, tmp_path: Path) -> None:
    take(fake.device(tmp_path, pi=pi), drop(tmp_path, fake.bundle(5)))
    judge(fake.start(tmp_path)[0], GOOD)
    runs, _ = fake.start(tmp_path)
    assert take(runs, drop(tmp_path, fake.bundle(6, root=b"other"))) == Running("a", 6, "pc")
    assert judge(fake.start(tmp_path)[0], GOOD) == steps.KEPT
    assert fake.start(tmp_path)[0].running == Running("a", 6, "pc")


@both
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (fake.bundle(5, key=FleetKey(bytes(31) + b"1")), "not signed by this fleet's owner"),
        (fake.bundle(5, target="rpi"), "for rpi"),
        (fake.damaged(fake.bundle(5), -1), "damaged"),
        (fake.bundle(5)[:-10], "too early"),
        (fake.bundle(5, root=bytes(fake.PLACE_BYTES + 1)), "larger than its place"),
        (fake.bundle(5, name="../../escaped"), "where none belong"),
        (b"no bundle at all", "too early"),
        (b"no bundle at all" * 10, "no update"),
    ],
    ids=["owner", "target", "damaged", "cut", "large", "path", "short", "other"],
)
def test_what_is_no_update_for_this_device_changes_nothing(
    pi: bool, content: bytes, words: str, tmp_path: Path
) -> None:
    device = fake.device(tmp_path, pi=pi)
    assert take(device, drop(tmp_path, content)) is None
    assert words in device.records.words()
    assert fake.start(tmp_path)[0].running == Running("a", 0, "pc")
    assert not list(tmp_path.rglob("escaped"))
    assert sorted(path.name for path in device.room.iterdir()) == ["words"]


@both
def test_a_card_that_cannot_be_written_is_told(pi: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = fake.device(tmp_path, pi=pi)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgefl.update.install.write_synced", full)
    assert take(device, drop(tmp_path, fake.bundle(5))) is None
    assert "No space left on device" in device.records.words()
    assert fake.start(tmp_path)[0].running.slot == "a"
    monkeypatch.undo()
    assert take(device, drop(tmp_path, fake.bundle(5))) is not None


def test_an_old_update_is_left_alone(tmp_path: Path) -> None:
    device = fake.of(tmp_path, Running("a", 5, "pc")) if fake.device(tmp_path, pi=False) else None
    assert device is not None
    for serial in (4, 5):
        with opened(drop(tmp_path, fake.bundle(serial))) as stream:
            assert fetch(stream, device, fake.KEY.public) is None


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UpdateError, match="no web address"), opened("file:///etc/passwd"):
        pass


CALLS = ("open", "write", "pwrite", "fsync", "replace", "unlink", "rename", "mkdir", "ftruncate")
"""The ways in which an update changes a disk."""


@both
def test_the_power_goes_after_every_write_of_an_update(pi: bool, tmp_path: Path) -> None:
    content, cut, cut_off = fake.bundle(5), 0, True
    while cut_off:
        cut += 1
        home = tmp_path / str(cut)
        device = fake.device(home, pi=pi)
        file = drop(home, content)
        cut_off = until_cut(lambda device=device, file=file: take(device, file), CALLS, cut)
        runs, _ = fake.start(home)
        whole = (home / "partitions" / device.loader.roots["b"]).read_bytes().startswith(b"root" * 1000)
        assert runs.running.slot == "a" or whole, f"cut {cut}: half a system was started"
        # Whatever was left, it ends with a system that runs and is judged.
        for _ in range(2 * MAX_ATTEMPTS):
            if judge(runs, GOOD) == steps.KEPT:
                break
            runs, _ = fake.start(home)
        assert runs.records.trying() is None, f"cut {cut}"
        if runs.running.slot == "a":
            assert take(runs, drop(home, content)) is not None, f"cut {cut}: the update cannot be taken any more"
    assert cut > 10


@both
def test_the_power_goes_after_every_write_of_a_verdict(pi: bool, tmp_path: Path) -> None:
    for seen, kept in ((GOOD, "b"), (DEAD, "a")):
        cut, cut_off = 0, True
        while cut_off:
            cut += 1
            home = tmp_path / kept / str(cut)
            take(fake.device(home, pi=pi), drop(home, fake.bundle(5)))
            tried, _ = fake.start(home)
            cut_off = until_cut(lambda tried=tried, seen=seen: judge(tried, seen), CALLS, cut)
            for _ in range(3 * MAX_ATTEMPTS):
                runs, _ = fake.start(home)
                if judge(runs, seen) == steps.KEPT and runs.records.trying() is None:
                    break
            assert fake.start(home)[0].running.slot == kept, f"{kept}, cut {cut}"
        assert cut > 2
