"""Random fault schedules for small rings (edgefl/sim/fault_schedules.py): a long run, over several processes.

A schedule is a number, so a range of numbers is all there is to remember: an interrupted run says with which number to
go on. A schedule that breaks an invariant is printed with as few faults as still break it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass

from edgefl.sim.fault_schedules import REPAIR_S, TWO_ROOTS_S, Verdict, run, shrink, trial

REPORT_EVERY = 100


@dataclass(frozen=True, slots=True)
class Result:
    """One schedule's verdict; `smallest` is the schedule in words if it failed."""

    seed: int
    verdict: Verdict
    smallest: str


def judged(seed: int) -> Result:
    """Run the schedule of this number; make it smaller if it fails."""
    this = trial(seed)
    verdict = run(this)
    smallest = "" if verdict.violation is None else str(shrink(this, verdict.violation))
    return Result(seed, verdict, smallest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--count", type=int, default=100_000, help="how many schedules")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--show", type=int, metavar="SEED", help="print this schedule and its verdict, nothing else")
    options = parser.parse_args()
    if options.show is not None:
        print(trial(options.show))
        verdict = run(trial(options.show))
        print(f"# {verdict.violation or 'ok'} {verdict.detail}".rstrip())
        raise SystemExit(verdict.violation is not None)
    seeds = range(options.first, options.first + options.count)
    violations: Counter[str] = Counter()
    done, torn, longest_s, began = 0, 0, 0.0, time.monotonic()
    print(f"bounds: two roots {TWO_ROOTS_S:.0f} s, repair {REPAIR_S:.0f} s after the last fault", flush=True)
    try:
        with multiprocessing.Pool(options.processes) as pool:
            for result in pool.imap(judged, seeds, chunksize=8):
                done += 1
                if result.verdict.torn:
                    torn += 1
                    print(f"torn  number {result.seed}", flush=True)
                longest_s = max(longest_s, result.verdict.two_roots_s)
                if result.verdict.violation is not None:
                    violations[result.verdict.violation] += 1
                    print(f"FAIL  {result.verdict.violation}: {result.verdict.detail}\n{result.smallest}", flush=True)
                if done % REPORT_EVERY == 0:
                    print(_state(seeds.start, done, torn, violations, longest_s, began), flush=True)
    except KeyboardInterrupt:
        print(f"interrupted; go on with --first {seeds.start + done} --count {options.count - done}")
    print(_state(seeds.start, done, torn, violations, longest_s, began))
    raise SystemExit(bool(violations))


def _state(first: int, done: int, torn: int, violations: Counter[str], longest_s: float, began: float) -> str:
    broken = ", ".join(f"{count} {name}" for name, count in violations.items()) or "no invariant broken"
    rate = done / max(1e-9, time.monotonic() - began)
    return (
        f"{done:,} schedules (up to number {first + done - 1}): {broken}; {torn} tore the fleet for good; "
        f"two roots for at most {longest_s:.1f} s after the last fault; {rate:.1f} a second"
    )


if __name__ == "__main__":
    main()
