"""The uplink that a site shares: what its devices carry over it adds up at the register, whatever others say."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay.game import site as module
from edgefl.overlay.game.ledger import Ledger, Price
from edgefl.overlay.game.model import site_s
from edgefl.overlay.game.site import FRESH_S, LEASE_S, MAX_PROMISED_BYTES, MAX_REPORTERS, Site
from edgefl.overlay.ids import site_key
from edgefl.wire.contact import Contact
from edgefl.wire.game import SiteLoad, SitePromise
from edgefl.wire.overlay import Route, Scope

HOME, ABROAD = 7, 8
PRICED = Price(1e-6, site_s_per_byte=1e-7)


def device(node_id, zone=HOME):
    return Contact(node_id, "10.0.0.1", 7000, zone)


@dataclass
class Place:
    """One device with its `Site`, and what it has sent and routed."""

    contact: Contact
    sent: list = field(default_factory=list)
    routed: list = field(default_factory=list)

    def __post_init__(self):
        self.ledger = Ledger()
        self.ledger.price = PRICED
        router = SimpleNamespace(route=lambda *what, **scope: self.routed.append((what, scope)))
        self.site = Site(self, router, self.ledger)

    def send(self, to, message):
        self.sent.append((to, message))


def route(origin, zone=HOME):
    return Route(1, site_key(zone), origin, b"")


reports = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 1000)), max_size=30)


@given(reports)
def test_the_register_tells_each_what_the_others_carry(said):
    register, carried = Place(device(99)), {}
    for node_id, promised in said:
        register.site.on_promise(route(device(node_id)), SitePromise(promised), now=1.0)
        carried[node_id] = promised
        others = {other: bytes_ for other, bytes_ in carried.items() if other != node_id and bytes_}
        assert register.sent[-1] == (device(node_id), SiteLoad(sum(others.values()), len(others)))


def test_a_parent_reports_what_it_promises_outside_and_only_that():
    parent = Place(device(1))
    parent.ledger.promise(5, 20, 400, zone=HOME)
    parent.site.on_change(0.0)
    assert not parent.routed
    parent.ledger.promise(5, 21, 300, zone=ABROAD)
    parent.site.on_change(0.0)
    parent.site.on_change(0.0)
    ((key, promise, _), scope), *more = parent.routed
    assert (key, promise, scope, more) == (site_key(HOME), SitePromise(300), {"scope": Scope.ZONE}, [])
    parent.site.on_load(device(2), SiteLoad(1000, 2), 1.0)
    assert parent.site.load_bytes() == 1300
    parent.ledger.release(5, 21)
    parent.site.on_change(1.0)
    assert parent.routed[-1][0][1] == SitePromise(0)
    assert parent.site.load_bytes() == 1000


def test_adverts_go_outside_alone_and_are_looked_up_when_old():
    parent = Place(device(1))
    assert parent.site.advert(HOME, 0.0) == (0.0, 0)
    assert not parent.routed
    parent.site.advert(ABROAD, 0.0)
    parent.site.on_load(device(2), SiteLoad(500, 1), 0.1)
    assert parent.site.advert(ABROAD, FRESH_S - 1) == (PRICED.site_s_per_byte, 500)
    assert len(parent.routed) == 1
    parent.site.advert(ABROAD, FRESH_S)
    assert len(parent.routed) == 2


def test_without_a_price_or_a_site_nothing_is_said():
    for place in (Place(device(1)), Place(device(1, zone=0))):
        place.ledger.price = PRICED if place.contact.zone == 0 else Price(1e-6)
        place.ledger.promise(5, 20, 400, zone=ABROAD)
        place.site.on_change(0.0)
        assert place.site.advert(ABROAD, 0.0) == (0.0, 0)
        assert not place.routed
        assert place.site.load_bytes() == 0


def test_what_is_not_of_our_site_is_ignored():
    register = Place(device(99))
    register.site.on_promise(route(device(1, zone=ABROAD)), SitePromise(10), 0.0)
    register.site.on_promise(route(device(1), zone=ABROAD), SitePromise(10), 0.0)
    assert not register.sent
    assert register.site.sizes() == {"site_reporters": 0}
    register.site.on_load(device(1, zone=ABROAD), SiteLoad(10, 1), 0.0)
    assert register.site.load_bytes() == 0


def test_the_register_forgets_the_silent_the_dead_and_the_excess(monkeypatch):
    register = Place(device(99))
    register.site.on_promise(route(device(1)), SitePromise(10), 0.0)
    register.site.on_promise(route(device(2)), SitePromise(20), 1.0)
    register.site.forget(2)
    register.site.on_promise(route(device(3)), SitePromise(0), 2.0)
    assert register.sent[-1][1] == SiteLoad(10, 1)
    register.site.on_promise(route(device(3)), SitePromise(0), LEASE_S)
    assert register.sent[-1][1] == SiteLoad(0, 0)
    monkeypatch.setattr(module, "MAX_REPORTERS", 4)
    for node_id in range(10, 20):
        register.site.on_promise(route(device(node_id)), SitePromise(1 << 63), LEASE_S)
        assert register.site.sizes()["site_reporters"] <= 4
    assert register.sent[-1][1] == SiteLoad(3 * MAX_PROMISED_BYTES, 3)
    assert MAX_REPORTERS * MAX_PROMISED_BYTES < 1 << 64


def test_another_zone_is_another_site():
    place = Place(device(1))
    place.site.on_promise(route(device(2)), SitePromise(10), 0.0)
    place.site.on_load(device(2), SiteLoad(500, 1), 0.1)
    place.site.on_zone_changed()
    assert place.site.load_bytes() == 0
    assert place.site.sizes() == {"site_reporters": 0}


@pytest.mark.parametrize(("counted", "seconds"), [(True, 5.0), (False, 6.0)])
def test_a_stream_that_crosses_already_is_not_counted_twice(counted, seconds):
    assert site_s(s_per_byte=0.1, load_bytes=50, size_bytes=10, counted=counted) == pytest.approx(seconds)
