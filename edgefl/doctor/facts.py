"""Everything that the doctor reads: from this device, and from its daemon if one runs.

Nothing here judges, and nothing raises: what cannot be read is None, or the error's text. ONNX Runtime is imported in a
process of its own, because a wheel for another processor ends the process that imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from edgefl.config import Settings, split_address
from edgefl.control import ControlClient
from edgefl.errors import EdgeflError, UnreachableError
from edgefl.identity.token import Token, fingerprint, parse

NEEDED = {"pyzmq": 26, "onnxruntime": 1, "numpy": 1, "cbor2": 6, "psutil": 6, "click": 8, "PyNaCl": 1}
"""Packages that edgefl runs on, and the lowest major version (setup.cfg has the exact ones; pip sees to them)."""

OPTIONAL = {
    "onnx": "making models trainable",
    "zeroconf": "finding devices on the local network",
    "matplotlib": "plots",
}
"""Extras, and what they are for."""

IMPORT_TIMEOUT_S = 120.0
"""ONNX Runtime takes seconds to import on a small device."""

WRITE_BYTES = 4096

_PROBE = "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"

PI_THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"
JETSON_OVER_CURRENT = "class/hwmon/hwmon*/oc*_event_cnt"
"""How often a Jetson has slowed down because its supply or its chip could not keep up (NVIDIA, Jetson Linux guide)."""

NVPMODEL_STATUS, NVPMODEL_NAMES = "var/lib/nvpmodel/status", "etc/nvpmodel.conf"
"""A Jetson's power mode: which one is set, and what they are called."""

INTEL_THROTTLED = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"


@dataclass(frozen=True, slots=True)
class Disk:
    """The state directory, or where it will be. `write_s` is what writing and syncing 4 kB took; `error` why not."""

    path: str
    exists: bool
    free_bytes: int = 0
    write_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """One port that a daemon needs. `held_by`: "" free, "daemon" ours, otherwise what the system said."""

    host: str
    port: int
    use: str
    held_by: str = ""


@dataclass(frozen=True, slots=True)
class TokenFact:
    """A token that was given: which fleet it is for, or what is wrong with it."""

    fleet: str = ""
    serial: str = ""
    doors: int = 0
    uses: int = 0
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """One device at one moment. `daemon` is the document of the daemon's examination, None when none runs."""

    python: tuple[int, int, int]
    machine: str
    libc: str
    packages: dict[str, str | None]
    onnxruntime: tuple[str, list[str]] | str
    provider: str
    libzmq: str
    curve: bool
    clock: float
    newest_file: float
    disk: Disk
    memory_bytes: int
    memory_available_bytes: int
    temperature_c: float | None
    throttling: str | None
    power_mode: str | None
    ports: tuple[Port, ...]
    mdns: str = "auto"
    token: TokenFact | None = None
    daemon: dict[str, Any] | None = None
    daemon_error: str = ""
    config_error: tuple[str, str] = ("", "")


def gather(
    settings: Callable[[], Settings], state: Path, control: Path, token: str | None, *, sys_root: Path = Path("/sys")
) -> Facts:
    """Look at this device. `settings` may raise EdgeflError: that is a fact as well."""
    import psutil
    import zmq

    config_error = ("", "")
    try:
        wanted = settings()
    except EdgeflError as error:
        config_error, wanted = (error.cause, error.hint), Settings()
    given = token_fact(token) if token else None
    daemon, daemon_error = ask_daemon(control, given.serial if given is not None else "")
    memory = psutil.virtual_memory()
    return Facts(
        python=sys.version_info[:3],
        machine=platform.machine(),
        libc=" ".join(platform.libc_ver()),
        packages={name: version_of(name) for name in (*NEEDED, *OPTIONAL)},
        onnxruntime=onnxruntime_fact(),
        provider=wanted.provider,
        libzmq=zmq.zmq_version(),
        curve=bool(zmq.has("curve")),
        clock=time.time(),
        newest_file=newest_file(),
        disk=disk_fact(state),
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        temperature_c=temperature(psutil),
        throttling=throttling(sys_root),
        power_mode=power_mode(),
        ports=ports_fact(wanted, daemon),
        mdns=wanted.mdns,
        token=given,
        daemon=daemon,
        daemon_error=daemon_error,
        config_error=config_error,
    )


def ask_daemon(control: Path, serial: str) -> tuple[dict[str, Any] | None, str]:
    """The running daemon's examination; or None, and the reason ("" when simply none runs)."""
    try:
        found: dict[str, Any] = ControlClient(control).call("doctor", serial=serial)
    except UnreachableError:
        return None, ""
    except (EdgeflError, OSError, ValueError) as error:
        return None, str(error)
    return found, ""


def version_of(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None


def onnxruntime_fact(command: tuple[str, ...] = (sys.executable, "-c", _PROBE)) -> tuple[str, list[str]] | str:
    """Version and providers, or how the import ended."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be imported: {error}"
    if done.returncode < 0:
        return f"ends the process that imports it (signal {-done.returncode}): a wheel for another processor?"
    try:
        version, providers = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return f"cannot be imported: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    return str(version), [str(provider) for provider in providers]


def newest_file() -> float:
    """When the newest of edgefl's own files was written (seconds since 1970): the clock cannot be right before that."""
    return max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))


def disk_fact(state: Path) -> Disk:
    """Room, and whether something can really be written and synced; where there is no directory yet, its parent."""
    place = state
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free_bytes = shutil.disk_usage(place).free
        if place != state:
            error = "" if os.access(place, os.W_OK) else f"{place} is not writable"
            return Disk(str(state), False, free_bytes, None, error)
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
            file.write(os.urandom(WRITE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            whole = len(file.read()) == WRITE_BYTES
        return Disk(str(state), True, free_bytes, time.monotonic() - began, "" if whole else "what was written is gone")
    except OSError as error:
        return Disk(str(state), state.exists(), 0, None, error.strerror or str(error))


def temperature(psutil: Any) -> float | None:
    """The hottest sensor in degrees Celsius; None without one."""
    with contextlib.suppress(Exception):  # drivers fail in many ways
        readings = [entry.current for group in psutil.sensors_temperatures().values() for entry in group]
        return max(readings, default=None)
    return None


def throttling(sys_root: Path) -> str | None:
    """What slows the processor down, "" for nothing, None where nothing tells (Raspberry Pi, Jetson and Intel do)."""
    with contextlib.suppress(OSError, ValueError):
        bits = int((sys_root / PI_THROTTLED).read_text().strip(), 16)
        names = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
        now = [name for bit, name in names.items() if bits >> bit & 1]
        before = [f"{name} since it was switched on" for bit, name in names.items() if bits >> (bit + 16) & 1]
        return ", ".join(now or before)
    with contextlib.suppress(OSError, ValueError):
        counts = [int(path.read_text()) for path in sys_root.glob(JETSON_OVER_CURRENT)]
        if counts:
            return f"over-current {sum(counts)} times since it was switched on" if any(counts) else ""
    with contextlib.suppress(OSError, ValueError):
        count = int((sys_root / INTEL_THROTTLED).read_text())
        return f"throttled for heat {count} times since it was switched on" if count else ""
    return None


def power_mode(root: Path = Path("/")) -> str | None:
    """The power mode of a Jetson, as nvpmodel calls it; None where there is none."""
    with contextlib.suppress(OSError):
        found = re.search(r"pmode:0*(\d+)", (root / NVPMODEL_STATUS).read_text())
        if found is None:
            return None
        number = found[1]
        with contextlib.suppress(OSError):
            names = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", (root / NVPMODEL_NAMES).read_text())
            return dict(names).get(number, number)
        return number
    return None


def ports_fact(settings: Settings, daemon: dict[str, Any] | None) -> tuple[Port, ...]:
    """The three ports; those of a running daemon, or those that one would open. Port 0 means any: nothing to check."""
    uses = ("door", "links", "broadcast")
    host, first = split_address(settings.listen, zero_allowed=True)
    if daemon is not None:
        return tuple(Port(host, port, use, "daemon") for port, use in zip(daemon["ports"], uses, strict=True))
    if first == 0:
        return ()
    return tuple(Port(host, first + at, use, held_by(host, first + at)) for at, use in enumerate(uses))


def held_by(host: str, port: int) -> str:
    """ "" if the port is free, else what the system says when it is opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)  # a port that somebody listens on can be bound, but not twice be listened on
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def token_fact(text: str) -> TokenFact:
    """What a token says; never its secret."""
    from edgefl.daemon.membership import read_token

    try:
        token: Token = parse(read_token(text))
    except EdgeflError as error:
        return TokenFact(error=error.cause, hint=error.hint)
    return TokenFact(fingerprint(token.fleet), token.enrolment.serial.hex(), len(token.bootstrap), token.enrolment.uses)
