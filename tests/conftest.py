"""The hard time limit of a test is in seconds that the machine gave it (support/own_time.py), not in those of the
clock: beside other work, a test that computes for half a minute may take five."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from support.own_time import OwnTime

LOOK_AGAIN_S = 5.0


def pytest_configure() -> None:
    """A script's background jobs ignore SIGINT, and so would all processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """As pytest-timeout's own, which is asked when this returns None; the alarm is set again for what is left."""
    if settings.method != "signal":
        return None
    from pytest_timeout import timeout_sigalrm

    own_time = OwnTime()

    def on_alarm(number: int, frame: Any) -> None:
        __tracebackhide__ = True
        left_s = settings.timeout - own_time()
        if left_s > 0:
            signal.setitimer(signal.ITIMER_REAL, max(left_s, LOOK_AGAIN_S))
        else:
            timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True
