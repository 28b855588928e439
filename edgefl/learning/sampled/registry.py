"""Who takes part, as far as this device knows: MoDeST's view, with activity and membership merged independently.

    view[device] = (last active round, (counter, JOIN | LEAVE))

Merging is commutative, associative and idempotent: the maximum of the rounds on one side, the entry with the higher
counter on the other. MoDeST's published code (February 2023) stored a newer entry's counter as its activity round; the
test `test_a_newer_counter_is_no_activity` fails with it.

Two entries of one counter that differ can only come from a liar (a device raises its counter with every change); the
choice between them is arbitrary but the same everywhere: LEAVE wins, then the larger contact.

Views travel as deltas: `delta(peer)` gives what has changed since the last exchange with that peer, and a digest of
the membership tells both whether they agree on who is in. Only where digests differ does the whole view travel.

Source: de Vos et al., Decentralized Learning Made Practical with Client Sampling (MoDeST, Plexus), arXiv 2302.13837.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from edgefl.wire.contact import Contact, pack_contact
from edgefl.wire.sampled import MAX_ENTRIES, Entry, View

MAX_VIEW = 4096
"""Devices in a view, about 1 kB of memory each. Larger fleets use zones, or the forest."""

MAX_PEERS = 1024
"""Peers whose last exchange is remembered; others get the whole view again."""

MAX_LEAP = 1 << 16
"""How far an activity round may be above the newest known one: a liar must not push everybody out of the window."""


def _membership(entry: Entry) -> tuple[int, bool, bytes, int]:
    return entry.counter, entry.left, pack_contact(entry.contact), entry.uplink


def merged(a: Entry, b: Entry) -> Entry:
    """What is known of one device when both are: its activity and its membership, each the newer one."""
    newer = max(a, b, key=_membership)
    return replace(newer, active=max(a.active, b.active))


def _is_same_member(a: Entry, b: Entry) -> bool:
    """Whether they differ in activity alone, as nearly all do."""
    same = a.counter == b.counter and a.left == b.left and a.uplink == b.uplink
    return same and (a.contact is b.contact or a.contact == b.contact)


def _fingerprint(entry: Entry) -> int:
    data = pack_contact(entry.contact)[:8] + entry.counter.to_bytes(4, "big") + bytes([entry.left])
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class Registry:
    """One device's view of one application. `window`: rounds without activity after which a device is not sampled."""

    def __init__(self, me: Contact, window: int, *, uplink: int = 0, counter: int = 1) -> None:
        self.window = window
        self._me = me.node_id
        self._entries: dict[int, Entry] = {me.node_id: Entry(me, 0, counter, False, uplink)}
        self._changed: dict[int, int] = {me.node_id: 1}
        self._version = 1
        self._shown: dict[int, int] = {}
        self._digest = _fingerprint(self.me)
        self.rejected = 0

    @property
    def me(self) -> Entry:
        return self._entries[self._me]

    @property
    def digest(self) -> int:
        """64 bits over (device, counter, state) of all entries, whatever their order."""
        return self._digest

    @property
    def newest(self) -> int:
        """The highest activity round that is known."""
        return max(entry.active for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, node_id: int) -> Entry | None:
        return self._entries.get(node_id)

    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries.values())

    def merge(self, entries: Iterable[Entry], *, limit: int | None = None) -> None:
        """Take in what a peer says. What it says of this device itself counts for activity alone. `limit`: the highest
        believable activity round (by default MAX_LEAP above the newest known one)."""
        if limit is None:
            limit = self.newest + MAX_LEAP
        for entry in entries:
            if entry.active > limit:
                self.rejected += 1
                continue
            node_id = entry.contact.node_id
            known = self._entries.get(node_id)
            if node_id == self._me:
                self._refute(entry)
            elif known is not None:
                if _is_same_member(known, entry):
                    if entry.active > known.active:
                        self._note(entry)
                else:
                    self._store(merged(known, entry))
            elif len(self._entries) < MAX_VIEW or self._make_room():
                self._store(entry)
            else:
                self.rejected += 1

    def _refute(self, said: Entry) -> None:
        """What others say of this device counts for activity; a membership that it does not have (it left, and is back
        after a restart that has lost its counter) is answered with a higher counter, as SWIM does."""
        self.touch(self._me, said.active)
        me = self.me
        other = replace(said, active=me.active) != me
        if other and me.counter <= said.counter <= me.counter + MAX_LEAP:
            self._store(replace(me, counter=said.counter + 1))

    def touch(self, node_id: int, round_: int) -> None:
        """The device was seen in this round."""
        known = self._entries.get(node_id)
        if known is not None and round_ > known.active:
            self._note(replace(known, active=round_))

    def declare(self, *, left: bool, contact: Contact | None = None, uplink: int | None = None) -> Entry:
        """This device joins, leaves, or has changed: its own entry with a higher counter."""
        me = self.me
        uplink = me.uplink if uplink is None else uplink
        self._store(replace(me, contact=contact or me.contact, counter=me.counter + 1, left=left, uplink=uplink))
        return self.me

    def candidates(self, round_: int) -> tuple[Entry, ...]:
        """Who may be in the sample of this round: has not left, and was active within the window. Always this device,
        unless it has left."""
        oldest = round_ - self.window
        return tuple(
            entry
            for entry in self._entries.values()
            if not entry.left and (entry.active >= oldest or entry.contact.node_id == self._me)
        )

    def delta(self, peer: int) -> View:
        """What has changed since the last delta for this peer, the oldest change first, at most MAX_ENTRIES."""
        shown = self._shown.pop(peer, 0)
        news = sorted((version, node_id) for node_id, version in self._changed.items() if version > shown)
        part = news[:MAX_ENTRIES]
        if part:
            shown = part[-1][0]
        while len(self._shown) >= MAX_PEERS:
            del self._shown[next(iter(self._shown))]
        self._shown[peer] = shown
        return View(tuple(self._entries[node_id] for _, node_id in part), self._digest)

    def forget_peer(self, peer: int) -> None:
        """The peer may have missed a delta: start over with it."""
        self._shown.pop(peer, None)

    def part(self, after: int) -> tuple[View, bool]:
        """The whole view in parts, by node id: what comes after `after`, and whether there is more."""
        rest = sorted(node_id for node_id in self._entries if node_id > after)
        part = tuple(self._entries[node_id] for node_id in rest[:MAX_ENTRIES])
        return View(part, self._digest), len(rest) > MAX_ENTRIES

    def _store(self, entry: Entry) -> None:
        node_id = entry.contact.node_id
        known = self._entries.get(node_id)
        if known == entry:
            return
        if known is not None:
            self._digest ^= _fingerprint(known)
        self._digest ^= _fingerprint(entry)
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        """Store what has changed nothing but activity, which the digest leaves out."""
        node_id = entry.contact.node_id
        self._entries[node_id] = entry
        self._version += 1
        self._changed[node_id] = self._version

    def _make_room(self) -> bool:
        """Forget who has left longest ago; a device that takes part is never forgotten for a stranger."""
        gone = [entry for entry in self._entries.values() if entry.left]
        if not gone:
            return False
        oldest = min(gone, key=lambda entry: (entry.active, entry.contact.node_id))
        node_id = oldest.contact.node_id
        self._digest ^= _fingerprint(oldest)
        del self._entries[node_id], self._changed[node_id]
        return True
