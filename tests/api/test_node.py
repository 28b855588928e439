"""Nodes inside of this process: what a program may do, what it is told when it may not, and what its mistakes cost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import edgefl
from edgefl.api import Broadcast, Node, Sum
from edgefl.api.events import MAX_WAITING, Events
from edgefl.errors import ConfigError, TryAgainError, UsageError
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap
from edgefl.wire import parse_node_name
from edgefl.wire.program import MAX_PAYLOAD_BYTES

WAIT_S = 30.0


async def until(condition: Any, what: str) -> None:
    """Wait for a condition; fail with `what` when it is not in time."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)


def first(directory: Path, name: str = "first", **settings: Any) -> Node:
    if not (directory / "fleet.key").exists():
        FleetKey.create(directory)
    return Node.join(state=directory / name, first=True, fleet=directory, listen="127.0.0.1:0", mdns="off", **settings)


def second(directory: Path, of: Node) -> Node:
    host, _, port = of.address.rpartition(":")
    door = Bootstrap(host, int(port), parse_node_name(of.id))
    token = FleetKey.load(directory).invite([door]).text
    return Node.join(state=directory / "second", token=token, listen="127.0.0.1:0", mdns="off")


def test_two_nodes_broadcast_and_add_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with first(tmp_path) as a, second(tmp_path, a) as b:
            heard: dict[str, list[Broadcast]] = {a.id: [], b.id: []}
            sums: list[Sum] = []
            trees = []
            for node in (a, b):
                tree = await node.create_tree("pair", values=3, deadline_s=10)
                tree.on_broadcast(heard[node.id].append)
                tree.on_aggregate(sums.append)
                await tree.subscribe()
                trees.append(tree)
            await until(lambda: max(tree.members for tree in trees) == 2, "one tree of two")
            await until(lambda: sorted(tree.is_root for tree in trees) == [False, True], "one root")
            for number, tree in enumerate(trees):
                await tree.broadcast(b"from %d" % number)
            await until(lambda: len(heard[a.id]) == len(heard[b.id]) == 2, "both broadcasts on both")
            assert heard[a.id] == heard[b.id]
            assert [one.sender for one in heard[a.id]] == [a.id, b.id]
            assert trees[0].aggregate(1, [1, 2, 3], weight=1)
            assert trees[1].aggregate(1, [5.0, 6.0, 7.0], weight=3)
            await until(lambda: sums, "the sum")
            assert (sums[0].round, sums[0].weight, sums[0].participants) == (1, 4, 2)
            assert sums[0].mean.tolist() == [4, 5, 6]
            (root,) = [node for node, tree in zip((a, b), trees, strict=True) if tree.is_root]
            assert [tree["is_root"] for tree in root.status()["trees"]] == [True]
            with pytest.raises(ConfigError, match="another edgefl daemon"):
                async with first(tmp_path):
                    pass

    asyncio.run(main())


def test_the_same_calls_by_the_name_of_the_tree(tmp_path: Path) -> None:
    async def main() -> None:
        async with first(tmp_path) as node:
            heard: list[Broadcast] = []
            sums: list[Sum] = []
            with pytest.raises(UsageError, match="no tree"):
                await node.subscribe("t")
            made = await node.create_tree("t", deadline_s=1)
            node.on_broadcast("t", heard.append)
            node.on_aggregate("t", sums.append)
            assert await node.subscribe("t") is made is node.tree("t")
            await node.broadcast("t", b"hello")
            assert node.aggregate("t", 1, [2.5])
            await until(lambda: heard and sums, "both callbacks")
            assert (heard[0].payload, sums[0].mean.tolist()) == (b"hello", [2.5])

    asyncio.run(main())


def test_a_node_is_one_device_over_its_lives(tmp_path: Path) -> None:
    async def life() -> str:
        async with first(tmp_path) as node:
            tree = await node.create_tree("alone")
            heard: list[Broadcast] = []
            tree.on_broadcast(heard.append)
            await tree.subscribe()
            await tree.broadcast(b"x")
            await until(lambda: heard, "the own broadcast")
            await tree.leave()
            with pytest.raises(UsageError, match="not in the tree"):
                await tree.broadcast(b"y")
            again = await node.create_tree("alone")
            await again.subscribe()
            await again.broadcast(b"z")
            return node.id

    assert asyncio.run(life()) == asyncio.run(life())


def test_what_a_program_cannot_do_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        outside = first(tmp_path)
        with pytest.raises(UsageError, match="not joined"):
            await outside.create_tree("t")
        async with outside as node:
            with pytest.raises(UsageError, match="entered before"):
                await node.__aenter__()
            tree = await node.create_tree("t", values=2)
            with pytest.raises(UsageError, match="exists"):
                await node.create_tree("t")
            with pytest.raises(UsageError, match="not in the tree"):
                tree.aggregate(1, [1, 2])
            await tree.subscribe()
            for payload in (bytes(MAX_PAYLOAD_BYTES + 1), "text"):
                with pytest.raises(UsageError, match="bytes"):
                    await tree.broadcast(payload)  # type: ignore[arg-type]
            for vector in ([1], "text", [1, 2, 3], [1, float("nan")], [[1], [2], [3]]):
                with pytest.raises(UsageError):
                    tree.aggregate(1, vector)
            for round_, weight in ((-1, 1), (1 << 64, 1), (1.5, 1), (1, 0), (1, 0.5)):
                with pytest.raises(UsageError):
                    tree.aggregate(round_, [1, 2], weight)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="timer"):
                node.on_timer(0, lambda: None)

    with pytest.raises(UsageError, match="no setting"):
        Node.join(state=tmp_path, colour="red")
    asyncio.run(main())


def test_a_program_that_cannot_join_hears_why_and_leaves_the_state_free(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError):
            async with Node.join(state=tmp_path / "x", first=True, fleet=tmp_path / "none", listen="127.0.0.1:0"):
                pass
        FleetKey.create(tmp_path)
        nowhere = FleetKey.load(tmp_path).invite([Bootstrap("127.0.0.1", 9, 1)]).text
        for _ in range(2):  # a second time: nobody holds the state directory
            with pytest.raises(TryAgainError, match="not in the fleet"):
                async with Node.join(
                    state=tmp_path / "x", token=nowhere, listen="127.0.0.1:0", mdns="off", timeout_s=0.5
                ):
                    pass

    asyncio.run(main())


def test_callbacks_that_fail_or_hang_cost_the_program_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with first(tmp_path) as node:
            tree = await node.create_tree("t")
            ticks: list[int] = []
            busy = asyncio.Event()

            @tree.on_broadcast
            async def heard(message: Broadcast) -> None:
                if message.payload == b"fail":
                    raise RuntimeError("a mistake of the program")
                await busy.wait()

            def tick() -> None:
                ticks.append(1)
                raise RuntimeError("another one")

            node.on_timer(0.01, tick)
            await tree.subscribe()
            await tree.broadcast(b"fail")
            await tree.broadcast(b"hang")
            await tree.broadcast(b"goes out all the same")
            await until(lambda: len(ticks) > 3, "the timer in spite of its errors")
            assert tree.counters["callbacks_failed"] == 1
            assert node.status()["state"] == "joined"

    asyncio.run(main())


def test_events_wait_up_to_a_bound_and_in_order() -> None:
    async def main() -> None:
        events = Events()
        heard: list[int] = []
        for number in range(MAX_WAITING + 10):
            events.put(heard.append, number)
        events.put(None, "nobody listens")
        events.start()
        await until(lambda: len(heard) == MAX_WAITING, "the events that were kept")
        assert heard == list(range(10, MAX_WAITING + 10))
        assert events.dropped == 10
        await events.stop()

    asyncio.run(main())


def test_the_node_is_at_hand_without_the_daemon_being_imported_for_all() -> None:
    assert edgefl.Node is Node
    with pytest.raises(AttributeError):
        edgefl.Nodes  # noqa: B018
