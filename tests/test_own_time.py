"""Deadlines of tests tell "stuck" from "starved"."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from support.own_time import SLOWEST, OwnTime, descendants, schedstat, share


def test_an_idle_fleet_is_given_no_extra_time() -> None:
    assert share(0.0, 0.0, 10.0) == 1.0
    assert share(0.05, 0.1, 10.0) == 1.0


def test_a_starved_one_is_given_what_it_waited_for_within_a_bound() -> None:
    assert share(1.0, 3.0, 2.0) == 0.25
    assert share(0.01, 99.0, 10.0) == SLOWEST


def test_processes_below_this_one_are_counted() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while sum(schedstat(child.pid)) < 0.2:
            time.sleep(0.01)
        assert child.pid in descendants(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert schedstat(child.pid) == (0.0, 0.0)


def test_the_clock_never_runs_faster_than_time() -> None:
    began, own = time.monotonic(), OwnTime()
    while time.monotonic() - began < 1.2:
        time.sleep(0.05)
    assert 0.0 < own() <= time.monotonic() - began
