"""The only room with sockets: how devices let each other in, talk, and move models. It knows no message but its own.

    transport.py      Transport: everything below, put together; the interface to the rest of the house

    door.py           the port for strangers: a small TCP service, few places, a deadline; dials visitors back
    visit.py          knocking at others' doors
    calls.py          our own knocks, and what they teach us
    door_exchange.py  what is said there: a mutually authenticated, sealed exchange of fixed-size frames (no sockets)
    rate.py           how often strangers may knock
    zap.py            the allow list at ZeroMQ's own ports
    cards.py          what we know about other devices' doors
    outside.py        our own address as others see it

    links.py          messages: ROUTER in, DEALER out, Hello, Bye, losses
    dial.py           one outbound connection as a state machine: knock, connect, up, lost
    bulk_line.py      a second connection with a peer, for what is large
    peer.py           what we hold for one peer
    outbox.py         messages that wait for a connection
    inbound.py        who is connected to a bound socket, and how to cut one off
    tcp_info.py       what the kernel knows about ZeroMQ's connections
    penalties.py      peers that send nonsense
    revoking.py       the list of revocations, passed on

    blobs.py          blobs at hand: cache, files, what is arriving
    assembly.py       one arriving blob, checked chunk by chunk
    write_through.py  arriving blobs on disk, for those who restart
    pull.py           asking for blobs, source after source
    serve.py          answering those who ask
    bulk.py           updates for a parent, chunk by chunk
    broadcast.py      pushing to children, chunk by chunk as it arrives
    subscribers.py    the children: who they are, how far each has come, who is too slow to be pushed to
    slow_lane.py      children that were too slow, and for how long
    credit.py         how much may be pushed to a child before it has taken it
    feeds.py          taking what parents push
    uplink.py         whose turn it is to send, how fast, and how fast it went
    reuse.py          chunks that are at hand under another name
    limits.py         how much memory all this may take
    flight.py         chunks that ZeroMQ has not let go of
    deliveries.py     how far what was sent has come, by the kernel's word
    blame.py          where wrong data came from

    zmq_socket.py     a ZeroMQ socket on the asyncio loop that loses no signal
    curve.py          all socket options in one place; CURVE always
    timing.py         every duration      counters.py  every count

One asyncio loop, one Python thread. Threads that are not ours to avoid: ZeroMQ's I/O thread and reaper, pyzmq's
collector of zero-copy buffers (started by the first chunk that is sent), and the executor that is handed in.
"""

from edgefl.transport.blobs import BlobFiles
from edgefl.transport.door_exchange import DialBack
from edgefl.transport.limits import Limits, limits_for
from edgefl.transport.timing import Timing
from edgefl.transport.transport import Transport, TransportListener
from edgefl.transport.visit import Knocked

__all__ = ["BlobFiles", "DialBack", "Knocked", "Limits", "Timing", "Transport", "TransportListener", "limits_for"]
