"""How far bulk has come: what the kernel has taken is not delivered yet."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from edgefl.transport.deliveries import Deliveries

PEER, OTHER = 7, 8


class Connection:
    """A TCP connection on loopback, whose other end reads when it is told."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.ours = socket.create_connection(server.getsockname())
            self.theirs = server.accept()[0]
        self.ours.setblocking(False)

    def fill(self) -> int:
        """Write as much as the kernel takes; how much that was."""
        written = 0
        try:
            while True:
                written += self.ours.send(bytes(65536))
        except BlockingIOError:
            return written

    def read(self, size: int) -> None:
        while size:
            size -= len(self.theirs.recv(min(size, 1 << 20)))

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    made.close()


def settled(deliveries: Deliveries) -> tuple[int, int]:
    """The last look, once acknowledgements come no more."""
    deadline, looks = time.monotonic() + 10, [(-1, -1)]
    while looks[-10:] != [looks[-1]] * 10 and time.monotonic() < deadline:
        time.sleep(0.01)
        looks.append(deliveries.look(0.0))
    return looks[-1]


def test_what_the_kernel_has_taken_is_under_way_until_the_peer_has_it(connection: Connection) -> None:
    deliveries = Deliveries(lambda node_id: connection.ours.fileno())
    deliveries.begin(PEER)
    written = connection.fill()
    deliveries.sent(PEER, written)
    delivered, receivers = settled(deliveries)
    assert delivered < written, "the peer's kernel has room for a part of it"
    assert receivers == 1
    connection.read(written)
    assert settled(deliveries) == (written, 0)


def test_what_else_goes_through_the_connection_does_not_count(connection: Connection) -> None:
    deliveries = Deliveries(lambda node_id: connection.ours.fileno())
    deliveries.begin(PEER)
    connection.ours.send(bytes(5000))
    deliveries.sent(PEER, 1000)
    assert settled(deliveries) == (1000, 0)


def test_a_connection_that_is_gone_delivers_nothing(connection: Connection) -> None:
    carriers = {PEER: connection.ours.fileno(), OTHER: -1}
    deliveries = Deliveries(lambda node_id: carriers[node_id])
    deliveries.begin(OTHER)
    deliveries.sent(OTHER, 1000)
    assert deliveries.look(0.0) == (0, 0)
    deliveries.begin(PEER)
    connection.ours.send(bytes(1000))
    deliveries.sent(PEER, 1000)
    carriers[PEER] = -1
    assert settled(deliveries) == (0, 0)
