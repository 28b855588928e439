"""The power goes after any one of a program's changes to a disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any


def until_cut(work: Callable[[], object], calls: Iterable[str], cut: int) -> bool:
    """Run it in a child process whose power goes right after the `cut`-th of these `calls` of os; whether it went."""
    child = os.fork()
    if child == 0:
        count = 0

        def then_cut(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                result = call(*arguments, **options)
                count += 1
                if count == cut:
                    os._exit(9)
                return result

            return wrapper

        os.fsync = lambda _: None  # this cut ends a process, not the kernel: what is synced does not matter
        for name in calls:
            setattr(os, name, then_cut(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9
