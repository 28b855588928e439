"""Name, machine id and ssh key of the device: what is the same in every copy of an image, and must not stay so."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SERIALS = (
    "sys/firmware/devicetree/base/serial-number",
    "sys/class/dmi/id/product_serial",
    "sys/class/dmi/id/product_uuid",
    "etc/machine-id",
)
"""Where a board tells its serial number; the machine id where it has none."""

NO_SERIAL = frozenset({"", "none", "not specified", "default string", "to be filled by o.e.m.", "0"})


def serial(root: Path = Path("/")) -> str:
    for name in SERIALS:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (root / name).read_bytes().strip(b"\0\n ").decode()
            if text.lower() not in NO_SERIAL:
                return text
    return "unknown"


def serial_files(root: Path = Path("/")) -> list[Path]:
    """Those of them that this board has."""
    return [root / name for name in SERIALS if (root / name).exists()]


def name_of(serial_number: str) -> str:
    """A host name that this device always has, and hardly any other. It does not give the serial number away."""
    import hashlib  # not above: it loads all of OpenSSL, which a device that was given a name does without

    return f"edgefl-{hashlib.blake2b(serial_number.encode(), digest_size=4).hexdigest()}"


def set_name(name: str) -> None:
    Path("/proc/sys/kernel/hostname").write_text(name)


def keep_machine_id() -> None:
    """Once: keep the id that systemd drew for this boot, on the read-only root. Raises OSError."""
    if not os.path.ismount("/etc/machine-id"):
        return
    _run("mount", "-o", "remount,rw", "/")
    try:
        _run("systemd-machine-id-setup", "--commit")
        os.sync()
    finally:
        _run("mount", "-o", "remount,ro", "/")


def make_ssh_key(path: Path) -> None:
    """The device's own ssh key, made whole under another name. Raises OSError."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name("new")
    for rest in (temporary, temporary.with_suffix(".pub")):
        rest.unlink(missing_ok=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(temporary))
    os.sync()
    os.replace(temporary, path)


def _run(*command: str) -> None:
    import subprocess  # not above: only the first boot runs programs, and all boots wait for this one

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()}")
