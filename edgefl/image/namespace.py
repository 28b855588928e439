"""A user namespace of one's own: root in there, nobody outside. Nothing is mounted or registered on the build machine.

An ordinary user maps the range of /etc/subuid. Root, as in a container, maps the same numbers: it could do without, but
binfmt_misc belongs to the user namespace (Linux 6.7 and later), and in one of its own a foreign architecture's programs
run without being registered for the whole machine.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from edgefl.image.payload import BuildError

IDS = 65536


def run_inside(*command: str, log: Path, environment: dict[str, str] | None = None) -> None:
    """Run a program as the root of a new user, mount and process namespace; what it says goes to `log`.

    Raises BuildError with its last words.
    """
    # Set once inside, because a new user namespace forgets it: who ends the build ends all in there.
    inner = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    inner += ["--propagation", "private", *command]
    surroundings = {**os.environ, **(environment or {})}
    with log.open("ab") as output:
        if os.geteuid() == 0:
            # unshare(1) would ask newuidmap, which knows no range for root. Wait inside until the maps are written.
            process = subprocess.Popen(
                ["unshare", "--user", "sh", "-c", 'read go && exec "$@"', "sh", *inner],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=surroundings,
            )  # fmt: skip
            _wait_for_namespace(process.pid)
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process.pid}/{name}").write_text(f"0 0 {IDS}\n")
            process.communicate(b"go\n")
        else:
            process = subprocess.Popen(
                ["unshare", "--user", "--map-auto", "--map-root-user", *inner],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=surroundings,
            )  # fmt: skip
            process.wait()
    if process.returncode:
        words = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{command[0]} failed with {process.returncode}:\n{words}", hint=f"{log} has all of it")


def _wait_for_namespace(pid: int) -> None:
    """Return when the child has left our user namespace (or ended, which its caller will see)."""
    import time

    ours = os.readlink("/proc/self/ns/user")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if os.readlink(f"/proc/{pid}/ns/user") != ours:
                return
        except OSError:
            return
        time.sleep(0.01)
