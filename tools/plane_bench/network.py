"""Slow and distant links on one machine: a namespace per device, and a switch in user space between them.

Linux's own emulator of delay (netem) is not in every kernel. Here each namespace has one TUN device; a process of its
own reads every packet, holds it for as long as the sender's uplink, the way and the receiver's downlink would, and
writes it out. A device's link can be cut and mended. Needs root, `ip` and /dev/net/tun.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
CLONE_NEWNET = 0x40000000
VNET_HEADER_BYTES = 10

QUEUE_BYTES = 256 * 1024
"""What waits at a downlink before packets are dropped, like the buffer of a home router."""

UPLINK_BYTES = 128 * 1024
"""What waits at an uplink before the device is not read any more, and its kernel has to wait."""

FRAME_BYTES, SEGMENT_BYTES, HEADERS_BYTES = 14, 1448, 52
"""Ethernet's header, and the payload and the headers of a TCP segment: what is read comes in larger pieces."""

SLEEP_S = 20e-6


@dataclass(frozen=True, slots=True)
class Link:
    """A device's way to the middle of the network: Mbit/s each way, and half of its share of a round trip in ms."""

    up_mbit: float = 1000.0
    down_mbit: float = 1000.0
    rtt_ms: float = 2.0


IP = shutil.which("ip") or "ip"


def available() -> str:
    """Why there cannot be a network here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    try:
        subprocess.run([IP, "netns", "list"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "needs ip netns"
    return ""


def address(index: int) -> str:
    return f"10.99.{index // 250}.{1 + index % 250}"


class Network:
    """Namespaces for `links`, connected. `enter(i)` is what a command is run with to be device i."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.names = [f"edgefl-{os.getpid()}-{index}" for index in range(len(links))]
        command = [sys.executable, __file__, json.dumps([self.names, [asdict(link) for link in links]])]
        self._switch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._switch.stdout is not None
        if self._switch.stdout.readline().strip() != "ready":
            raise RuntimeError("the switch did not start")

    def enter(self, index: int) -> list[str]:
        return [IP, "netns", "exec", self.names[index]]

    def cut(self, index: int, *, cut: bool = True) -> None:
        """Cut a device's link, or mend it."""
        assert self._switch.stdin is not None
        print(json.dumps([index, cut]), file=self._switch.stdin, flush=True)

    def sent_bytes(self) -> list[int]:
        """What each device has put on its uplink so far, headers included."""
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        print(json.dumps(None), file=self._switch.stdin, flush=True)
        counts: list[int] = json.loads(self._switch.stdout.readline())
        return counts

    def close(self) -> None:
        if self._switch.stdin is not None:
            self._switch.stdin.close()
        self._switch.wait(10.0)
        for name in self.names:
            subprocess.run([IP, "netns", "delete", name], capture_output=True)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Switch:
    """Packets in a heap, by the time at which something happens to them."""

    def __init__(self, names: list[str], links: list[Link]) -> None:
        self._tuns = [_tun(name, address(index)) for index, name in enumerate(names)]
        self._index = {bytes(map(int, address(index).split("."))): index for index in range(len(names))}
        self._links = links
        self._up_free, self._down_free = [0.0] * len(names), [0.0] * len(names)
        self._cut = [False] * len(names)
        self._sent = [0] * len(names)
        self._due: list[tuple[float, int, int, int, bytes]] = []
        self._order = itertools.count()
        self._poll = select.epoll()
        for tun in self._tuns:
            self._poll.register(tun, select.EPOLLIN)
        self._poll.register(sys.stdin, select.EPOLLIN)

    def run(self) -> None:
        """Until standard input ends."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now + SLEEP_S:
                at, _, what, index, packet = heapq.heappop(self._due)
                (self._arrive, self._deliver, self._resume)[what](at, index, packet)
            wait = max(0.0, self._due[0][0] - now) if self._due else None
            # epoll counts in milliseconds, which is a chunk's worth of packets: the last one is slept.
            if wait is not None and wait < 0.001:
                if wait > SLEEP_S and not self._poll.poll(0):
                    time.sleep(wait)
                wait = 0.0
            for descriptor, _ in self._poll.poll(wait):
                if descriptor == sys.stdin.fileno():
                    lines = os.read(descriptor, 65_536)  # not readline, which would keep what follows to itself
                    if not lines:
                        return
                    for line in lines.splitlines():
                        self._obey(json.loads(line))
                else:
                    self._read(self._tuns.index(descriptor))

    def _obey(self, order: Any) -> None:
        if order is None:
            print(json.dumps(self._sent), flush=True)
        else:
            self._cut[order[0]] = order[1]

    def _later(self, at: float, what: int, index: int, packet: bytes = b"") -> None:
        heapq.heappush(self._due, (at, next(self._order), what, index, packet))

    def _read(self, sender: int) -> None:
        link, now = self._links[sender], time.monotonic()
        rate = link.up_mbit * 125_000
        for _ in range(16):
            try:
                packet = os.read(self._tuns[sender], 65_600)
            except BlockingIOError:
                return
            receiver = self._index.get(packet[VNET_HEADER_BYTES + 16 : VNET_HEADER_BYTES + 20])
            if packet[VNET_HEADER_BYTES] >> 4 != 4 or receiver is None:
                continue
            size = _on_the_wire(len(packet) - VNET_HEADER_BYTES)
            done = self._up_free[sender] = max(self._up_free[sender], now) + size / rate
            if not self._cut[sender] and not self._cut[receiver]:
                self._sent[sender] += size
                way = (link.rtt_ms + self._links[receiver].rtt_ms) / 4000
                self._later(done + way, 0, receiver, packet)
            if (done - now) * rate > UPLINK_BYTES:
                self._poll.modify(self._tuns[sender], 0)
                self._later(done - UPLINK_BYTES / 2 / rate, 2, sender)
                return

    def _arrive(self, at: float, receiver: int, packet: bytes) -> None:
        rate = self._links[receiver].down_mbit * 125_000
        begins = max(self._down_free[receiver], at)
        if (begins - at) * rate <= QUEUE_BYTES:
            done = self._down_free[receiver] = begins + _on_the_wire(len(packet) - VNET_HEADER_BYTES) / rate
            self._later(done, 1, receiver, packet)

    def _deliver(self, _: float, receiver: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # its queue is full: a packet is lost
            os.write(self._tuns[receiver], packet)

    def _resume(self, _: float, sender: int, __: bytes) -> None:
        self._poll.modify(self._tuns[sender], select.EPOLLIN)


def _on_the_wire(size: int) -> int:
    """Bytes on an Ethernet of what the kernel has handed over in one piece."""
    segments = max(1, -(-(size - HEADERS_BYTES) // SEGMENT_BYTES))
    return size + (segments - 1) * HEADERS_BYTES + segments * FRAME_BYTES


def _tun(name: str, own: str) -> int:
    """A TUN device inside a new namespace, with the segmentation left to us: one read brings up to 64 KiB."""
    subprocess.run([IP, "netns", "add", name], check=True)
    here, libc = os.open("/proc/self/ns/net", os.O_RDONLY), ctypes.CDLL(None, use_errno=True)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
        libc.setns(here, CLONE_NEWNET)
    finally:
        os.close(here)
        os.close(there)
    for command in (f"addr add {own}/16 dev tun0", "link set tun0 up", "link set lo up"):
        subprocess.run([IP, "-n", name, *command.split()], check=True)
    return tun


if __name__ == "__main__":
    names, links = json.loads(sys.argv[1])
    switch = Switch(names, [Link(**link) for link in links])
    print("ready", flush=True)
    switch.run()
