"""Finding a fleet on the local network, with real multicast DNS on loopback."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgefl.config import Settings
from edgefl.daemon import discovery, mdns, neighbourhood
from edgefl.daemon.mdns import Mdns
from edgefl.daemon.neighbourhood import Neighbour, short_fleet
from edgefl.errors import ConfigError
from edgefl.wire import Contact, Role
from tests.daemon.fleet import Daemons, some_daemons, with_daemons

KEY = bytes(range(32))
LOOPBACK = "127.0.0.1"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets do not get lost on loopback: no need to look for as long as in a radio network."""
    monkeypatch.setattr(discovery, "BROWSE_S", 1.2)
    monkeypatch.setattr(discovery, "RENEW_S", 0.05)


def test_what_is_announced_is_found_once_and_gone_when_it_is_closed() -> None:
    async def main() -> None:
        shown, looking = Mdns(LOOPBACK), Mdns(LOOPBACK)
        own_id = Random().getrandbits(64)  # another run on this machine may be heard as well
        await shown.announce(Contact(own_id, LOOPBACK, 7321), KEY)
        assert Neighbour(LOOPBACK, 7321, own_id, short_fleet(KEY)) in await looking.browse(0.9, anywhere=True)
        assert await looking.browse(0.5, anywhere=False) == [], "loopback is no private network"
        await shown.close()
        await looking.close()
        again = Mdns(LOOPBACK)
        assert own_id not in {neighbour.node_id for neighbour in await again.browse(0.5, anywhere=True)}
        await again.close()

    asyncio.run(main())


def test_hostile_records_and_floods_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given many announcements, among them nonsense, then few are looked at and only true ones are kept."""
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    monkeypatch.setattr(mdns, "MAX_FOUND", 2)

    async def main() -> None:
        hostile = AsyncZeroconf(interfaces=[LOOPBACK])
        registered: list[Any] = []
        for number in range(4):
            info = AsyncServiceInfo(
                neighbourhood.SERVICE,
                f"evil-{number}.{neighbourhood.SERVICE}",
                addresses=[bytes([127, 0, 0, 1])],
                port=7321,
                properties={"v": "1", "id": "f" * 16 if number % 2 else b"\xff" * 200, "fleet": "0000:0000"},
                server=f"evil-{number}.local.",
            )
            registered.append(await hostile.async_register_service(info))
        await asyncio.gather(*registered)
        looking = Mdns(LOOPBACK)
        found = await looking.browse(0.9, anywhere=True)
        assert all(neighbour.node_id == (1 << 64) - 1 for neighbour in found if neighbour.fleet == "0000:0000")
        assert len(found) <= 2
        await looking.close()
        await hostile.async_close()

    asyncio.run(main())


@with_daemons
async def test_devices_find_their_fleet_without_an_address(fleet: Daemons) -> None:
    """A member with a token that names no door, and a stranger without a token: both find the fleet around them."""
    first = await fleet.start("a", mdns="on", listen=f"{LOOPBACK}:0")
    guest = await fleet.start("b", mdns="on", listen=f"{LOOPBACK}:0", bootstrap=())
    assert {c.node_id for c in guest.overlay.contacts()} == {first.keys.node_id}
    assert guest.settings.bootstrap == ()

    waiting = asyncio.ensure_future(fleet.start("c", mdns="on", listen=f"{LOOPBACK}:0", bootstrap=(), token=None))
    doors = (first, guest)  # it asks at both
    await fleet.until(lambda: any(door.admission.pending for door in doors), "it asks to be admitted")
    for door in doors:
        for request in door.admission.pending:
            door.admission.approve(fleet.key.approve(request.claim()))
    stranger = await waiting
    assert stranger.admission.fleet == fleet.key.public


@with_daemons
async def test_a_device_that_cannot_be_dialled_is_not_shown_and_one_that_moves_is_shown_anew(fleet: Daemons) -> None:
    device = await fleet.start("a", mdns="on", listen=f"{LOOPBACK}:0")
    looking = Mdns(LOOPBACK)

    async def shown(expected: int) -> None:
        for _ in range(10):
            everybody = await looking.browse(0.6, anywhere=True)
            found = [neighbour for neighbour in everybody if neighbour.node_id == device.keys.node_id]
            if len(found) == expected:
                return
        raise AssertionError(f"{found}, not {expected}")

    await shown(1)
    await device.whereabouts.change(role=Role.LEAF)
    await shown(0)
    await device.whereabouts.change(role=Role.NODE)
    await shown(1)
    await looking.close()


def test_without_the_package_it_is_off_or_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    monkeypatch.setattr(mdns.importlib.util, "find_spec", lambda name: None)
    assert not discovery.possible(Settings(mdns="auto"))
    assert not discovery.possible(Settings(mdns="off"))

    async def main() -> None:
        async with some_daemons(tmp_path) as fleet:
            with pytest.raises(ConfigError) as caught:
                await fleet.start("b", mdns="on")
            assert "pip install 'edgefl[mdns]'" in caught.value.hint
            device = await fleet.start("a", mdns="auto")
            assert not device.discovery.active
            assert await device.discovery.find() == []

    asyncio.run(main())


def test_a_network_that_forbids_multicast_is_said_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Forbidden(Mdns):
        def __init__(self, host: str) -> None:
            raise OSError("multicast is not allowed here")

    monkeypatch.setattr(discovery, "Mdns", Forbidden)

    async def main() -> None:
        async with some_daemons(tmp_path) as fleet:
            device = await fleet.start("a", mdns="on", listen=f"{LOOPBACK}:0")
            await fleet.until(lambda: "cannot be found on this network" in caplog.text, "it is said")
            for _ in range(2):
                assert await device.discovery.find() == []
            assert device.ready

    asyncio.run(main())
    assert caplog.text.count("cannot look for devices") == 1


def test_several_fleets_are_not_chosen_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def two_fleets(self: Mdns, seconds: float, *, anywhere: bool) -> list[Neighbour]:
        return [Neighbour(LOOPBACK, 1, 1, "0000:0000"), Neighbour(LOOPBACK, 2, 2, "1111:1111")]

    monkeypatch.setattr(Mdns, "browse", two_fleets)

    async def main() -> None:
        async with some_daemons(tmp_path) as fleet:
            await fleet.start("a", listen=f"{LOOPBACK}:0")
            lost = asyncio.ensure_future(fleet.start("b", mdns="on", listen=f"{LOOPBACK}:0", bootstrap=(), token=None))
            await fleet.until(lambda: "several fleets are on this network" in caplog.text, "it is said")
            lost.cancel()

    asyncio.run(main())
