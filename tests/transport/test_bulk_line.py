"""The second connection with a peer: there when something large goes through the link, and never needed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from edgefl.transport.dial import State
from edgefl.transport.tcp_info import shut_down
from edgefl.wire.link import BlobChunk
from edgefl.wire.overlay import Ping
from tests.transport.fleet import FAST, Device, Fleet, asynchronous, until


def chunks_received(device: Device, connection: str) -> list[int]:
    """Notes the index of every chunk that comes through the link, or through its `line`."""
    seen: list[int] = []
    links = device.transport._links
    honest = links._listener.on_blob_message
    on_parts = links._on_parts
    through = [""]

    def parts(*arguments: object, on_its_line: bool = False) -> None:
        through[0] = "line" if on_its_line else "link"
        on_parts(*arguments, on_its_line=on_its_line)  # type: ignore[arg-type]

    def note(node_id: int, message: object, bulk: object) -> None:
        if isinstance(message, BlobChunk) and through[0] == connection:
            seen.append(message.index)
        honest(node_id, message, bulk)  # type: ignore[arg-type]

    links._on_parts = parts  # type: ignore[method-assign, assignment]
    links._listener.on_blob_message = note  # type: ignore[method-assign, assignment]
    return seen


async def fetch_something(at: Device, source: Device) -> int:
    """A blob of 4 MB; how many chunks it has."""
    ref = await source.transport.add_blob(os.urandom(4_000_000))
    assert len(await at.transport.fetch(ref, [source.contact], max_bytes=ref.size)) == ref.size
    return ref.chunks


@asynchronous
async def test_chunks_move_to_a_connection_of_their_own(fleet: Fleet) -> None:
    """Given a leaf that has fetched, then what it fetches next comes through a second connection that it has opened,
    and messages still go both ways."""
    server, leaf = await fleet.some(2)
    leaf.be_leaf()
    await fetch_something(leaf, server)
    (lines,) = [peer.line for peer in server.transport._links._peers.values()]
    await until(lambda: lines.routes)
    seen = chunks_received(leaf, "line")
    assert await fetch_something(leaf, server) == len(seen)
    assert len(server.transport._links._inbound.of(leaf.node_id)) == 2
    leaf.transport.send(server.contact, Ping(1))
    await until(lambda: server.listener.heard(Ping(1)))
    server.transport.send(leaf.contact, Ping(2))
    await until(lambda: leaf.listener.heard(Ping(2)))


@asynchronous
async def test_losing_it_is_no_loss_and_the_next_chunks_open_another(fleet: Fleet) -> None:
    server, other = await fleet.some(2)
    await fetch_something(other, server)
    (lines,) = [peer.line for peer in server.transport._links._peers.values()]
    await until(lambda: lines.routes)
    shut_down(lines.routes[0].descriptor)
    await until(lambda: not lines.routes)
    assert server.listener.lost == other.listener.lost == []
    line = other.transport._links._peers[server.node_id].line
    await until(lambda: line.dial is not None and line.dial.state is State.IDLE, "the back-off is over")
    await fetch_something(other, server)
    await until(lambda: lines.routes)


@asynchronous
async def test_one_that_carries_nothing_is_closed_and_the_link_stays(fleet: Fleet) -> None:
    server, other = await fleet.some(2, timing=replace(FAST, idle=0.6))
    await fetch_something(other, server)
    await until(lambda: len(server.transport._links._inbound.of(other.node_id)) == 2)
    other.transport._links._peers[server.node_id].used += 60.0
    await until(lambda: len(server.transport._links._inbound.of(other.node_id)) == 1)
    assert other.transport.connected(server.node_id)
    assert server.listener.lost == other.listener.lost == []


@asynchronous
async def test_one_that_only_receives_is_in_use(fleet: Fleet) -> None:
    """Given a device that has dialled for what it fetches, and never sends anything large itself, then the connection
    stays: closed in the middle of an update, it would take chunks with it that are waited for in vain."""
    idle_s = 0.6
    server, other = await fleet.some(2, timing=replace(FAST, idle=idle_s))
    await fetch_something(other, server)
    (lines,) = [peer.line for peer in server.transport._links._peers.values()]
    await until(lambda: lines.routes)
    (connection,) = lines.routes
    for _ in range(12):
        await asyncio.sleep(idle_s / 3)
        await fetch_something(other, server)
    assert lines.routes == [connection]
