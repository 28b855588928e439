"""edgefl's data plane beside bare ZeroMQ programs and beside the line: real processes, CURVE on, ratios of one run.

run.py [ROW…]; the rows are listed by --help. Rows with slow links need root, `ip` and /dev/net/tun (network.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import network
from fleet import Device, Fleet, subscribe
from network import Link, Network

from edgefl.wire.blob import CHUNK_BYTES

APP = 1
MB = 1_000_000
RUNS = 7

failures: list[str] = []


def judge(what: str, value: float, limit: float, *, below: bool = True, unit: str = "") -> None:
    """Print one figure beside its limit."""
    kept = value <= limit if below else value >= limit
    print(f"{'ok  ' if kept else 'FAIL'}  {what:<64}{value:>9.3f} {'≤' if below else '≥'} {limit:g} {unit}", flush=True)
    if not kept:
        failures.append(what)


async def push(
    root: Device, others: list[Device], size: int, seed: int, *, app: int = APP, processor: Processor | None = None
) -> tuple[float, list[float]]:
    """Publish a new blob; when that began, and when each of the others had it."""
    ref = await root.call("make", size, seed)
    fetches = [device.call("fetch", app, *ref) for device in others]
    await asyncio.sleep(0.1)
    with processor or contextlib.nullcontext():
        began = await root.call("publish", app, *ref)
        ends = await asyncio.gather(*fetches)
    await asyncio.gather(*(device.call("discard", ref[0]) for device in [root, *others]))
    return began, ends


class Bare:
    """The bare program: a parent at place 0 and children, or a chain of relays."""

    def __init__(self, fleet: Fleet, size: int, runs: int, *, check: bool = False) -> None:
        self._fleet, self._size, self._runs = fleet, size, runs
        self._check = ["check"] if check else []

    async def start(self, children: int, *, chain: bool = False) -> None:
        self._parent = await self._fleet.spawn(
            0, "bare.py", "publish", 1 if chain else children, children, self._size, self._runs
        )
        port, key, back = await self._words(self._parent)
        host = source = self._fleet.address(0)
        for place in range(1, children + 1):
            role = "relay" if chain and place < children else "subscribe"
            where = (source, port, key, f"tcp://{host}:{back}", self._size, self._runs)
            process = await self._fleet.spawn(place, "bare.py", role, *where, *self._check)
            if role == "relay":
                port, key = await self._words(process)
                source = self._fleet.address(place)
        if chain:
            await asyncio.sleep(2.0)  # a PUB does not tell when its subscribers are there

    async def push(self) -> float:
        """Seconds until the last child has it all."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(b"\n")
        return float((await self._words(self._parent))[0])

    async def _words(self, process: asyncio.subprocess.Process) -> list[str]:
        assert process.stdout is not None
        return (await asyncio.wait_for(process.stdout.readline(), 60.0)).decode().split()


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Of two measured in turns: of the best, or the median of neighbours. A noisy machine spoils one of them."""
    return max(min(theirs) / min(ours), statistics.median(b / a for a, b in zip(ours, theirs, strict=True)))


def milliseconds(times: list[float]) -> str:
    return f"{1e3 * min(times):.0f} / {1e3 * statistics.median(times):.0f} ms"


class Processor:
    """Processor time of some processes while they move `size` bytes at a time. On a busy machine it says more than wall
    time."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process], size: int) -> None:
        self._processes, self._size = processes, size
        self._spent_s, self._moved = 0.0, 0

    def __enter__(self) -> None:
        self._spent_s -= sum(map(processor_s, self._processes))

    def __exit__(self, *_: object) -> None:
        self._spent_s += sum(map(processor_s, self._processes))
        self._moved += self._size

    @property
    def ms_per_mb(self) -> float:
        return 1e3 * self._spent_s / (self._moved / MB)


def processor_s(process: asyncio.subprocess.Process) -> float:
    """Processor time of a process until now; nothing once it has ended."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def counted(devices: list[Device], name: str) -> int:
    """A counter, over several devices."""
    return sum([(await device.call("report"))["counters"].get(name, 0) for device in devices])


async def row_children() -> None:
    """One parent and 1, 4, 8, 16 children, 25 MB, on loopback, beside the bare program. All share one machine's
    processors, so this is about processor time, of which checking the chunks is a third."""
    for count in (1, 4, 8, 16):
        await children(count, "loopback", None)


async def row_lan() -> None:
    """The same with links of 1 Gbit/s, as in a local network: 1, 4 and 8 children."""
    for count in (1, 4, 8):
        with Network([Link(1000, 1000, 1)] * (count + 1)) as network_:
            await children(count, "1 Gbit/s", network_)


async def children(count: int, where: str, network_: Network | None) -> None:
    size = 25 * MB
    async with Fleet(network_) as fleet:
        # Without a state directory: nothing this fast is written through, but on a busy machine it may not be so fast.
        root, *others = await fleet.devices(count + 1, files=False)
        await subscribe([APP], root, *others)
        # One run more than are made, so that their processes are still there to be asked.
        plain, checked = Bare(fleet, size, RUNS + 1), Bare(fleet, size, RUNS + 1, check=True)
        await plain.start(count)
        await checked.start(count)
        ours, theirs, with_check = [], [], []
        spent = [
            Processor(fleet.processes[at : at + count + 1], size * count) for at in range(0, 3 * count + 3, count + 1)
        ]
        for run in range(RUNS):
            began, ends = await push(root, others, size, run, processor=spent[0])
            ours.append(max(ends) - began)
            with spent[1]:
                theirs.append(await plain.push())
            with spent[2]:
                with_check.append(await checked.push())
        pulled = await counted(others, "blobs.pulled")
    print(
        f"      {count} children, best / median: edgefl {milliseconds(ours)}, bare {milliseconds(theirs)}, "
        f"bare with BLAKE2b {milliseconds(with_check)}; {pulled} chunks pulled"
    )
    ours_ms, plain_ms, checked_ms = (one.ms_per_mb for one in spent)
    print(
        f"      processor time for a MB and child: edgefl {ours_ms:.1f} ms, bare {plain_ms:.1f} ms, with BLAKE2b "
        f"{checked_ms:.1f} ms: {plain_ms / ours_ms:.2f} and {checked_ms / ours_ms:.2f} of edgefl's"
    )
    judge(f"{count} children, {where}, rate over that of bare PUB/SUB", ratio(theirs, ours), 0.85, below=False)
    checking = ratio(with_check, ours)
    judge(f"{count} children, {where}, over bare PUB/SUB with BLAKE2b", checking, 0.85, below=False)


async def row_chain() -> None:
    """A chain of three hops, 20 ms and 100 Mbit/s each, 25 MB: beside the line time, and a bare relay."""
    size, runs = 25 * MB, 3
    with Network([Link(100, 100, 20)] * 4) as network_:
        async with Fleet(network_) as fleet:
            devices = await fleet.devices(4)
            for parent, child in itertools.pairwise(devices):
                await subscribe([APP], parent, child)
            bare = Bare(fleet, size, runs)
            await bare.start(3, chain=True)
            ours, theirs = [], []
            for run in range(runs):
                began, ends = await push(devices[0], devices[1:], size, run)
                ours.append(max(ends) - began)
                theirs.append(await bare.push())
    line_s = size * 8 / 100e6
    print(f"      edgefl {milliseconds(ours)}, bare {milliseconds(theirs)}, the line {1e3 * line_s:.0f} ms")
    judge("chain of 3 hops, time over line time", min(ours) / line_s, 1.2)
    judge("chain of 3 hops, rate over a bare relay", ratio(theirs, ours), 0.95, below=False)


async def row_far() -> None:
    """One child at 100 ms and 200 Mbit/s, 40 MB: beside the bare program, after a first push that finds the rate."""
    size, runs = 40 * MB, 4
    with Network([Link(200, 200, 100)] * 2) as network_:
        async with Fleet(network_) as fleet:
            root, child = await fleet.devices(2)
            await subscribe([APP], root, child)
            bare = Bare(fleet, size, runs)
            await bare.start(1)
            ours, theirs = [], []
            for run in range(runs):
                began, ends = await push(root, [child], size, run)
                ours.append(max(ends) - began)
                theirs.append(await bare.push())
    first = [f"{1e3 * times[0]:.0f} ms" for times in (ours, theirs)]
    print(
        f"      edgefl {milliseconds(ours[1:])}, bare {milliseconds(theirs[1:])}; the first push {' and '.join(first)}"
    )
    judge("a child at 100 ms and 200 Mbit/s, rate over a bare program", ratio(theirs[1:], ours[1:]), 0.85, below=False)


async def row_tree() -> None:
    """16 devices in a tree of fan-out 4, 5 MB, links of 20 Mbit/s: beside what the most loaded link allows. With
    `[limits] uplink` set to what the line takes without headers, and without it."""
    for told in (True, False):
        await tree(told)


async def tree(told: bool) -> None:
    size, rate, fanout = 5 * MB, 20e6 / 8, 4
    options = {"uplink_bytes_s": 0.95 * rate} if told else {}
    with Network([Link(20, 20, 20)] * 16) as network_:
        async with Fleet(network_) as fleet:
            devices = await fleet.devices(16, **options)
            parents = [(place - 1) // fanout for place in range(1, 16)]
            for parent in sorted(set(parents)):
                await subscribe([APP], devices[parent], *(devices[i + 1] for i, p in enumerate(parents) if p == parent))
            times = []
            for run in range(2):
                began, ends = await push(devices[0], devices[1:], size, run)
                times.append(max(ends) - began)
    limit = fanout * size / rate + 2 * CHUNK_BYTES / rate
    print(f"      {milliseconds(times)}; the limit is {1e3 * limit:.0f} ms")
    judge(f"tree of 16, uplink {'told' if told else 'not told'}, time over the limit", min(times) / limit, 1.15)


async def row_slow() -> None:
    """One child at 1 % of the others' rate, 25 MB, 4 children: what it costs the others."""
    size = 25 * MB
    times = {}
    for slow in (False, True):
        links = [Link(1000, 1000, 5)] + [Link(100, 100, 5)] * 3 + [Link(1, 1, 5) if slow else Link(100, 100, 5)]
        with Network(links) as network_:
            async with Fleet(network_) as fleet:
                root, *children = await fleet.devices(5)
                await subscribe([APP], root, *children)
                ends = []
                for run in range(3):
                    ref = await root.call("make", size, run)
                    fetches = [child.call("fetch", APP, *ref) for child in children[:3]]
                    began = await root.call("publish", APP, *ref)
                    ends.append(max(await asyncio.gather(*fetches)) - began)
                    await asyncio.gather(*(device.call("discard", ref[0]) for device in [root, *children]))
                times[slow] = ends
                cut = await counted([root], "dropped.lagging-child")
    print(f"      without {milliseconds(times[False])}, with {milliseconds(times[True])}; {cut} times cut off")
    judge("one slow child, the others' time over that without it", min(times[True]) / min(times[False]), 1.03)


async def row_faults() -> None:
    """5 % of chunks dropped; links cut for 10 s; the parent replaced in mid-transfer: bytes and hashes."""
    size = 10 * MB
    for fault in ("drop", "cut", "parent"):
        with Network([Link(20, 20, 20)] * 5) as network_:
            async with Fleet(network_) as fleet:
                root, left, right, *leaves = await fleet.devices(5)
                await subscribe([APP], root, left, right)
                await subscribe([APP], left, *leaves)
                if fault == "drop":
                    await asyncio.gather(root.call("drop", 0.05), left.call("drop", 0.05))
                others = [left, right, *leaves]
                for device in leaves:
                    await device.call("meet", right.host, right.port)
                ref = await root.call("make", size, 1)
                fetches = [
                    device.call("fetch", APP, *ref, [parent.node_id])
                    for device, parent in zip(others, (root, root, left, left), strict=True)
                ]
                sent = sum(network_.sent_bytes())
                began = await root.call("publish", APP, *ref)
                await asyncio.sleep(3.0)
                survivors = list(range(4))
                if fault == "cut":
                    network_.cut(1)
                    network_.cut(3)
                    await asyncio.sleep(10.0)
                    network_.cut(1, cut=False)
                    network_.cut(3, cut=False)
                elif fault == "parent":
                    left.kill()
                    survivors = [1, 2, 3]
                    for device in leaves:
                        await device.call("subscribe", APP, right.node_id)
                ends = [await fetches[place] for place in survivors]
                sent = sum(network_.sent_bytes()) - sent
                pulled = await counted([others[place] for place in survivors], "blobs.pulled")
        if fault == "parent":
            # What was sent to the one that died is lost with it; what it had passed on is not.
            copies = 3 + 3.0 * 20e6 / 8 / 2 / size
        else:
            copies = 4.0
        print(f"      {fault}: {max(ends) - began:.1f} s, {sent / MB:.1f} MB on the wire, {pulled} chunks pulled")
        judge(f"{fault}: bytes on the wire over what has to be sent", sent / (copies * size), 1.15)


async def row_control() -> None:
    """Control round trips between parent and child while bulk fills their link, 20 ms and 100 Mbit/s."""
    with Network([Link(100, 100, 20)] * 2) as network_:
        async with Fleet(network_) as fleet:
            root, child = await fleet.devices(2)
            await subscribe([APP], root, child)
            await child.call("ping", root.node_id, 5, 0.01)
            idle = await child.call("ping", root.node_id, 100, 0.01)
            ref = await root.call("make", 100 * MB, 1)
            fetch = child.call("fetch", APP, *ref)
            await root.call("publish", APP, *ref)
            await asyncio.sleep(0.5)
            busy = await child.call("ping", root.node_id, 100, 0.01)
            assert not fetch.done(), "the bulk was over before the pings"
            await fetch
    median, tail = statistics.median(busy), sorted(busy)[98]
    tail_ms = 1e3 * tail
    print(
        f"      best / median: idle {milliseconds(idle)}, busy {milliseconds(busy)}; 99th percentile {tail_ms:.1f} ms, "
        f"idle {1e3 * sorted(idle)[98]:.1f} ms"
    )
    judge("control while bulk flows, median over idle median", median / statistics.median(idle), 2.0)
    judge("control while bulk flows, 99th percentile over RTT", 1e3 * (tail - 0.02), 50, unit="ms")


async def row_apps() -> None:
    """Ten applications at once over one link of 100 Mbit/s, 10 MB each: shares and total."""
    size, count = 10 * MB, 10
    with Network([Link(100, 100, 20)] * 2) as network_:
        async with Fleet(network_) as fleet:
            root, child = await fleet.devices(2)
            await subscribe(list(range(1, count + 1)), root, child)
            alone = []
            began, ends = await push(root, [child], count * size, 0)
            alone.append(max(ends) - began)
            refs = [await root.call("make", size, 100 + app) for app in range(count)]
            fetches = [child.call("fetch", app + 1, *ref) for app, ref in enumerate(refs)]
            began = min(await asyncio.gather(*(root.call("publish", app + 1, *ref) for app, ref in enumerate(refs))))
            ends = await asyncio.gather(*fetches)
    rates = [size / (end - began) for end in ends]
    fair = count * size / (max(ends) - began) / count
    first, last = min(ends) - began, max(ends) - began
    print(f"      alone {milliseconds(alone)} for as many bytes; ten were there after {first:.2f} to {last:.2f} s")
    judge("ten applications, largest distance from a fair share", max(abs(rate / fair - 1) for rate in rates), 0.1)
    judge("ten applications, total rate over one alone", min(alone) / (max(ends) - began), 0.95, below=False)


async def row_bytes() -> None:
    """Bytes that one push of 1 MB costs: in TCP's stream, with the framing of ZMTP and CURVE, and with all headers."""
    size = MB
    with Network([Link(100, 100, 20)] * 2) as network_:
        async with Fleet(network_) as fleet:
            root, child = await fleet.devices(2)
            await subscribe([APP], root, child)
            await push(root, [child], size, 0)
            await asyncio.sleep(0.2)
            stream, packets = (await root.call("report"))["acknowledged"], sum(network_.sent_bytes())
            await push(root, [child], size, 1)
            await asyncio.sleep(0.2)
            stream = (await root.call("report"))["acknowledged"] - stream
            packets = sum(network_.sent_bytes()) - packets
    print(f"      with Ethernet, IP and TCP, and the acknowledgements: {packets} bytes")
    judge("1 MB model, bytes in the TCP stream over payload", stream / size, 1.03)


async def row_memory() -> None:
    """A model of 100 MB through an inner node that has 256 MB of memory (RLIMIT_DATA), links of 200 Mbit/s."""
    size = 100 * MB
    with Network([Link(200, 200, 5), Link(400, 400, 5), Link(200, 200, 5), Link(200, 200, 5), Link()]) as network_:
        async with Fleet(network_) as fleet:
            root, *leaves, idle = await fleet.devices(4, first=1)
            inner = await fleet.device(0, limit_mb=256)
            await subscribe([APP], root, inner)
            await subscribe([APP], inner, *leaves)
            watched = [root, inner, *leaves, idle]
            ref = await root.call("make", size, 1)
            fetches = [device.call("fetch", APP, *ref) for device in (inner, *leaves)]
            for device in watched:
                await device.call("watch_lag")
            began = await root.call("publish", APP, *ref)
            ends = await asyncio.gather(*fetches)
            reports = [await device.call("report") for device in watched]
    print(f"      {max(ends) - began:.2f} s; the inner node's bound for blobs is {reports[1]['bound_mb']:.0f} MB")
    judge("100 MB through 256 MB, peak resident", reports[1]["peak_mb"], 256, unit="MB")
    judge("100 MB through 256 MB, peak resident that no file stands behind", reports[1]["own_mb"], 128, unit="MB")
    for name, report in zip(("root", "inner node", "leaf", "leaf", "idle"), reports, strict=True):
        print(f"      {name}: worst lag {report['lag']['worst_ms']:.1f} ms, {report['lag']['counts']}")
    longest = max(report["longest_handler_ms"] for report in reports)
    judge("100 MB in flight, longest handler, processor time", longest, 20, unit="ms")


async def row_standing() -> None:
    """100 MB pushed to a child whose loop stands still for two seconds, on loopback: what it holds then."""
    size = 100 * MB
    async with Fleet(None) as fleet:
        root, child = await fleet.devices(2, files=False)
        await subscribe([APP], root, child)
        await push(root, [child], 10 * MB, 0)
        ref = await root.call("make", size, 1)
        fetch, standing = child.call("fetch", APP, *ref), child.call("stand", 2.0)
        await root.call("publish", APP, *ref)
        held_kb = await standing
        await fetch
        pulled, cut = await counted([child], "blobs.pulled"), await counted([root, child], "connections_cut")
    print(f"      {pulled} chunks pulled, {cut} connections cut")
    judge("a child whose loop stands still, memory that fills meanwhile", held_kb / 1024, 16, unit="MiB")


async def row_sums() -> None:
    """Updates of 16 children, 25 MiB each, summed at one parent, beside a bare ROUTER loop (aggregation.py)."""
    import aggregation

    aggregation.measure(judge)


async def row_sums_tree() -> None:
    """Sums of 5 MB up a tree of 16 devices of fan-out 4, links of 20 Mbit/s (aggregation.py)."""
    import aggregation

    aggregation.measure_tree(judge)


async def row_encodings() -> None:
    """Bytes and accuracy under every encoding of updates, 16 simulated devices with real models (encodings.py)."""
    import encodings_of_updates

    encodings_of_updates.measure(judge)


ROWS: dict[str, tuple[Callable[[], Awaitable[None]], bool]] = {
    "children": (row_children, False),
    "lan": (row_lan, True),
    "chain": (row_chain, True),
    "far": (row_far, True),
    "tree": (row_tree, True),
    "slow": (row_slow, True),
    "faults": (row_faults, True),
    "control": (row_control, True),
    "apps": (row_apps, True),
    "bytes": (row_bytes, True),
    "memory": (row_memory, True),
    "standing": (row_standing, False),
    "sums": (row_sums, False),
    "sums-tree": (row_sums_tree, True),
    "encodings": (row_encodings, False),
}
"""Each row, and whether it needs a network of its own."""


def main() -> None:
    described = "\n".join(f"  {name:<12} {row.__doc__}" for name, (row, _) in ROWS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{described}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW")
    wanted = parser.parse_args().rows or list(ROWS)
    missing = network.available()
    for name in wanted:
        row, needs_network = ROWS[name]
        print(f"{name}: {row.__doc__}", flush=True)
        if needs_network and missing:
            print(f"      not measured: {missing}")
        else:
            asyncio.run(row())
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
