"""The state directory: what was promised is there after any kill, and a bad disk gives an error with a next step."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgefl.errors import ConfigError, StorageError
from edgefl.learning.effects import Progress
from edgefl.store import MAX_CONTACTS, Store
from edgefl.wire import Contact
from edgefl.wire.blob import ref_of
from edgefl.wire.learning import Best, Metric, RoundRecord

APP = 2**63 + 5


def make_progress(round_: int, *, epoch: int = 65536, finished: bool = False) -> tuple[Progress, bytes]:
    data = round_.to_bytes(8, "big") * 100
    records = tuple(RoundRecord(n, epoch, 3, 100, 1.5, (Metric("loss", 1.0, 2.0),)) for n in range(round_ + 1))
    return Progress(epoch, round_, ref_of(data), finished, records), data


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def reopen(store: Store) -> Store:
    store.close()
    return Store(store.directory)


def test_a_new_directory_is_private_and_empty(store: Store) -> None:
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert store.applications() == []
    assert store.contacts() == []
    assert store.read_setting("site") is None


def test_settings_and_incarnations_survive(store: Store) -> None:
    store.write_setting("site", b"attic")
    assert [store.next_incarnation() for _ in range(3)] == [1, 2, 3]
    store = reopen(store)
    assert store.read_setting("site") == b"attic"
    assert store.next_incarnation() == 4


def test_contacts_are_replaced_and_bounded(store: Store) -> None:
    store.save_contacts([Contact(1, "10.0.0.1", 5)])
    many = [Contact(n, "10.0.0.1", 5) for n in range(2, 2 * MAX_CONTACTS)]
    store.save_contacts(many)
    assert {contact.node_id for contact in store.contacts()} == {c.node_id for c in many[:MAX_CONTACTS]}
    assert store.lost_contacts() == []
    store.save_contacts(many[:2], many[2:])
    assert {contact.node_id for contact in store.contacts()} == {c.node_id for c in many[:2]}
    assert {contact.node_id for contact in store.lost_contacts()} == {c.node_id for c in many[2 : MAX_CONTACTS + 2]}


def test_an_application_with_its_progress_comes_back(store: Store) -> None:
    store.save_application(APP, b"advert", observer=False, owner=True)
    progress, data = make_progress(4)
    store.save_progress(APP, progress, data)
    store = reopen(store)
    (found,) = store.applications()
    assert (found.app_id, found.advert, found.observer, found.owner) == (APP, b"advert", False, True)
    assert found.progress == progress
    view = store.read_blob(progress.model)
    assert view is not None
    assert bytes(view) == data
    store.close()


def test_only_the_newest_model_stays_on_disk(store: Store) -> None:
    for round_ in range(5):
        store.save_progress(APP, *make_progress(round_))
    assert len(list((store.directory / "blobs").iterdir())) == 1


def test_a_model_that_two_applications_share_stays_until_both_are_done(store: Store) -> None:
    progress, data = make_progress(1)
    store.save_progress(1, progress, data)
    store.save_progress(2, progress, data)
    store.forget_application(1)
    assert store.read_blob(progress.model) is not None
    store.forget_application(2)
    assert store.read_blob(progress.model) is None


def test_forgetting_an_application_leaves_nothing(store: Store) -> None:
    store.save_application(APP, b"advert", observer=False, owner=False)
    store.save_artifact(APP, ref_of(b"onnx"), b"onnx")
    store.save_progress(APP, *make_progress(2))
    store.forget_application(APP)
    assert store.applications() == []
    assert list((store.directory / "blobs").iterdir()) == []


def test_a_rotten_model_file_is_missing_not_garbage(store: Store) -> None:
    progress, data = make_progress(3)
    store.save_application(APP, b"advert", observer=False, owner=False)
    store.save_progress(APP, progress, data)
    path = store.directory / "blobs" / progress.model.id.hex()
    path.write_bytes(data[:-1] + b"\xff")
    assert store.read_blob(progress.model) is None
    assert reopen(store).applications()[0].progress is None
    path.write_bytes(data[:-1])
    assert store.read_blob(progress.model) is None


def test_a_rotten_file_is_written_again(store: Store) -> None:
    progress, data = make_progress(3)
    store.save_progress(APP, progress, data)
    (store.directory / "blobs" / progress.model.id.hex()).write_bytes(b"rot")
    store.save_progress(APP, progress, data)
    assert store.read_blob(progress.model) is not None


def with_extras(round_: int) -> tuple[Progress, list[bytes]]:
    """A model with two vectors of a strategy's state, and the best model so far."""
    progress, model = make_progress(round_)
    contents = [model, b"velocity" + model, b"square" + model, b"best"]
    state = (ref_of(contents[1]), ref_of(contents[2]))
    return replace(progress, state=state, best=Best(2, 0.75, ref_of(b"best"))), contents


def test_what_belongs_to_a_model_comes_back_with_it(store: Store) -> None:
    store.save_application(APP, b"advert", observer=False, owner=True)
    for round_ in (3, 4):
        progress, contents = with_extras(round_)
        store.save_progress(APP, progress, *contents)
    assert len(list((store.directory / "blobs").iterdir())) == 4
    store = reopen(store)
    (found,) = store.applications()
    assert found.progress == progress
    for blob, content in zip(progress.blobs(), contents, strict=True):
        view = store.read_blob(blob)
        assert view is not None
        assert bytes(view) == content
    store.save_progress(APP, *make_progress(5))
    assert len(list((store.directory / "blobs").iterdir())) == 1
    assert store.applications()[0].progress == make_progress(5)[0]
    store.close()


@pytest.mark.parametrize("rotten", [1, 2, 3])
def test_a_rotten_state_is_none_and_the_model_stays(store: Store, rotten: int) -> None:
    progress, contents = with_extras(3)
    store.save_progress(APP, progress, *contents)
    (store.directory / "blobs" / progress.blobs()[rotten].id.hex()).write_bytes(b"rot")
    found = store.progress(APP.to_bytes(8, "big"))
    assert found == replace(progress, **({"best": None} if rotten == 3 else {"state": ()}))


def test_what_an_older_edgefl_saved_over_it_has_no_state_of_another_model(store: Store) -> None:
    progress, contents = with_extras(3)
    store.save_progress(APP, progress, *contents)
    later, data = make_progress(4)
    store.files.write(later.model, data)  # as before there was a table `extras`
    with store._commit() as db:
        db.execute("update progress set model = ?, size = ?, round = 4", (later.model.id, later.model.size))
    found = store.progress(APP.to_bytes(8, "big"))
    assert found is not None
    assert (found.model, found.state, found.best) == (later.model, (), None)


def test_empty_files_are_files_too(store: Store) -> None:
    store.save_artifact(APP, ref_of(b""), b"")
    assert store.read_blob(ref_of(b"")) == b""


def test_what_updates_left_out_survives_and_is_never_garbage(store: Store) -> None:
    assert store.read_memory(7, "feedback") is None
    store.save_memory(7, "feedback", b"first")
    store.save_memory(7, "feedback", memoryview(b"second"))
    store.save_memory(8, "feedback", b"another")
    store = reopen(store)
    assert (store.read_memory(7, "feedback"), store.read_memory(8, "feedback")) == (b"second", b"another")
    file = store.directory / "feedback" / f"{7:016x}"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert store.read_memory(7, "feedback") is None
    file.write_bytes(b"short")
    assert store.read_memory(7, "feedback") is None
    store.forget_application(8)
    assert store.read_memory(8, "feedback") is None


def test_what_a_crash_left_behind_is_swept_at_start(store: Store) -> None:
    (store.directory / "blobs" / "ab.new").write_bytes(b"half a model")
    (store.directory / "blobs" / ("ab" * 32)).write_bytes(b"a model that no record names")
    store = reopen(store)
    assert list((store.directory / "blobs").iterdir()) == []


def test_two_daemons_cannot_share_a_directory(store: Store) -> None:
    with pytest.raises(ConfigError, match="another edgefl daemon") as caught:
        Store(store.directory)
    assert "--state" in caught.value.hint


def test_a_directory_of_a_later_version_is_left_alone(store: Store) -> None:
    store._db.execute("pragma user_version=99")
    store.close()
    with pytest.raises(ConfigError, match="later edgefl"):
        Store(store.directory)


def test_a_damaged_database_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "edgefl.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match="not a database") as caught:
        Store(tmp_path)
    assert "edgefl.db" in caught.value.hint


def test_a_full_database_is_an_error_with_a_next_step_and_changes_nothing(store: Store) -> None:
    progress, data = make_progress(1)
    store.save_progress(APP, progress, data)
    pages = store._db.execute("pragma page_count").fetchone()[0]
    store._db.execute(f"pragma max_page_count={pages}")
    with pytest.raises(StorageError, match="full") as caught:
        store.write_setting("big", bytes(100_000))
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == 75
    store._db.execute("pragma max_page_count=1000000")
    assert store.progress(APP.to_bytes(8, "big")) == progress
    store.write_setting("big", bytes(100_000))


def test_a_full_disk_while_a_model_is_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, data = make_progress(1)
    store.save_progress(APP, progress, data)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            store.save_progress(APP, *make_progress(2))
    assert "free some space" in caught.value.hint
    assert store.progress(APP.to_bytes(8, "big")) == progress
    store.save_progress(APP, *make_progress(2))
    assert len(list((store.directory / "blobs").iterdir())) == 1


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_store_writer import make_progress
from edgefl.store import Store
store = Store(Path(sys.argv[1]))
start = store.progress((7).to_bytes(8, "big"))
number = start.round + 1 if start else 0
while True:
    store.save_progress(7, *make_progress(number))
    print(number, flush=True)
    number += 1
"""


def test_kill_9_at_random_instants_never_loses_what_was_promised(tmp_path: Path) -> None:
    # The child is a process of its own, so that the kernel really takes it away in the middle of a write.
    (tmp_path / "test_store_writer.py").write_text(Path(__file__).read_text())
    chance = random.Random(1)
    promised = -1
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "state"), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(chance.randint(1, 12)):
            promised = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines():
            promised = int(line)
        child.wait()
        child.stdout.close()
        store = Store(tmp_path / "state")
        found = store.progress((7).to_bytes(8, "big"))
        assert found is not None
        assert found.round in (promised, promised + 1)
        assert found == make_progress(found.round)[0]
        assert len(list((store.directory / "blobs").iterdir())) == 1
        store.close()
