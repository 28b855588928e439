"""Every duration of the transport, in seconds, each with its reason. Tests shorten them; nothing else should."""

from __future__ import annotations

from edgefl.declared import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the transport in seconds."""

    door: float = 5.0
    """The whole exchange at the door: four flights at 500 ms round trip, and a slow device's arithmetic. It also bounds
    how long somebody can hold one of the door's few places."""

    handshake: float = 5.0
    """ZeroMQ's own CURVE handshake; with 1 s, a loop that was busy for a moment lost connections."""

    heartbeat: float = 5.0
    """ZMTP heartbeats: 0.4 ms of processor time a second for 40 connections; every second costs twice that."""

    heartbeat_timeout: float = 15.0
    """Three heartbeats: a peer that is cut off while nothing is under way is noticed."""

    stall: float = 15.0
    """TCP_MAXRT: a peer that acknowledges nothing, or reads nothing, while data is under way. Heartbeats cannot see it:
    they queue behind the data."""

    connect: float = 10.0
    """From connect() to a finished handshake, or the door is asked again."""

    backoff_first: float = 0.25
    backoff_max: float = 30.0
    """Between attempts to reach a peer, doubled each time: fast for one that restarts, cheap for one that is gone."""

    queue_age: float = 5.0
    """Messages for a peer that cannot be reached are dropped after this: their senders have given up on them."""

    idle: float = 180.0
    """A link without traffic is closed: an open one costs 40 kB and heartbeats at both ends."""

    hello: float = 15.0
    """A connection that has not said who it is: handshake plus room."""

    patience: float = 1.0
    """How long to wait for a push to begin before asking for the blob: a push costs the parent less."""

    push_stall: float = 5.0
    """How long a push may pause before what is missing is asked for: one chunk takes 4 s at 0.5 Mbit/s."""

    pull_stall: float = 8.0
    """How long a source may send nothing of what it was asked for before the next source is asked."""

    pull_retry: float = 0.5
    """Pause after every source has been asked in vain; doubled each time."""

    write_after: float = 2.0
    """A fetch that takes longer is written to disk as it arrives; it is also what a kill may cost of one."""

    disk_wait: float = 2.0
    """How long a blob of which every chunk is here waits for the disk to have it, which saves memory. Not longer: the
    disk may be an SD card that takes minutes, and a round waits for the blob."""

    release_poll: float = 0.02
    """How often to look whether ZeroMQ has let go of chunks; only while some are out and others wait for room."""

    penalty: float = 60.0
    """A peer that sent too much nonsense is not admitted for this long."""

    housekeeping: float = 1.0
    """Idle links, half-open connections, abandoned blobs: one look a second costs 0.1 ms."""

    linger: float = 2.0
    """How long closing waits for what is already on its way: the last acknowledgements of a device that leaves. Not
    longer: a peer that is gone must not delay a shutdown."""
