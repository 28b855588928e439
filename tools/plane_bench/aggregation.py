"""Summing updates at one parent: the shipped transport and learning layer against a bare pyzmq loop, in one run.

Children are real processes with real links (CURVE on); each sends one float32 vector. The parent is a process of its
own, and what is measured is that process from the start of the round to the closed sum: processor time (all threads),
and peak resident memory above what it had before.

    edgefl   16 x Learning over Transport -> Transport, Learning: RoundStart, Update, credit, chunks, one accumulator
    bare     16 x DEALER -> ROUTER, recv(copy=False), np.add(out=): 30 lines, no protocol, no checks
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent))

from network import Link, Network
from network import address as network_address

from edgefl.identity.admission import Admission
from edgefl.identity.fleet import FleetKey
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.token import parse
from edgefl.learning.effects import Prepared, TrainResult
from edgefl.learning.manifest import REQUIRED_ARTIFACTS
from edgefl.learning.node import Decision, Learning, Part
from edgefl.transport import Transport
from edgefl.wire import Contact, Message, encode_record
from edgefl.wire.application import Advert, AppState, Artifact, Manifest
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, ref_of
from edgefl.wire.learning import RoundKind
from edgefl.wire.overlay import Ping

PARAMETERS = 100 * CHUNK_BYTES // 4
"""25 MiB."""

CHILDREN, CHILD_PROCESSES = 16, 4
DEVICES = 16
REPEATS = 5


def manifest_of(parameters: int, compress: str) -> Manifest:
    artifacts = tuple(Artifact(name, BlobRef(bytes(32), 10)) for name in sorted(REQUIRED_ARTIFACTS))
    return Manifest(
        "bench", bytes(32), bytes(16), artifacts, "bench", parameters, 1, deadline_s=600.0, compress=compress
    )


@dataclass
class Tree:
    is_root: bool = False
    parent: Contact | None = None
    children: tuple[Any, ...] = ()
    height: int = 1
    members: int = 1
    root: int = 0


@dataclass(frozen=True)
class Child:
    contact: Contact
    observer: bool = False
    members: int = 1


@dataclass
class Device:
    """One device: the real transport and learning layer; training and blobs are at hand at once."""

    transport: Transport
    manifest: Manifest
    delta: Callable[[], np.ndarray | None]
    tree_view: Tree = field(default_factory=Tree)
    heard: dict[int, Contact] = field(default_factory=dict)
    random: Random = field(default_factory=lambda: Random(1))

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timers: dict[Any, asyncio.TimerHandle] = {}
        self.learning = Learning(self, self, lambda manifest: Decision(Part.JOIN))
        advert = Advert(encode_record(self.manifest), 1, AppState.RUNNING, bytes(64), self.transport.contact)
        self.model = ref_of(bytes(4 * self.manifest.parameters))
        app = self.learning.take_part(advert, self.loop.time())
        assert app is not None
        self.app = app

    # The transport's listener

    def on_message(self, sender: Contact, message: Message) -> None:
        if isinstance(message, Ping):
            self.heard[sender.node_id] = sender
        else:
            self.learning.on_message(sender, message, self.loop.time())

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None:
        self.learning.on_bulk(sender, message, data, self.loop.time())

    def on_link_lost(self, node_id: int) -> None: ...

    def on_admission_changed(self) -> None: ...

    # The forest

    @property
    def contact(self) -> Contact:
        return self.transport.contact

    def tree(self, app: int) -> Tree:
        return self.tree_view

    def top_ranked(self, app: int, count: int) -> tuple[Contact, ...]:
        return ()

    def join_tree(self, app: int, now: float, **options: Any) -> None: ...

    def leave_tree(self, app: int, now: float) -> None: ...

    def watch_tree(self, app: int, until: float, now: float) -> None: ...

    def publish(self, advert: Advert, now: float) -> None: ...

    # Effects

    def send(self, to: Contact, message: Message) -> None:
        self.transport.send(to, message)

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        self.transport.send_bulk(app, to.node_id, message, data)

    def set_timer(self, key: Any, at: float) -> None:
        self.cancel_timer(key)
        self.timers[key] = self.loop.call_at(at, lambda: self.learning.on_timer(key, self.loop.time()))

    def cancel_timer(self, key: Any) -> None:
        timer = self.timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def prepare(self, app: int, manifest: Manifest, sources: Any, *, observer: bool) -> None:
        self.loop.call_soon(lambda: self.learning.on_prepared(app, Prepared(self.model), self.loop.time()))

    def fetch(self, app: int, token: Any, blob: BlobRef, sources: Any, *, pushed: bool = False) -> None:
        self.loop.call_soon(lambda: self.learning.on_fetched(app, token, blob, b"", self.loop.time()))

    def train(self, app: int, job: Any) -> None:
        delta = self.delta()
        result = None if delta is None else TrainResult(delta, 10, ())
        self.loop.call_soon(lambda: self.learning.on_trained(app, job.tag, result, self.loop.time()))

    def recall(self, app: int, token: Any) -> None:
        self.loop.call_soon(lambda: self.learning.on_recalled(app, token, None, self.loop.time()))

    def release(self, app: int) -> None: ...

    def subscribe(self, app: int, parent: Contact) -> None: ...

    def unsubscribe(self, app: int) -> None: ...

    def broadcast(self, app: int, blob: BlobRef) -> None: ...

    def keep(self, app: int, token: Any, data: Any) -> None: ...

    def discard(self, app: int, blob: BlobRef) -> None: ...

    def remember(self, app: int, data: Any) -> None: ...

    def save(self, app: int, progress: Any) -> None: ...


class Late:
    """A listener that exists before the device behind it does."""

    device: Device

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: getattr(self.device, name)(*arguments)


async def start_device(token: str, address: str, manifest: Manifest, delta: Callable[[], np.ndarray | None]) -> Device:
    keys, listener = DeviceKeys.generate(), Late()
    admission = Admission(keys)
    admission.join(parse(token))
    transport = Transport(keys, admission, listener, executor=ThreadPoolExecutor(1), listen=(address, 0))  # type: ignore[arg-type]
    await transport.start()
    listener.device = Device(transport, manifest, delta)
    await asyncio.sleep(0.05)
    return listener.device


# What is measured


class Meter:
    """Processor time of this process and its peak resident memory, from now on."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        self.resident = _status("VmRSS")
        self.began, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "cpu_s": time.process_time() - self.processor,
            "seconds": time.perf_counter() - self.began,
            "extra_bytes": _status("VmHWM") - self.resident,
        }


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def say(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


# Processes: edgefl


async def member(
    token: str, address: str, children: int, above: str, parameters: int, compress: str, numbers: list[int]
) -> None:
    """The devices of one process: leaves, one for each of `numbers` (what its vector is full of), below the contact
    `above`; or, with children, an inner device or the root (`above` is null)."""
    contact = json.loads(above)
    parent = None if contact is None else Contact(*contact)
    for number in numbers:
        vector = None if parent is None else np.full(parameters, number, np.float32)
        device = await start_device(token, address, manifest_of(parameters, compress), lambda v=vector: v)  # type: ignore[misc]
        if children:
            say([device.contact.node_id, device.contact.host, device.contact.port])
            while len(device.heard) < children:  # noqa: ASYNC110 - before anything is measured
                await asyncio.sleep(0.01)
            device.tree_view.children = tuple(Child(contact) for contact in device.heard.values())
        device.tree_view.members = 1 + children
        device.tree_view.parent = parent
        device.transport.send(parent or device.contact, Ping(1))
    if parent is None:
        await lead(device, children, parameters)
    await asyncio.Event().wait()


async def lead(device: Device, children: int, parameters: int) -> None:
    """The root's round, measured."""
    device.tree_view.is_root = True
    sys.stdin.readline()
    meter, done = Meter(), asyncio.Event()
    device.app.coordinator.on_closed = lambda round_, now: done.set()  # type: ignore[method-assign]
    tag, now = (1 << 16, 1, 1), device.loop.time()
    round_ = device.app.worker.begin(tag, RoundKind.TRAIN, device.model, 600.0, (), now, mine=True, source=None)
    await asyncio.wait_for(done.wait(), 300)
    figures = meter.read()
    assert round_.sum.total is not None
    mean = float(round_.sum.total.mean())
    say({**figures, "mean": mean, "participants": round_.participants, "counters": device.app.counters})


# Processes: bare pyzmq


def bare_parent(children: int, parameters: int) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    public, secret = zmq.curve_keypair()
    socket.curve_server, socket.curve_publickey, socket.curve_secretkey = True, public, secret
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    say([port, public.decode()])
    peers = [socket.recv_multipart()[0] for _ in range(children)]
    sys.stdin.readline()
    meter = Meter()
    total = np.zeros(parameters, np.float32)
    size = CHUNK_BYTES // 4
    for peer in peers:
        socket.send_multipart([peer, b"go"])
    for _ in range(children * (parameters // size)):
        _, header, data = socket.recv_multipart(copy=False)
        at = int.from_bytes(header.bytes, "big") * size
        view = total[at : at + size]
        np.add(view, np.frombuffer(data.buffer, np.float32), out=view)
    say({**meter.read(), "mean": float(total.mean()) / children})


def bare_child(contact: str, count: int, first: int, parameters: int) -> None:
    port, key = json.loads(contact)
    context = zmq.Context()
    sockets = []
    for _ in range(count):
        socket = context.socket(zmq.DEALER)
        public, secret = zmq.curve_keypair()
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = key.encode(), public, secret
        socket.sndhwm = 4
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(b"here")
        sockets.append((socket, memoryview(np.full(parameters, first + len(sockets), np.float32)).cast("B")))
    for socket, _ in sockets:
        socket.recv()
    for at in range(0, 4 * parameters, CHUNK_BYTES):
        for socket, data in sockets:
            header = (at // CHUNK_BYTES).to_bytes(4, "big")
            socket.send_multipart([header, data[at : at + CHUNK_BYTES]], copy=False)
    time.sleep(600)


# The runs


def processes_of(kind: str, token: str, children: int, parameters: int, compress: str) -> tuple[Any, list[Any]]:
    """The parent's process, and those of its children."""
    if kind == "edgefl":
        above = spawn([], "member", token, "127.0.0.1", children, "null", parameters, compress, 0)
    else:
        above = spawn([], "bare-parent", children, parameters)
    contact, below = above.stdout.readline().strip(), []
    each = -(-children // CHILD_PROCESSES)
    for first in range(0, children, each):
        numbers = range(first, min(children, first + each))
        if kind == "edgefl":
            below.append(spawn([], "member", token, "127.0.0.1", 0, contact, parameters, compress, *numbers))
        else:
            below.append(spawn([], "bare-child", contact, len(numbers), first, parameters))
    return above, below


def spawn(enter: list[str], *arguments: object) -> subprocess.Popen[str]:
    command = [*enter, sys.executable, str(Path(__file__)), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def outcome(root: Any, others: list[Any]) -> dict[str, Any]:
    """Start the round at the root; what it measured. All processes end."""
    try:
        root.stdin.write("go\n")
        root.stdin.flush()
        line = root.stdout.readline()
        if not line:
            raise SystemExit("the root has failed")
        found: dict[str, Any] = json.loads(line)
        return found
    finally:
        for process in [root, *others]:
            process.kill()
            process.wait()


def run(kind: str, children: int, parameters: int, compress: str = "none") -> dict[str, Any]:
    """One sum at one parent, of `kind` edgefl or bare, in processes of its own."""
    token = FleetKey.generate().invite(()).text
    return outcome(*processes_of(kind, token, children, parameters, compress))


def run_tree(link: Link, parameters: int, compress: str = "none") -> dict[str, Any]:
    """One sum up a tree of 16 devices with a fan-out of 4, each in a namespace behind `link`."""
    token, fanout = FleetKey.generate().invite(()).text, 4
    parents = [(place - 1) // fanout for place in range(1, DEVICES)]
    with Network([link] * DEVICES) as network:
        started, contacts = [], {-1: "null"}
        for place in range(DEVICES):
            children = parents.count(place)
            above = contacts[parents[place - 1] if place else -1]
            arguments = (token, network_address(place), children, above, parameters, compress, place)
            started.append(spawn(network.enter(place), "member", *arguments))
            if children:
                contacts[place] = started[-1].stdout.readline().strip()  # type: ignore[union-attr]
        return outcome(started[0], started[1:])


def measure(judge: Callable[..., None]) -> None:
    """16 children of 25 MiB at one parent with CURVE, against a bare ROUTER loop; memory at 4 and at 16 children."""
    ratios, extra = [], {4: 0.0, CHILDREN: 0.0}
    model_mb = 4 * PARAMETERS / 1e6
    for _ in range(REPEATS):
        ours, bare = run("edgefl", CHILDREN, PARAMETERS), run("bare", CHILDREN, PARAMETERS)
        assert abs(ours["mean"] - bare["mean"]) < 1e-3, "the two sums differ"
        assert ours["participants"] == CHILDREN
        ratios.append(ours["cpu_s"] / bare["cpu_s"])
        extra[CHILDREN] = max(extra[CHILDREN], ours["extra_bytes"] / 1e6)
        print(
            f"      sum of {CHILDREN} x {model_mb:.1f} MB: edgefl {ours['cpu_s']:.2f} s of processor in "
            f"{ours['seconds']:.2f} s, bare {bare['cpu_s']:.2f} s in {bare['seconds']:.2f} s; "
            f"memory {ours['extra_bytes'] / 1e6:.1f} MB and {bare['extra_bytes'] / 1e6:.1f} MB",
            flush=True,
        )
    extra[4] = run("edgefl", 4, PARAMETERS)["extra_bytes"] / 1e6
    judge("aggregation, processor time over bare pyzmq, median", sorted(ratios)[len(ratios) // 2], 1.2)
    for children, megabytes in extra.items():
        judge(f"aggregation, peak memory, {children} children", megabytes, 1.5 * model_mb + 16.8, unit="MB")


def measure_tree(judge: Callable[..., None]) -> None:
    """Sums of 5 MB up a tree of 16 devices, fan-out 4, on links of 20 Mbit/s: beside what the fullest link takes."""
    parameters, rate = 5_000_000 // 4, 20e6 / 8
    times = []
    for _ in range(2):
        found = run_tree(Link(20, 20, 20), parameters)
        assert found["participants"] == DEVICES - 1, found
        times.append(found["seconds"])
    limit = 4 * 4 * parameters / rate + 2 * CHUNK_BYTES / rate
    print(f"      {' and '.join(f'{time:.2f} s' for time in times)}; the limit is {limit:.2f} s", flush=True)
    judge("aggregation up a tree of 16, time over the limit", min(times) / limit, 1.15)


def main() -> None:
    def show(what: str, value: float, limit: float, **_: Any) -> None:
        print(f"{what}: {value:.3f} (limit {limit:.3f})", flush=True)

    role, *rest = sys.argv[1:] or ["measure"]
    if role == "measure":
        measure(show)
    elif role == "tree":
        measure_tree(show)
    elif role == "bare-parent":
        bare_parent(int(rest[0]), int(rest[1]))
    elif role == "bare-child":
        bare_child(rest[0], *map(int, rest[1:]))
    else:
        token, address, children, above, parameters, compress, *numbers = rest
        asyncio.run(member(token, address, int(children), above, int(parameters), compress, [int(n) for n in numbers]))


if __name__ == "__main__":
    main()
