"""What is claimed about learning, measured under virtual time with the parts of `edgefl sim train`: the protocol code
that ships, real gradients, synthetic devices. tools/bench learning [--quick] [--data DIR] [ROW …]

Each row prints its figures beside its bar; the exit code is 1 when one was not met. Simulated, so the same seed gives
the same figures on every machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from learning_rows.averaging import measure_averaging
from learning_rows.many import measure_many
from learning_rows.neighbours import measure_p2pl
from learning_rows.plexus import CONTESTS, measure_plexus, measure_server
from learning_rows.report import Report, Settings
from learning_rows.silence import measure_modest, measure_silence
from learning_rows.waiting import measure_waiting

Row = Callable[[Settings, Report], None]

ROWS: dict[str, Row] = {
    **{f"plexus-{name}": partial(measure_plexus, contest) for name, contest in CONTESTS.items()},
    **{f"server-{name}": partial(measure_server, contest) for name, contest in CONTESTS.items()},
    "modest": measure_modest,
    "averaging": measure_averaging,
    "silence": measure_silence,
    "fedbuff": measure_waiting,
    "p2pl": measure_p2pl,
    "apps": measure_many,
}
"""A row judges its figures with the report; others go into modules of learning_rows, and here."""


def run(names: Iterable[str], settings: Settings) -> Report:
    report = Report()
    for name in names:
        row, began = ROWS[name], time.perf_counter()
        doc = row.func.__doc__ if isinstance(row, partial) else row.__doc__
        print(f"{name}: {doc}", flush=True)
        row(settings, report)
        report.say(f"({time.perf_counter() - began:.0f} s)")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="which rows; all without it")
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("EDGEFL_MNIST"),
        help="a directory with MNIST's 10,000 test images (also EDGEFL_MNIST) instead of the shipped digits",
    )
    options = parser.parse_args()
    report = run(options.rows or ROWS, Settings(options.data, options.quick))
    raise SystemExit(bool(report.failed))


if __name__ == "__main__":
    main()
