"""What the kernel tells of a connection, which stays as it was."""

from __future__ import annotations

import os
import socket
import time

from edgefl.transport.tcp_info import Counts, counts


def test_bytes_in_both_directions_and_the_round_trip() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
        with here, there:
            here.sendall(b"x" * 1000)
            there.sendall(b"y" * 300)
            assert there.recv(2000) == b"x" * 1000
            assert here.recv(2000) == b"y" * 300
            end = time.monotonic() + 5.0
            while (found := counts(here.fileno())) is None or found.acknowledged < 1000:
                assert time.monotonic() < end
            assert found.acknowledged in (1000, 1001)  # the handshake counts as one
            assert found.received == 300
            assert 0.0 < found.rtt_s < 5.0
            here.sendall(b"still open")
            assert there.recv(100) == b"still open"


def test_what_is_no_connection_tells_nothing() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    assert counts(reading) is None
    os.close(reading)
    assert counts(reading) is None
    with socket.socket(socket.AF_UNIX) as other:
        assert counts(other.fileno()) in (None, Counts(0, 0, 0.0))
