"""Facts of a device with which all is well; tests change single ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgefl.doctor.facts import NEEDED, Disk, Facts, Port

INSTALLED = 1_700_000_000.0

NEEDED_VERSIONS = {name: f"{least}.1" for name, least in NEEDED.items()}

WELL = Facts(
    python=(3, 11, 7),
    machine="aarch64",
    libc="glibc 2.36",
    packages={**NEEDED_VERSIONS, "onnx": None, "zeroconf": "0.130", "matplotlib": None},
    onnxruntime=("1.23.2", ["CPUExecutionProvider"]),
    provider="cpu",
    libzmq="4.3.5",
    curve=True,
    clock=INSTALLED + 1000,
    newest_file=INSTALLED,
    disk=Disk("/var/lib/edgefl", exists=True, free_bytes=8 << 30, write_s=0.01),
    memory_bytes=4 << 30,
    memory_available_bytes=2 << 30,
    temperature_c=48.0,
    throttling="",
    power_mode=None,
    ports=(Port("0.0.0.0", 7321, "door"), Port("0.0.0.0", 7322, "links"), Port("0.0.0.0", 7323, "broadcast")),
)


def facts(**changes: Any) -> Facts:
    return replace(WELL, **changes)


def dial_back(outcome: str, seen: str = "192.0.2.7") -> dict[str, Any]:
    return {"peer": "00000000000000aa", "seen": seen, "port": 7321, "outcome": outcome, "ago_s": 12.0}


def daemon(
    role: str = "node", dial_backs: tuple[dict[str, Any], ...] = (), *, known: bool = True, **changes: Any
) -> dict[str, Any]:
    """A running daemon's examination."""
    return {
        "joined": True,
        "fleet": "0011:2233:4455:6677",
        "ports": [7321, 7322, 7323],
        "connections": 5,
        "contacts": 9,
        "capacity": {"class": "normal", "chosen": "measured", "cores": 4, "memory_bytes": 4 << 30, "on_mains": None},
        "reachability": {
            "role": role,
            "announced": {"host": "192.0.2.7", "port": 7321, "fixed": False},
            "observed": "192.0.2.7",
            "local": "192.0.2.7",
            "known": known,
            "next_check_s": 12.0,
            "dial_backs": list(dial_backs),
        },
        "limits": {"paused": None, "training": None, "waiting": [], "cpu": 1.0, "transfer": None},
        "silent_peers": [],
        "clocks_ahead_s": [],
        "token_revoked": False,
        "mdns": True,
        "problems": [],
        **changes,
    }
