"""The state directory of one daemon: SQLite for records, content-addressed files for models (files.py).

A daemon killed at any instant finds on restart either the state before or after a change, never between:

    records   SQLite in WAL mode, synchronous=FULL: one sync per commit, and commits only where something is promised
    models    written to a temporary name, synced, renamed; referenced by a record only afterwards; files that no record
              references are swept at start

Few writes, because SD cards wear: contacts are written when they change and at most once a minute, a round's model only
on the root and its runners-up. All methods block on the disk: call them on the daemon's disk worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from edgefl.declared import dataclass
from edgefl.durable import write_atomically
from edgefl.errors import ConfigError, EdgeflError
from edgefl.learning.effects import Progress
from edgefl.store.disk_errors import disk_errors
from edgefl.store.files import BlobFiles, map_file
from edgefl.wire import Contact
from edgefl.wire.application import Artifact
from edgefl.wire.blob import HASH_BYTES, BlobRef, ref_of
from edgefl.wire.codec import decode_record, encode_record
from edgefl.wire.contact import pack_contact, unpack_contact
from edgefl.wire.learning import Best, RoundRecord

SCHEMA_VERSION = 1

STATE, BEST = "state", "best"
"""What may be saved beside a model: vectors that the strategy remembers, and the best model so far."""

FEEDBACK = "feedback"
MEMORIES = (FEEDBACK, "kept")
"""What an application may remember on this device alone."""

MAX_CONTACTS = 64
"""Contacts to come back through after a restart."""

SCHEMA = """
create table if not exists settings (key text primary key, value blob not null) without rowid;
create table if not exists contacts (node_id blob primary key, contact blob not null) without rowid;
create table if not exists lost (node_id blob primary key, contact blob not null) without rowid;
create table if not exists applications (
    app_id blob primary key, advert blob not null, observer integer not null, owner integer not null) without rowid;
create table if not exists progress (
    app_id blob primary key, epoch blob not null, round integer not null, model blob not null, size integer not null,
    finished integer not null) without rowid;
create table if not exists records (
    app_id blob not null, round integer not null, record blob not null, primary key (app_id, round)) without rowid;
create table if not exists extras (
    app_id blob not null, kind text not null, number integer not null, blob_id blob not null, size integer not null,
    value real not null, model blob not null, primary key (app_id, kind, number)) without rowid;
create table if not exists files (
    blob_id blob not null, size integer not null, owner text not null, primary key (blob_id, owner)) without rowid;
"""


@dataclass(frozen=True, slots=True)
class StoredApplication:
    """An application that this device took part in when it last ran. `advert` is encoded, as it was received."""

    app_id: int
    advert: bytes
    observer: bool
    owner: bool
    progress: Progress | None


class Store:
    """The state directory of one daemon. Raises StorageError when the disk refuses, ConfigError when the directory is
    another program's or in use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._feedback = directory / "feedback"
        self._records: dict[int, dict[int, RoundRecord]] = {}
        with disk_errors(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._take_lock()
            self.files = BlobFiles(directory)
            self._db = sqlite3.connect(
                directory / "edgefl.db", isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            version = self._db.execute("pragma user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise ConfigError(
                    f"{directory} was written by a later edgefl (schema {version}, this one knows {SCHEMA_VERSION})",
                    hint="upgrade edgefl, or choose another state directory",
                )
            self._db.executescript(SCHEMA)
            self._db.execute(f"pragma user_version={SCHEMA_VERSION}")
            self._sweep()

    def _take_lock(self) -> IO[bytes]:
        """Held until the process ends, however it ends: two daemons must not share an identity."""
        lock = (self.directory / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConfigError(
                f"another edgefl daemon uses {self.directory}",
                hint="stop it first, or give this one another directory with --state",
            ) from None
        return lock

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    @contextlib.contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all or nothing, on disk when it returns."""
        with disk_errors(self.directory):
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    def read_setting(self, key: str) -> bytes | None:
        """A setting, or None."""
        with disk_errors(self.directory):
            row = self._db.execute("select value from settings where key = ?", (key,)).fetchone()
        return bytes(row[0]) if row else None

    def write_setting(self, key: str, value: bytes) -> None:
        with self._commit() as db:
            db.execute("insert or replace into settings values (?, ?)", (key, value))

    def next_incarnation(self) -> int:
        """A number above all that this device has used; durable before it is returned."""
        number = int.from_bytes(self.read_setting("incarnation") or b"", "big") + 1
        self.write_setting("incarnation", number.to_bytes(4, "big"))
        return number

    def save_contacts(self, contacts: Iterable[Contact], lost: Iterable[Contact] = ()) -> None:
        """Replace the remembered contacts by the first MAX_CONTACTS of these, and those that are lost likewise."""
        with self._commit() as db:
            db.execute("delete from contacts")
            db.executemany("insert into contacts values (?, ?)", _contact_rows(contacts))
            db.execute("delete from lost")
            db.executemany("insert into lost values (?, ?)", _contact_rows(lost))

    def contacts(self) -> list[Contact]:
        """Who stood in our tables."""
        return self._read_contacts("select contact from contacts")

    def lost_contacts(self) -> list[Contact]:
        """Who had fallen silent, and may only be cut off."""
        return self._read_contacts("select contact from lost")

    def _read_contacts(self, query: str) -> list[Contact]:
        with disk_errors(self.directory):
            rows = self._db.execute(query).fetchall()
        found = []
        for (packed,) in rows:
            with contextlib.suppress(EdgeflError):
                found.append(unpack_contact(bytes(packed)))
        return found

    def save_application(self, app_id: int, advert: bytes, *, observer: bool, owner: bool) -> None:
        with self._commit() as db:
            db.execute(
                "insert or replace into applications values (?, ?, ?, ?)", (_id(app_id), advert, observer, owner)
            )

    def forget_application(self, app_id: int) -> None:
        """Remove an application with its progress, history and files."""
        with self._commit() as db:
            for table in ("applications", "progress", "records", "extras"):
                db.execute(f"delete from {table} where app_id = ?", (_id(app_id),))  # noqa: S608  (constant names)
            db.execute("delete from files where owner in (?, ?)", (_artifacts(app_id), _model(app_id)))
        self._records.pop(app_id, None)
        import shutil  # not above: it brings every kind of archive

        shutil.rmtree(self.artifact_path(app_id), ignore_errors=True)
        for name in MEMORIES:
            self._memory_path(app_id, name).unlink(missing_ok=True)
        self._sweep()

    def applications(self) -> list[StoredApplication]:
        with disk_errors(self.directory):
            rows = self._db.execute("select app_id, advert, observer, owner from applications").fetchall()
        return [
            StoredApplication(
                int.from_bytes(app, "big"), bytes(advert), bool(observer), bool(owner), self.progress(app)
            )
            for app, advert, observer, owner in rows
        ]

    def progress(self, app: bytes) -> Progress | None:
        """Saved progress, or None when there is none or its model cannot be read any more."""
        with disk_errors(self.directory):
            row = self._db.execute(
                "select epoch, round, model, size, finished from progress where app_id = ?", (app,)
            ).fetchone()
            rows = self._db.execute("select record from records where app_id = ? order by round", (app,)).fetchall()
        if row is None:
            return None
        model = BlobRef(bytes(row[2]), row[3])
        if self.read_blob(model) is None:
            return None
        records = tuple(decode_record(RoundRecord, bytes(record)) for (record,) in rows)
        self._records[int.from_bytes(app, "big")] = {record.round: record for record in records}
        state, best = self._extras(app, model)
        return Progress(int.from_bytes(row[0], "big"), row[1], model, bool(row[4]), records, state, best)

    def _extras(self, app: bytes, model: BlobRef) -> tuple[tuple[BlobRef, ...], Best | None]:
        """The strategy's state and the best model that were saved with this model, as far as they are whole. (An older
        edgefl on the same directory saves models without them: what belongs to another model is not for us.)"""
        with disk_errors(self.directory):
            rows = self._db.execute(
                "select kind, number, blob_id, size, value from extras where app_id = ? and model = ? "
                "order by kind, number",
                (app, model.id),
            ).fetchall()
        found = [(kind, number, BlobRef(bytes(blob), size), value) for kind, number, blob, size, value in rows]
        state = tuple(ref for kind, _, ref, _ in found if kind == STATE)
        if not all(self.has_blob(ref) for ref in state):
            state = ()
        best = [Best(number, value, ref) for kind, number, ref, value in found if kind == BEST and self.has_blob(ref)]
        return state, best[0] if best else None

    def save_progress(self, app_id: int, progress: Progress, *contents: memoryview | bytes) -> None:
        """Make a round durable: first its blobs (`contents`, one for each of `progress.blobs()`), then the records that
        name them, then drop those before."""
        owner = _model(app_id)
        for blob, data in zip(progress.blobs(), contents, strict=True):
            self.files.write(blob, data)
        extras = [(STATE, number, blob, 0.0) for number, blob in enumerate(progress.state)]
        if progress.best is not None:
            extras.append((BEST, progress.best.round, progress.best.model, progress.best.value))
        known = self._records.setdefault(app_id, {})
        news = [record for record in progress.records if known.get(record.round) != record]
        with self._commit() as db:
            db.execute("delete from files where owner = ?", (owner,))
            db.executemany(
                "insert into files values (?, ?, ?)", [(blob.id, blob.size, owner) for blob in progress.blobs()]
            )
            db.execute("delete from extras where app_id = ?", (_id(app_id),))
            db.executemany(
                "insert into extras values (?, ?, ?, ?, ?, ?, ?)",
                [
                    (_id(app_id), kind, number, blob.id, blob.size, value, progress.model.id)
                    for kind, number, blob, value in extras
                ],
            )
            db.execute(
                "insert or replace into progress values (?, ?, ?, ?, ?, ?)",
                (
                    _id(app_id),
                    _id(progress.epoch),
                    progress.round,
                    progress.model.id,
                    progress.model.size,
                    progress.finished,
                ),
            )
            db.executemany(
                "insert or replace into records values (?, ?, ?)",
                [(_id(app_id), record.round, encode_record(record)) for record in news],
            )
        known.update((record.round, record) for record in news)
        self._sweep()

    def save_artifact(self, app_id: int, ref: BlobRef, data: memoryview | bytes) -> None:
        """Keep one file of an application's artifacts."""
        self.files.write(ref, data)
        with self._commit() as db:
            db.execute("insert or replace into files values (?, ?, ?)", (ref.id, ref.size, _artifacts(app_id)))

    def has_blob(self, ref: BlobRef) -> bool:
        """Whether the blob is stored and whole."""
        return self.read_blob(ref) is not None

    def artifact_path(self, app_id: int) -> Path:
        """Where an application's artifacts are (artifact_directory makes it)."""
        return self.directory / "applications" / f"{app_id:016x}"

    def artifact_directory(self, app_id: int, artifacts: Iterable[Artifact]) -> Path:
        """A directory with an application's artifacts under their names: links to the stored files, no copies."""
        directory = self.artifact_path(app_id)
        with disk_errors(self.directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for artifact in artifacts:
                link = directory / artifact.name
                link.unlink(missing_ok=True)
                link.hardlink_to(self.files.path(artifact.blob.id))
        return directory

    def read_blob(self, ref: BlobRef) -> memoryview | None:
        """The content of a stored blob, mapped read-only and checked against its name; None when it is not (whole)
        there."""
        return self.files.read(ref)

    def save_memory(self, app_id: int, name: str, data: memoryview | bytes) -> None:
        """Keep what an application remembers on this device alone, in place of the one before: what its lossy updates
        have left out so far ("feedback"), what its training goes on from ("kept")."""
        data = memoryview(data).cast("B")
        with disk_errors(self.directory):
            self._feedback.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self._memory_path(app_id, name), b"".join((ref_of(data).id, data)), mode=0o600)

    def read_memory(self, app_id: int, name: str) -> memoryview | None:
        """What was kept, mapped read-only; None when it is not (whole) there."""
        view = map_file(self._memory_path(app_id, name))
        if view is None or view.nbytes < HASH_BYTES:
            return None
        data = view[HASH_BYTES:]
        return data if ref_of(data).id == view[:HASH_BYTES] else None

    def _memory_path(self, app_id: int, name: str) -> Path:
        return self._feedback / (f"{app_id:016x}" if name == FEEDBACK else f"{app_id:016x}-{name}")

    def _sweep(self) -> None:
        """Remove models that no record names."""
        with disk_errors(self.directory):
            self.files.sweep({bytes(row[0]).hex() for row in self._db.execute("select blob_id from files")})


def remembered_settings(directory: Path) -> bytes | None:
    """The setting "settings" of the daemon with this directory, which may be running; None if there is none to read."""
    file = directory / "edgefl.db"
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            row = db.execute("select value from settings where key = 'settings'").fetchone()
    except (sqlite3.Error, OSError):
        return None
    return bytes(row[0]) if row else None


def _contact_rows(contacts: Iterable[Contact]) -> list[tuple[bytes, bytes]]:
    return [(_id(contact.node_id), pack_contact(contact)) for contact in list(contacts)[:MAX_CONTACTS]]


def _id(number: int) -> bytes:
    """64 unsigned bits, which SQLite's signed integers cannot hold."""
    return number.to_bytes(8, "big")


def _artifacts(app_id: int) -> str:
    return f"artifacts of {app_id:016x}"


def _model(app_id: int) -> str:
    return f"model of {app_id:016x}"
