"""Messages of the overlay: joining, the two rings, routed requests, the rendezvous tracker, trees, the directory.

What a message does is told where it is handled (edgefl/overlay/); here is what it carries, and how much of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from edgefl.wire.codec import Message, Record, message, nested, record
from edgefl.wire.contact import CONTACT, Contact
from edgefl.wire.fields import BOOL, U8, U16, U32, U64, choice, many, optional, raw
from edgefl.wire.game import EpsilonSum

MAX_ROWS_CONTACTS = 128
"""Contacts in one answer to FindRows: five rows of eight digits with three each, plus the leaf sets."""

MAX_LOST_CONTACTS = 8
"""Lost contacts in one answer to FindRows; two are sent today."""

MAX_RING_CONTACTS = 16
"""A leaf set: 8 + 8 in the largest profile."""

MAX_ROW_CONTACTS = 24
"""One routing table row: eight digits with three contacts each. (One contact stands for a full slot, so rows of sixteen
digits hardly ever have more.)"""

MAX_FAILED = 8
"""Dead members that one request to the tracker may report."""

MAX_CANDIDATES = 24
"""Parents that the tracker proposes at once."""

MAX_TRACKER_ENTRIES = 128
"""Members that a tracker remembers per application; a copy to a neighbour carries them all."""

MAX_ALTERNATIVES = 12
"""Children named when a parent refuses or evicts: its whole fan-out, 8 + 4."""

MAX_BEAT_TREES = 64
"""Trees in one heartbeat between two neighbours; more go into a second message."""

MAX_BODY_BYTES = 8 * 1024
"""A routed body: the largest is an advert (4 KiB manifest, signature, contact)."""

MAX_ADVERT_BYTES = 6 * 1024
"""An encoded advert: its manifest of at most 4 KiB, and room."""

MAX_PAGE_ADVERTS = 8
"""Adverts in one page of the directory: 8 x 6 KiB stays below the size of one message."""

ZONE_LABEL_BYTES = 6
"""A zone's label as it travels in gossip: 16-bit label, age in minutes, and three bytes for roughly where it is."""

MAX_ZONE_LABELS = 64
"""Labels in one message: everything that a newcomer measures."""

MAX_ANCHORS = 3
"""Members of a zone that stand for its place."""

COORDINATE_BYTES = 8
"""A network coordinate (edgefl/overlay/coordinates.py)."""


# Joining and the rings


@message(10)
class FindRows(Message):
    """Ask for the contacts nearest to `target`, and (unless `brief`) for the rows that lead there."""

    request: Annotated[int, 1, U32]
    target: Annotated[int, 2, U64]
    zone: Annotated[int, 3, U16] = 0
    brief: Annotated[bool, 4, BOOL] = False


@message(11)
class Rows(Message):
    """Answer to FindRows. A device that has not joined itself says so and names nobody. `lost`: devices that have
    fallen silent and may be cut off; a newcomer hears of some."""

    request: Annotated[int, 1, U32]
    joined: Annotated[bool, 2, BOOL]
    contacts: Annotated[tuple[Contact, ...], 3, many(CONTACT, MAX_ROWS_CONTACTS)] = ()
    zones: Annotated[bytes, 4, raw(MAX_ZONE_LABELS * ZONE_LABEL_BYTES)] = b""
    lost: Annotated[tuple[Contact, ...], 5, many(CONTACT, MAX_LOST_CONTACTS)] = ()


@message(12)
class Announce(Message):
    """The sender has joined (or changed its contact): learn it."""


@message(13)
class Ping(Message):
    request: Annotated[int, 1, U32]


@message(14)
class Pong(Message):
    """Answer to Ping, with the sender's network coordinate (empty if it has none) and its guess how many devices the
    fleet has (edgefl/overlay/fleet_size.py; 0: none)."""

    request: Annotated[int, 1, U32]
    joined: Annotated[bool, 2, BOOL]
    coordinate: Annotated[bytes, 3, raw(COORDINATE_BYTES)] = b""
    fleet: Annotated[int, 4, U8] = 0


class Ring(IntEnum):
    """Which of the two nested rings a heartbeat keeps."""

    ZONE = 0
    GLOBAL = 1


@message(15)
class Beat(Message):
    """Heartbeat to a ring neighbour; carries the leaf set when it changed, and every sixth time anyway."""

    ring: Annotated[Ring, 1, choice(Ring)]
    leaves: Annotated[tuple[Contact, ...], 2, many(CONTACT, MAX_RING_CONTACTS)] = ()


@message(16)
class RowGossip(Message):
    """One row of the sender's routing table: contacts that share `prefix` bits with it, and less than one digit more. A
    request (`reply` false) is answered with the receiver's own row of that prefix, whatever size its digits have."""

    prefix: Annotated[int, 1, U8]
    reply: Annotated[bool, 2, BOOL]
    contacts: Annotated[tuple[Contact, ...], 3, many(CONTACT, MAX_ROW_CONTACTS)] = ()
    zones: Annotated[bytes, 4, raw(MAX_ZONE_LABELS * ZONE_LABEL_BYTES)] = b""


@message(17)
class Leaving(Message):
    """The sender goes away on purpose: forget it at once."""


# Routed requests


class Scope(IntEnum):
    """How far a routed request, or an application, may go."""

    GLOBAL = 0
    ZONE = 1


@message(20)
class Route(Message):
    """An encoded message on its way to the device nearest to `key`, acknowledged hop by hop.

    `request` is unique per origin; with the origin's node id it names the request everywhere.
    """

    request: Annotated[int, 1, U32]
    key: Annotated[int, 2, U64]
    origin: Annotated[Contact, 3, CONTACT]
    body: Annotated[bytes, 4, raw(MAX_BODY_BYTES)]
    hops: Annotated[int, 5, U8] = 0
    scope: Annotated[Scope, 6, choice(Scope)] = Scope.GLOBAL

    def onward(self) -> Route:
        """The same one hop further."""
        return Route(self.request, self.key, self.origin, self.body, self.hops + 1, self.scope)


@message(21)
class RouteAck(Message):
    """This hop has taken over the request of that origin."""

    origin: Annotated[int, 1, U64]
    request: Annotated[int, 2, U32]


@message(22)
class Lookup(Message):
    """Body of a Route: who is nearest to the key? Answered with Found, straight to the origin."""


@message(23)
class Found(Message):
    """The sender is nearest to the key of that request; `hops` is how far it travelled."""

    request: Annotated[int, 1, U32]
    hops: Annotated[int, 2, U8]


# The rendezvous tracker (bodies of a Route to the application's id, answers straight to the member)


@message(30)
class Track(Message):
    """Remember the origin as a member of `app`, forget the `failed`, and propose parents.

    A `renewal` of the lease by a member that is content is answered briefly.
    """

    app: Annotated[int, 1, U64]
    observer: Annotated[bool, 2, BOOL] = False
    failed: Annotated[tuple[int, ...], 3, many(U64, MAX_FAILED)] = ()
    renewal: Annotated[bool, 4, BOOL] = False


@message(31)
class Untrack(Message):
    """Forget the origin as a member of `app`."""

    app: Annotated[int, 1, U64]


@message(32)
class Candidates(Message):
    """Members worth knowing for the receiver: possible parents, always with the three of highest rank.

    Sent as the answer to Track, and unasked to a root or zone head that a newcomer outranks. `kept` false tells a
    member of a large application that the tracker does not store it, so it need not renew often.
    """

    app: Annotated[int, 1, U64]
    members: Annotated[tuple[Contact, ...], 2, many(CONTACT, MAX_CANDIDATES)] = ()
    total: Annotated[int, 3, U32] = 0
    kept: Annotated[bool, 4, BOOL] = True


@record
class TrackerEntry(Record):
    member: Annotated[Contact, 1, CONTACT]
    lease_s: Annotated[int, 2, U16]


@message(33)
class TrackerCopy(Message):
    """The tracker's entries for one application, for a neighbour in the ring (or for the key's new owner)."""

    app: Annotated[int, 1, U64]
    entries: Annotated[tuple[TrackerEntry, ...], 2, many(nested(TrackerEntry), MAX_TRACKER_ENTRIES)] = ()
    scope: Annotated[Scope, 3, choice(Scope)] = Scope.GLOBAL


@message(34)
class SeekHelpers(Message):
    """Body of a Route to the register of the origin's zone: every place in the tree of `app` is taken."""

    app: Annotated[int, 1, U64]
    scope: Annotated[Scope, 2, choice(Scope)] = Scope.GLOBAL


@message(35)
class HelpWanted(Message):
    """The register asks a volunteer to carry the models of `app`, of which it is no member."""

    app: Annotated[int, 1, U64]
    scope: Annotated[Scope, 2, choice(Scope)] = Scope.GLOBAL


# Trees


@message(40)
class Attach(Message):
    """Be my parent in the tree of `app`. The rank follows from the sender's id and capacity class."""

    app: Annotated[int, 1, U64]
    observer: Annotated[bool, 2, BOOL] = False
    height: Annotated[int, 3, U8] = 0
    members: Annotated[int, 4, U32] = 1
    """In the subtree, with the sender if it is a member."""


@message(41)
class Attached(Message):
    """Accepted. `depth` is the receiver's distance from the root, `root` its node id."""

    app: Annotated[int, 1, U64]
    depth: Annotated[int, 2, U8]
    root: Annotated[int, 3, U64]


class Refusal(IntEnum):
    """Why a parent says no, or lets a child go."""

    FULL = 0
    NOT_A_MEMBER = 1
    RANK = 2
    EVICTED = 3
    LEAVING = 4
    SWITCHED = 5
    ZONE = 6


@message(42)
class Refused(Message):
    """Answer to Attach: no, and who might say yes."""

    app: Annotated[int, 1, U64]
    reason: Annotated[Refusal, 2, choice(Refusal)]
    alternatives: Annotated[tuple[Contact, ...], 3, many(CONTACT, MAX_ALTERNATIVES)] = ()


@message(43)
class Detach(Message):
    """The edge between sender and receiver ends, said by either side."""

    app: Annotated[int, 1, U64]
    reason: Annotated[Refusal, 2, choice(Refusal)]
    alternatives: Annotated[tuple[Contact, ...], 3, many(CONTACT, MAX_ALTERNATIVES)] = ()


@record
class TreeEdge(Record):
    """One edge as its sender sees it. Upwards `height`, `members` and at times `epsilon` count, downwards `depth` and
    `root`."""

    app: Annotated[int, 1, U64]
    upwards: Annotated[bool, 2, BOOL]
    height: Annotated[int, 3, U8] = 0
    members: Annotated[int, 4, U32] = 0
    depth: Annotated[int, 5, U8] = 0
    root: Annotated[int, 6, U64] = 0
    epsilon: Annotated[EpsilonSum | None, 7, optional(nested(EpsilonSum))] = None


@message(44)
class TreeBeat(Message):
    """Heartbeat of all tree edges between two neighbours. An edge that the receiver does not know is answered with
    Detach, so that both sides agree again."""

    edges: Annotated[tuple[TreeEdge, ...], 1, many(nested(TreeEdge), MAX_BEAT_TREES)]


# The directory of applications (signed adverts; opaque here, see edgefl/wire/application.py)


@message(50)
class Publish(Message):
    """Body of a Route to the directory's key, and the copy to its ring neighbours: store this advert."""

    advert: Annotated[bytes, 1, raw(MAX_ADVERT_BYTES)]


@message(51)
class Discover(Message):
    """Body of a Route to the directory's key: adverts of applications with an id above `after`.

    `digest` is that of the adverts which the asker has there; if they are the same, nothing needs to be sent.
    """

    after: Annotated[int, 1, U64] = 0
    digest: Annotated[int, 2, U64] = 0


@message(52)
class Adverts(Message):
    """A page of the directory; `more` when ids above the last one remain, `same` when the asker has exactly these."""

    adverts: Annotated[tuple[bytes, ...], 1, many(raw(MAX_ADVERT_BYTES), MAX_PAGE_ADVERTS)] = ()
    more: Annotated[bool, 2, BOOL] = False
    same: Annotated[bool, 3, BOOL] = False


@message(53)
class Rumour(Message):
    """A new advert, passed on to a few contacts by everyone who hears it for the first time."""

    advert: Annotated[bytes, 1, raw(MAX_ADVERT_BYTES)]


# Zones (edgefl/overlay/zones.py)


@message(58)
class ZoneQuery(Message):
    """Body of a Route to a zone's key: who are its anchors, and how many members has it?"""

    zone: Annotated[int, 1, U16]


@message(59)
class ZoneInfo(Message):
    """Answer of the zone's tracker, straight to the origin: the members of highest rank, an estimate of how many
    members there are, and of how many devices the fleet has."""

    zone: Annotated[int, 1, U16]
    anchors: Annotated[tuple[Contact, ...], 2, many(CONTACT, MAX_ANCHORS)] = ()
    members: Annotated[int, 3, U32] = 0
    fleet: Annotated[int, 4, U32] = 0
