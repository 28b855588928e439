"""Which of its addresses a device tells others."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from edgefl.config import Settings
from edgefl.daemon.addresses import LOOPBACK, Here, LocalAddresses, fixed_host, own_host
from edgefl.errors import UnreachableError

LAN, WIFI, OUTSIDE = "192.168.1.5", "10.0.0.9", "203.0.113.7"
HERE = Here(LAN, frozenset({LAN, WIFI, "127.0.0.1"}))


def test_the_operator_decides() -> None:
    assert fixed_host(Settings(advertise="203.0.113.7:7321"), "0.0.0.0") == OUTSIDE
    assert fixed_host(Settings(advertise="localhost:7321"), "0.0.0.0") in ("127.0.0.1", "::1")
    assert fixed_host(Settings(listen="10.0.0.9:7321"), WIFI) == WIFI
    assert fixed_host(Settings(), "0.0.0.0") is None
    assert fixed_host(Settings(), "::") is None
    with pytest.raises(UnreachableError):
        fixed_host(Settings(advertise="no-such-host.invalid:1"), "0.0.0.0")


def test_the_way_to_the_fleet_decides_until_peers_agree_on_an_address_of_ours() -> None:
    assert own_host(HERE, None, None, None) == LAN
    assert own_host(HERE, LAN, WIFI, None) == WIFI


def test_an_address_that_is_not_ours_is_told_only_if_somebody_has_reached_us_there() -> None:
    assert own_host(HERE, LAN, OUTSIDE, None) == LAN
    assert own_host(HERE, LAN, OUTSIDE, LAN) == LAN
    assert own_host(HERE, LAN, OUTSIDE, OUTSIDE) == OUTSIDE


def test_without_a_way_out_the_address_stays() -> None:
    nowhere = Here(None, frozenset())
    assert own_host(nowhere, LAN, None, None) == LAN
    assert own_host(nowhere, None, None, None) == LOOPBACK


def test_a_network_without_a_router_is_a_network_too() -> None:
    here = Here(None, frozenset({"127.0.0.1", "fe80::1", WIFI, LAN}))
    assert own_host(here, None, None, None) == WIFI
    assert own_host(here, LAN, None, None) == LAN, "it still has it"
    assert own_host(here, LOOPBACK, None, None) == WIFI
    assert own_host(here, "192.168.1.77", None, None) == WIFI, "it has moved"
    assert own_host(Here(None, frozenset({"127.0.0.1", "fe80::1"})), None, None, None) == LOOPBACK


def test_the_kernel_tells_the_addresses_of_this_machine() -> None:
    found = LocalAddresses(Settings(bootstrap=("127.0.0.1:7321",))).read()
    assert found.route == "127.0.0.1"
    assert "127.0.0.1" in found.all
    assert all(str(ipaddress.ip_address(address)) == address for address in found.all)
    assert LocalAddresses(Settings(bootstrap=("no-such-host.invalid:7321",))).read().all == found.all


def test_addresses_that_cannot_be_read_have_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> dict[str, object]:
        raise PermissionError("netlink is not for you")

    source = LocalAddresses(Settings())
    before = source.read()
    monkeypatch.setattr("psutil.net_if_addrs", refused)
    assert source.read() == before


def test_a_machine_without_a_route_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unplugged(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "socket", Unplugged)
    assert LocalAddresses(Settings()).read().route is None
