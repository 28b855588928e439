"""Whatever peers send, an overlay neither raises nor grows beyond its bounds."""

from __future__ import annotations

from enum import IntEnum
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.overlay_contacts import advert, contact
from support.solo import SoloOverlay

from edgefl.overlay import (
    candidates,
    children,
    directory,
    forest,
    liveness,
    lost,
    quota,
    records,
    requests,
    reunion,
    rings,
    routing,
    tombstones,
    volunteers,
    zone_table,
)
from edgefl.overlay.game import ledger, site
from edgefl.overlay.ids import directory_key, volunteers_key, zone_key
from edgefl.overlay.profile import NODE, PROFILES
from edgefl.wire import Capacity, Contact, Message, Role, encode, message_types
from edgefl.wire.application import AppState, pack_advert
from edgefl.wire.codec import record_fields
from edgefl.wire.overlay import Discover, Lookup, Publish, Scope, SeekHelpers, Track, Untrack

OWN = 1 << 63
APPS = [zone_key(0), volunteers_key(0), directory_key(), directory_key(0), 5, OWN, OWN + 1, OWN - 1]

BOUNDS = {
    "peers": liveness.MAX_PEERS + 500,  # and those that tables refer to
    "contacts": 22 * 8 * 3 + 2 * (NODE.zone_side + NODE.fleet_side),
    "requests": requests.MAX_OPEN,
    "quotas": quota.MAX_SPENDERS,
    "forgotten": liveness.MAX_FORGOTTEN,
    "tombstones": tombstones.MAX_TOMBSTONES,
    "checking": liveness.MAX_CHECKING,
    "probing": requests.MAX_OPEN,
    "zone_leaves": 2 * NODE.zone_side,
    "global_leaves": 2 * NODE.fleet_side,
    "bootstrap": reunion.MAX_BOOTSTRAP,
    "lost": lost.MAX_LOST,
    "corrected": rings.MAX_CORRECTED,
    "seen": routing.MAX_SEEN,
    "forwards": requests.MAX_OPEN,
    "lookups": 0,
    "tracked_apps": records.MAX_APPS,
    "largest_tracked_app": records.MAX_TRACKER_ENTRIES,
    "zones": zone_table.MAX_ZONES,
    "trees": 3,
    "children": children.ZONE_CHILDREN + children.OTHER_CHILDREN,
    "pool": candidates.MAX_POOL,
    "adverts": directory.MAX_ADVERTS,
    "unpublished": 0,
    "help_calls": volunteers.MAX_CALLS,
    "promises": ledger.MAX_PROMISES,
    "site_reporters": site.MAX_REPORTERS,
    "walks": 0,
}


class Mallory:
    """Well-formed messages with values that hit: ids near the victim's, its applications, numbers it may have used."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.types = [cls for number, cls in sorted(message_types().items()) if 10 <= number < 60]
        self.ids = [random.getrandbits(64) for _ in range(30)] + [OWN ^ (1 << bit) for bit in range(40)] + [OWN]

    def node_id(self) -> int:
        return self.random.choice(self.ids) if self.random.random() < 0.7 else self.random.getrandbits(64)

    def contact(self) -> Contact:
        random = self.random
        return contact(
            self.node_id(),
            zone=random.choice((0, 0, 7)),
            incarnation=random.choice((0, 0, 0, 1, 2**32 - 1)),
            capacity=random.choice(tuple(Capacity)),
            role=random.choice(tuple(Role)),
        )

    def message(self) -> Message:
        return self._record(self.random.choice(self.types))

    def _record(self, cls: type) -> Any:
        return cls(**{f.name: self._value(f.codec.name) for f in record_fields()[cls]})

    def _value(self, codec: str) -> Any:
        random = self.random
        if codec == "contact":
            return self.contact()
        if codec == "u64":
            return random.choice((random.choice(APPS), self.node_id()))
        if codec in ("u8", "u16", "u32"):
            return random.choice((0, 1, random.randrange(40), 2 ** int(codec[1:]) - 1))
        if codec == "bool":
            return random.random() < 0.5
        if codec == "f64":
            return random.choice((0.0, -1.0, 1e-300, 1e300, random.random()))
        if codec.endswith("?"):
            return None if random.random() < 0.5 else self._value(codec[:-1])
        if codec.startswith("["):
            inner, _, maximum = codec[1:-1].rpartition(" ≤")
            return tuple(self._value(inner) for _ in range(random.choice((0, 1, 3, int(maximum)))))
        if codec.startswith("bytes["):
            return self._bytes()
        for record in record_fields():
            if record.__name__ == codec:
                return self._record(record)
        return random.choice(next(list(enum) for enum in IntEnum.__subclasses__() if enum.__name__ == codec))

    def _bytes(self) -> bytes:
        """The body of a request, or an advert."""
        random = self.random
        if random.random() < 0.2:
            return random.randbytes(random.randrange(60))
        packed = pack_advert(
            advert(
                f"app {random.randrange(300)}",
                version=random.randrange(4),
                state=random.choice(tuple(AppState)),
                owner=bytes([random.randrange(8)]) * 32,
                scope=random.choice(tuple(Scope)),
                zone=random.choice((0, 7)),
                valid=random.random() < 0.9,
            )
        )
        bodies = [Lookup(), self._record(Track), self._record(Untrack), self._record(Discover), Publish(packed)]
        bodies.append(self._record(SeekHelpers))
        return random.choice((packed, encode(random.choice(bodies)), encode(self.message())[:8192]))


def check_bounds(world: SoloOverlay) -> None:
    sizes = world.overlay.sizes()
    assert sizes.keys() == BOUNDS.keys()
    assert {name: size for name, size in sizes.items() if size > BOUNDS[name]} == {}


@settings(max_examples=12)
@given(st.integers(0, 2**32), st.sampled_from(("joined", "joining")))
def test_any_stream_of_messages_is_survived_within_bounds(seed: int, state: str) -> None:
    mallory = Mallory(Random(seed))
    world = SoloOverlay(OWN, seed=seed)
    if state == "joined":
        world.start(*(contact(node_id) for node_id in mallory.ids[:10]))
    else:
        world.overlay.bootstrap([mallory.contact() for _ in range(40)], 0.0)
        world.overlay.start(0.0)
    for app in APPS[3:6]:
        world.overlay.join_tree(app, world.now, observer=app == 5, scope=Scope.ZONE if app == OWN else Scope.GLOBAL)
    for step in range(600):
        sender = mallory.contact()
        assert world.receive(sender, mallory.message())
        if step % 20 == 0:
            if mallory.random.random() < 0.5:
                world.reachable[sender.node_id] = sender
            world.advance(mallory.random.choice((0.1, 1.0, 10.0)))
            world.sent.clear()
            check_bounds(world)
    world.advance(400)
    check_bounds(world)


def test_one_flooding_peer_is_cut_off_and_others_are_not() -> None:
    friend, flooder = contact(OWN + 5), contact(OWN + 9)
    world = SoloOverlay(OWN).start(friend, flooder)
    mallory = Mallory(Random(1))
    for _ in range(3000):
        world.receive(flooder, mallory.message())
    assert world.overlay.counters["over_quota"] > 1000
    world.sent.clear()
    world.receive(friend, Publish(pack_advert(advert("ours"))))
    assert [a for a in world.overlay.adverts() if a == advert("ours")]


def test_a_flood_of_joined_strangers_is_forgotten_again() -> None:
    world = SoloOverlay(OWN).start()
    random = Random(2)
    for _ in range(5000):
        world.meet(contact(random.getrandbits(64)))
    check_bounds(world)
    assert world.overlay.sizes()["peers"] <= liveness.MAX_PEERS
    assert max(p.join_pings for p in PROFILES.values()) <= liveness.MAX_CHECKING
    assert forest.MAX_TREES >= 3
