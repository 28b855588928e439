"""A member of the fleet that does not keep to the rules: raw ZeroMQ sockets with keys that are on the allow list."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import zmq
from zmq.utils import z85

from edgefl.identity.keys import DeviceKeys
from edgefl.transport.links import Hello
from edgefl.wire.codec import encode
from edgefl.wire.contact import Contact
from tests.transport.fleet import FLEET, Device


class Insider:
    """Admitted wherever it connects to. Its sockets have no heartbeats and do not linger."""

    def __init__(self) -> None:
        self.keys = DeviceKeys.generate()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self.contact = Contact(self.keys.node_id, "127.0.0.1", 9)

    @property
    def node_id(self) -> int:
        return self.keys.node_id

    def dealer(self, device: Device, *, hello: bool = True, receive_limit: int = 1000) -> zmq.Socket[bytes]:
        """A link to the device; with `hello` already greeted."""
        socket = self._connect(device, zmq.DEALER, 0, receive_limit)
        if hello:
            socket.send(encode(Hello(self.contact, reply=True)))
        return socket

    def subscriber(self, device: Device, *topics: bytes, receive_limit: int = 1) -> zmq.Socket[bytes]:
        """A subscription that is never read, unless the test does."""
        socket = self._connect(device, zmq.SUB, 1, receive_limit)
        for topic in topics:
            socket.subscribe(topic)
        return socket

    def admit_at(self, device: Device) -> None:
        """Stand on this device's allow list."""
        device.admission.admit(FLEET.invite(()).certify(self.keys))

    def close(self) -> None:
        self.context.destroy(linger=0)

    def _connect(self, device: Device, kind: int, port: int, receive_limit: int) -> zmq.Socket[bytes]:
        self.admit_at(device)
        public, secret = self.keys.curve_z85()
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.RCVHWM, receive_limit)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(device.admission.keys.curve_public))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self._sockets.append(socket)
        socket.connect(f"tcp://127.0.0.1:{device.transport._ports[port]}")
        return socket


@contextlib.contextmanager
def an_insider() -> Iterator[Insider]:
    insider = Insider()
    try:
        yield insider
    finally:
        insider.close()
