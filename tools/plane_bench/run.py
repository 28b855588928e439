"""edgefl's data plane beside bare ZeroMQ programs and beside the line: real processes, CURVE on, ratios of one run.

run.py [ROW…]; the rows are listed by --help. Rows with slow links need root, `ip` and /dev/net/tun (network.py).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import network
from fleet import Device, Fleet, subscribe

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
    root: Device, others: list[Device], size: int, seed: int, *, app: int = APP
) -> tuple[float, list[float]]:
    """Publish a new blob; when that began, and when each of the others had it."""
    ref = await root.call("make", size, seed)
    fetches = [device.call("fetch", app, *ref) for device in others]
    await asyncio.sleep(0.1)
    began = await root.call("publish", app, *ref)
    ends = await asyncio.gather(*fetches)
    await asyncio.gather(*(device.call("discard", ref[0]) for device in [root, *others]))
    return began, ends


async def bare_push(fleet: Fleet, children: int, size: int, runs: int, *, check: bool) -> list[float]:
    """Seconds of each run of the bare program."""
    parent = await fleet.spawn(0, "bare.py", "publish", children, size, runs)
    assert parent.stdout is not None
    port, key, back = (await parent.stdout.readline()).decode().split()
    host = fleet.address(0)
    for index in range(1, children + 1):
        await fleet.spawn(
            index, "bare.py", "subscribe", host, port, key, f"tcp://{host}:{back}", size, runs, *(["check"] * check)
        )
    return [float(await parent.stdout.readline()) for _ in range(runs)]


async def row_children() -> None:
    """One parent and 1, 4, 8, 16 children, 25 MB, on loopback, beside the bare program."""
    size = 25 * MB
    for count in (1, 4, 8, 16):
        async with Fleet() as fleet:
            root, *children = await fleet.devices(count + 1)
            await subscribe([APP], root, *children)
            ours = []
            for run in range(RUNS):
                began, ends = await push(root, children, size, run)
                ours.append(max(ends) - began)
            pulled = sum([(await child.call("report"))["counters"].get("blobs.pulled", 0) for child in children])
        async with Fleet() as fleet:
            bare = await bare_push(fleet, count, size, RUNS, check=False)
        async with Fleet() as fleet:
            checked = await bare_push(fleet, count, size, RUNS, check=True)
        print(
            f"      {count} children: edgefl {1e3 * min(ours):.0f} / {1e3 * statistics.median(ours):.0f} ms (best / median), "
            f"bare {1e3 * min(bare):.0f} / {1e3 * statistics.median(bare):.0f}, "
            f"bare with BLAKE2b {1e3 * min(checked):.0f} / {1e3 * statistics.median(checked):.0f}; {pulled} pulled"
        )
        judge(f"{count} children, rate over that of bare PUB/SUB", best(bare, ours), 0.85, below=False)
        judge(f"{count} children, rate over bare PUB/SUB with BLAKE2b", best(checked, ours), 0.85, below=False)


def best(theirs: list[float], ours: list[float]) -> float:
    """The better of the ratios of fastest and of median times: a noisy machine spoils one of them."""
    return max(min(theirs) / min(ours), statistics.median(theirs) / statistics.median(ours))


ROWS: dict[str, tuple[Callable[[], Awaitable[None]], bool]] = {
    "children": (row_children, False),
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
