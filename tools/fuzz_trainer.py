"""Damaged and hostile files handed to the trainer: each must end in artifacts that work or in a named error.

    python tools/fuzz_trainer.py                          10,000 mutants of models, losses and artifacts
    python tools/fuzz_trainer.py --door build --first 500 --count 1 --save DIR     one mutant, to look at

Building is done first in a process that many mutants share, which is much faster than `trainer.build`. What crashes,
hangs, takes too much memory or raises an unnamed error there is then handed to `trainer.build` itself, in this process:
its child may end as it likes, the caller must hear a named error. The same seed gives the same mutants.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from support.fuzz_doors import DOORS, FAILED  # noqa: E402
from support.fuzzing import run  # noqa: E402

SHARES = {"build": 0.6, "loss": 0.2, "artifacts": 0.2}


def main() -> None:
    """Print what became of the mutants; exit with 1 if one got through."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--door", choices=(*DOORS, "all"), default="all")
    parser.add_argument("--count", type=int, default=10_000, help="mutants (default 10,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default 0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save", type=Path, help="write the mutants that went wrong into this directory")
    options = parser.parse_args()
    shares = SHARES if options.door == "all" else {options.door: 1.0}
    got_through = [
        line for door, share in shares.items() for line in fuzz(door, max(1, int(share * options.count)), options)
    ]
    print("\n".join(got_through) or "every mutant ended in working artifacts or in a named error")
    raise SystemExit(bool(got_through))


def fuzz(door_name: str, count: int, options: argparse.Namespace) -> list[str]:
    """Try `count` mutants at one door. Returns a line for each that got through."""
    endings: collections.Counter[str] = collections.Counter()
    got_through = []
    with tempfile.TemporaryDirectory() as folder:
        door = DOORS[door_name](options.seed, Path(folder))
        indexes = range(options.first, options.first + count)
        for done, outcome in enumerate(run(door_name, indexes, seed=options.seed, processes=options.processes), 1):
            endings[outcome.what] += 1
            if sys.stderr.isatty():
                print(f"\r{door_name}: {done} of {count}", end="", file=sys.stderr, flush=True)
            if not outcome.failed:
                continue
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                (options.save / f"{door_name}-{outcome.index}").write_bytes(door.mutant(outcome.index).content)
            really, detail = door.really(outcome.index)
            endings[f"    then by the real door: {really}"] += 1
            print(f"{door_name} {outcome.index} ({outcome.origin}): {outcome.what}; really: {really}", flush=True)
            if really.startswith(FAILED):
                got_through.append(f"{door_name} {outcome.index}: {really}\n{detail}")
    print(f"\n{door_name}: {count} mutants")
    for what, number in endings.most_common():
        print(f"{number:>8}  {what}")
    return got_through


if __name__ == "__main__":
    main()
