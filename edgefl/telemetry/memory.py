"""How much memory this process may take: what the machine has, or less if the process was given a limit."""

from __future__ import annotations

import contextlib
from pathlib import Path

_CGROUP_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Version 2 and version 1, as a container or a service sees its own group."""


def memory_limit() -> int | None:
    """The smallest of the machine's memory, the limit of the control group, and the resource limits of the process, in
    bytes; None where nothing can be read. Never raises."""
    import resource

    import psutil  # only the daemon pays for it

    found: list[int] = []
    with contextlib.suppress(Exception):  # drivers fail in many ways
        found.append(int(psutil.virtual_memory().total))
    for file in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(file.read_text()))
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(soft)
    return min(found, default=None)
