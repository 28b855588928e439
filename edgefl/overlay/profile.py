"""Every duration and size of the overlay that may be tuned, in one place, each with its reason.

Durations: `WAN` is what the studies measured and what devices run. `LAN` is five times as fast: for demonstrations and
tests with real sockets on one machine, where waiting for a wide-area time-out proves nothing. Sizes: `NODE` is what the
study recommends, `TINY` keeps half as many contacts for one more hop, `GATEWAY` twice as many for one hop less. Devices
of all sizes meet in one ring. Bounds that protect a device's memory are no matter of taste; they are constants beside
the tables they bound.
"""

from __future__ import annotations

import dataclasses

from edgefl.declared import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """Durations in seconds (names end in `_s`). "Study" below is the overlay study that the architecture cites."""

    # Sizes
    digit_bits: int = 3  # b: 3.3 hops at 10^3 nodes, 6.2 at 10^6; b = 2 takes 7.4, b = 4 takes 5.3 (study 1.1)
    slot_contacts: int = 3  # k: two to spare; 98 % of lookups survive half of all devices, 93 % with k = 2 (study 1.5)
    slot_candidates: int = 4  # measured for a slot: with the zone rule four give the stretch of sixteen (study 1.1)
    join_pings: int = 72  # of one join: both leaf sets and 14 slots; bounds the burst to 4 kB
    zone_side: int = 4  # leaf set on either side in the zone; a side is lost with 6 % when half of all devices die
    fleet_side: int = 3  # the same in the fleet's ring: 12 %, which the slots cover (study 1.5)

    # Liveness
    rpc_timeout_s: float = 0.5  # floor of max(floor, 4 RTT): scheduling on a busy Raspberry Pi takes 0.1-0.3 s
    cold_timeout_s: float = 2.0  # the link must be dialled: door and CURVE handshakes take seven round trips
    cold_link_s: float = 120.0  # no message from it for so long: the transport may have closed the link
    tombstone_s: float = 60.0  # as long as hearsay of a dead device keeps circulating (two cycles of gossip)

    # Joining
    knock_s: float = 3.0  # retry while not joined; a join takes 1-2 s
    cold_start_s: float = 15.0  # five knocks that only unjoined devices answered: somebody has to begin
    self_join_s: tuple[float, ...] = (5.0, 15.0, 60.0, 240.0, 960.0, 1800.0)  # look for oneself again, less and less
    reunion_s: float = 60.0  # three lost contacts are tried: partitions merge within about a minute, for 4 B/s

    # A leaf (nobody can dial it)
    door_probe_s: float = 20.0  # one of its four doors: each hears from it before the transport closes the link

    # Rings and tables
    zone_beat_s: float = 10.0  # both ring neighbours of the zone
    global_beat_s: float = 30.0  # both ring neighbours of the fleet
    silent_beats: float = 2.5  # one lost packet is no alarm; dead ring neighbours are noticed in 25-30 s
    list_every: int = 6  # the leaf set rides along at least this often: a list sent only on change is lost with it
    probe_s: float = 8.0  # the contact not heard for longest, at a constant rate: traffic does not grow with the table
    probe_fresh_s: float = 60.0  # heard more recently: needs no probe
    quick_probe_s: float = 0.4  # while probes keep finding dead contacts
    beat_soon_s: float = 0.5  # new neighbours hear from us; a burst of changes makes one beat
    gossip_s: float = 45.0  # one row; with 30 s and probes every 5 s idle upkeep is a fifth more, repair no faster
    quick_gossip_s: float = 2.0  # while a row has just lost contacts

    # Zones ("ms": a distance, which a faster profile does not shrink)
    zone_radius_ms: float = 40.0  # tau: RTT to the anchors; 25 gives four times as many zones (study 1.4)
    zone_first_look_s: float = 4.0  # after joining or a new address, at most: contacts of all zones are known by then
    zone_backoff_s: float = 20.0  # before founding, at most: who is first spares others of the same place from founding
    zone_check_s: float = 600.0  # look again; two looks agree before anybody moves
    zone_young_s: float = 540.0  # no zone dissolves before its first regular look
    zone_forget_s: float = 1800.0  # the last word of a zone that nobody is in any more

    # Routed requests
    lookup_timeout_s: float = 5.0  # seven hops, half of them after a time-out; then once more by another way

    # Tracker
    lease_s: float = 300.0  # two renewals may be lost
    renewal_s: float = 120.0
    root_renewal_s: float = 30.0  # how long two trees of one application can live side by side
    unkept_renewal_s: float = 1800.0  # the tracker is full of better ones; coming back often would change nothing
    copy_s: float = 60.0  # full copies to the neighbours nearest to the key
    copy_batch_s: float = 1.0  # changes wait for each other this long
    recently_heard_s: float = 10.0  # renewed since: a copy that says it has left is older than that

    # Trees
    tree_beat_s: float = 15.0  # one message per neighbour pair, whatever the number of trees they share
    tree_silence_s: float = 17.0  # one beat and the jitter of a bad day; then a ping decides
    tree_edge_lifetime_s: float = 60.0  # alive, but silent about this edge: it does not keep the edge
    tree_flush_s: float = 1.0  # changes that ride up or down are sent at once, but not more often than this
    watch_s: float = 1.5  # a round is open: a silent parent is asked; 97 B/s per edge, little beside a model
    watch_timeout_s: float = 1.5  # and answers, or is suspected: a device in training gets round to it late
    spare_fresh_s: float = 15.0  # a round is open: spare parents that are silent for so long are asked
    seek_s: tuple[float, ...] = (2.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # asking the tracker again while without a parent
    help_pause_s: float = 6.0  # between two calls for volunteers: one takes 2-3 s to arrive, and to be found
    help_idle_s: float = 180.0  # a volunteer without children leaves: longer than a subtree takes to find back
    avoid_s: float = 20.0  # a parent that did not answer or refused is left alone

    # Directory
    advert_lifetime_s: float = 180.0  # two of three publications may be lost
    stopped_lifetime_s: float = 3600.0  # the word that an application has ended outlives late returners
    republish_s: float = 60.0
    discover_s: float = 60.0
    rediscover_s: float = 15.0  # the directory's answer was lost; half of them are at 30 % loss
    discover_nothing_s: float = 240.0  # no application is known that has to be kept: rumours bring the first in seconds

    def faster(self, factor: float) -> Profile:
        """The same profile with every duration divided by `factor`."""

        def scaled(value: float | tuple[float, ...]) -> float | tuple[float, ...]:
            return tuple(item / factor for item in value) if isinstance(value, tuple) else value / factor

        changes = {f.name: scaled(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name.endswith("_s")}
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


WAN = NODE = Profile()
LAN = WAN.faster(5)

TINY = dataclasses.replace(
    NODE, digit_bits=2, slot_contacts=2, slot_candidates=2, join_pings=40, zone_side=3, fleet_side=3
)
GATEWAY = dataclasses.replace(
    NODE, digit_bits=4, slot_contacts=4, slot_candidates=8, join_pings=96, zone_side=8, fleet_side=8
)
PROFILES = {"tiny": TINY, "node": NODE, "gateway": GATEWAY}
"""By the name that `[overlay] profile` gives them."""
