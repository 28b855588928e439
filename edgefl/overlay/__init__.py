"""Who talks to whom: the rings, the rendezvous, the trees, the directory. Pure state machines without I/O.

    node.py           Overlay: the interface for the layers above
    assembly.py       the components put together: messages, timers and news go to whom they concern
    ids.py            64-bit ids and keys, digits, the two metrics
    profile.py        every duration that may be tuned, with its reason
    coordinates.py    an estimate of RTTs that were never measured
    device.py         this device as its components see it
    requests.py       open questions and deadlines; a slow device doubts itself first
    stall.py          this device has stood still, and others may have given it up
    quota.py          token buckets per peer
    fleet_size.py     how many devices the fleet has
    tombstones.py     who was found dead or has left
    liveness.py       who is alive: first-hand knowledge, suspicion, verification, tombstones
    routing_table.py  three contacts for every prefix, own zone first, nearest first
    leaf_set.py       the nearest on either side of a ring
    doors.py          the few contacts of a device that nobody can dial
    rings.py          the zone's ring and the fleet's: heartbeats
    search.py         FindRows, and the iterative search made of it
    joining.py        how a device finds its place
    probe_queue.py    which contact to ask next whether it lives
    lost.py           who has fallen silent and may only be cut off
    self_lookup.py    looking oneself up, less and less often
    reunion.py        whom to knock at; parts of a fleet find each other
    gossip.py         rows of the table, exchanged with others
    membership.py     keeping the rings and tables true at a constant cost
    zone_table.py     the zones heard of
    routing.py        requests to the owner of a key, inside the zone first
    zone_rule.py      which zone a device belongs to: anchor adoption
    landmarks.py      landmark binning, the baseline
    zone_survey.py    one look at some zones: their anchors, measured
    zones.py          this device's zone, kept right as devices come, go and move
    accused.py        members that others report as dead
    rank.py           the order that makes cycles impossible and elections needless
    proposals.py      whom a tracker proposes and whom it forgets
    records.py        whom a tracker remembers, within bounds
    tracker.py        the owner of an application's id proposes parents to its members
    tree_view.py      a place in a tree, as other layers see it
    candidates.py     possible parents
    attempt.py        finding a parent among them
    children.py       fan-out, eviction, counts
    renewals.py       when the tracker is asked again
    serving.py        who gets a place below a device
    rank_tree.py      one tree, as one device takes part in it
    forest.py         all trees of a device
    volunteers.py     devices that carry what others train
    directory.py      signed adverts of applications, published, discovered and rumoured
    events.py         what the layers above hear

Dependencies point from the end of this list to its beginning (assembly.py knows them all). The study behind the
numbers is cited as "overlay study" with its section.
"""

from edgefl.overlay.events import Listener
from edgefl.overlay.ids import zone_of_site
from edgefl.overlay.node import Overlay
from edgefl.overlay.profile import GATEWAY, LAN, NODE, PROFILES, TINY, WAN, Profile
from edgefl.overlay.tree_view import ChildView, Position, TreeView
from edgefl.overlay.zones import ZoneMethod, ZoneReport

__all__ = [
    "GATEWAY",
    "LAN",
    "NODE",
    "PROFILES",
    "TINY",
    "WAN",
    "ChildView",
    "Listener",
    "Overlay",
    "Position",
    "Profile",
    "TreeView",
    "ZoneMethod",
    "ZoneReport",
    "zone_of_site",
]
