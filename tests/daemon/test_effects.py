"""The world behind the core: who holds a blob, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.learning_world import World, make_contact, make_manifest

from edgefl.daemon.disk import Disk
from edgefl.daemon.effects import LoopEffects
from edgefl.errors import UnreachableError
from edgefl.store import Store
from edgefl.wire.application import Artifact
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.overlay import Scope

DATA = b"weights"
BLOB = ref_of(DATA)


class Shelf:
    """A transport whose fetches end when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[bytes]] = []
        self.discarded: list[bytes] = []

    async def fetch(self, blob: BlobRef, sources: Any, **options: Any) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        return await future

    def discard_blob(self, blob_id: bytes) -> None:
        self.discarded.append(blob_id)


class Heard:
    """The learning layer: remembers what was fetched."""

    def __init__(self) -> None:
        self.fetched: list[tuple[int, Any, Any]] = []

    def on_fetched(self, app: int, token: Any, blob: BlobRef, data: Any, now: float) -> None:
        self.fetched.append((app, token, data))


def run(test: Callable[[LoopEffects, Shelf, Heard], Any]) -> None:
    async def main() -> None:
        shelf, heard = Shelf(), Heard()
        effects = LoopEffects(
            shelf,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            seed=1,
            on_timer=lambda key, now: None,
            top_ranked=lambda app, count: (),
            guard=lambda handler, *arguments: handler(*arguments),
        )
        effects.learning = heard  # type: ignore[assignment]
        await test(effects, shelf, heard)

    asyncio.run(main())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_source_that_fails_takes_nothing_from_who_got_the_blob_elsewhere() -> None:
    async def test(effects: LoopEffects, shelf: Shelf, heard: Heard) -> None:
        effects.fetch(7, ("start",), BLOB, ())
        effects.fetch(7, ("recover",), BLOB, ())
        await settle()
        shelf.asked[1].set_result(DATA)
        await settle()
        shelf.asked[0].set_exception(UnreachableError("the parent has died"))
        await settle()
        assert heard.fetched == [(7, ("recover",), DATA), (7, ("start",), None)]
        assert shelf.discarded == []
        effects.discard(7, BLOB)
        assert shelf.discarded == [BLOB.id]

    run(test)


def test_a_blob_is_let_go_when_the_last_application_has_discarded_it() -> None:
    async def test(effects: LoopEffects, shelf: Shelf, heard: Heard) -> None:
        for app in (1, 2):
            effects.fetch(app, (), BLOB, ())
        await settle()
        shelf.asked[0].set_result(DATA)
        await settle()
        effects.discard(1, BLOB)
        assert shelf.discarded == []  # the other one still waits for it
        shelf.asked[1].set_result(DATA)
        await settle()
        effects.discard(1, BLOB)
        assert shelf.discarded == []
        effects.discard(2, BLOB)
        assert shelf.discarded == [BLOB.id]

    run(test)


def test_what_nobody_could_give_leaves_nothing_behind() -> None:
    async def test(effects: LoopEffects, shelf: Shelf, heard: Heard) -> None:
        effects.fetch(1, (), BLOB, ())
        await settle()
        shelf.asked[0].set_exception(UnreachableError("nobody has it"))
        await settle()
        assert shelf.discarded == [BLOB.id]
        assert (effects._users, effects._awaited) == ({}, {})

    run(test)


def test_artifacts_that_were_fetched_are_kept_on_disk_and_nowhere_else(tmp_path: Path) -> None:
    async def test(effects: LoopEffects, shelf: Shelf, heard: Heard) -> None:
        effects._disk = disk = Disk(Store(tmp_path))
        artifacts = tuple(Artifact(name, ref_of(name.encode())) for name in ("checkpoint", "training_model.onnx"))
        manifest = replace(make_manifest(), artifacts=artifacts)
        contents = {one.blob: one.name.encode() for one in artifacts}

        async def fetch(blob: BlobRef, sources: Any, **options: Any) -> bytes:
            return contents[blob]

        shelf.fetch = fetch  # type: ignore[method-assign]
        directory = await effects._fetch_artifacts(7, manifest, ())
        assert {path.name: path.read_text() for path in directory.iterdir()} == {
            one.name: one.name for one in artifacts
        }
        assert shelf.discarded == [one.blob for one in artifacts]
        await disk.close()

    run(test)


def test_the_blobs_of_a_zone_are_served_inside_it_alone() -> None:
    zoned = make_manifest(
        name="zoned", scope=Scope.ZONE, zone=0, artifacts=(*make_manifest().artifacts, Artifact("own", ref_of(b"own")))
    )
    world = World(1, manifest=zoned)
    world.start({})
    device = world.devices[1]
    app, insider, stranger = device.app, make_contact(2), replace(make_contact(3), zone=5)

    async def test(effects: LoopEffects, shelf: Shelf, heard: Heard) -> None:
        heard.applications = dict(device.learning.applications)  # type: ignore[attr-defined]
        effects.fetch(app.id, (), BLOB, ())
        await settle()
        arriving = effects.may_have(insider, BLOB.id), effects.may_have(stranger, BLOB.id)
        assert arriving == (True, False)
        shelf.asked[0].set_result(DATA)
        await settle()
        for blob_id in (BLOB.id, ref_of(b"own").id):
            assert effects.may_have(insider, blob_id)
            assert not effects.may_have(stranger, blob_id)
        assert app.counters["refused_foreign_zone"] == 3
        assert effects.may_subscribe(insider, app.id)
        assert effects.may_subscribe(stranger, app.id + 1)  # nothing is pushed for what we do not know
        assert not effects.may_subscribe(stranger, app.id)
        assert not effects.may_subscribe(None, app.id)
        assert app.counters["refused_foreign_zone"] == 5
        # The same content in an application of the whole fleet is everybody's.
        everybody = World(1)
        everybody.start({})
        other = everybody.devices[1].app
        heard.applications[other.id] = other  # type: ignore[attr-defined]
        unknown = ref_of(b"pushed, and not asked for").id
        assert (effects.may_have(insider, unknown), effects.may_have(stranger, unknown)) == (True, False)
        effects.fetch(other.id, (), BLOB, ())
        await settle()
        assert effects.may_have(stranger, BLOB.id)  # while it arrives
        shelf.asked[1].set_result(DATA)
        await settle()
        assert effects.may_have(stranger, BLOB.id)
        assert not effects.may_have(stranger, ref_of(b"own").id)
        # Who has moved away serves nobody.
        del heard.applications[other.id]  # type: ignore[attr-defined]
        effects.discard(other.id, BLOB)
        device.contact = replace(device.contact, zone=5)
        assert not effects.may_have(insider, BLOB.id)
        assert not effects.may_have(stranger, BLOB.id)

    run(test)
