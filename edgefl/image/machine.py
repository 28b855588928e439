"""QEMU: boots an image as a machine would, cuts its power, keeps what its serial console says.

Emulated (TCG) and with one processor: on PCs QEMU's parallel emulation has been seen to trip a guest's kernel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from edgefl.errors import UsageError
from edgefl.image.payload import PACKAGE_OF, BuildError, run

FIRMWARE = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd")
VARIABLES = ("/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS.fd")

MEMORY_MEGABYTES = 1024


class Machine:
    """One emulated machine with `image` as its disk. Use as a context: its power is cut at the end."""

    def __init__(self, image: Path, target: str, console: Path, *, ssh_port: int = 0, append: str = "") -> None:
        """`ssh_port`: on this machine's loopback, to the guest's ssh. `append`: for the kernel's command line (rpi)."""
        self.image, self.target, self.console = image, target, console
        self._ssh_port, self._append = ssh_port, append
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    def start(self) -> None:
        """Raises BuildError when QEMU is not there."""
        command = self._pc() if self.target == "pc" else self._virt()
        forward = f",hostfwd=tcp:127.0.0.1:{self._ssh_port}-:22" if self._ssh_port else ""
        command += [
            *("-m", str(MEMORY_MEGABYTES), "-display", "none", "-monitor", "none"),
            *("-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"),
            *("-drive", f"file={self.image},format=raw,if=virtio"),
            *("-netdev", f"user,id=net{forward}", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci"),
        ]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.console.open("ab")
            )
        except FileNotFoundError:
            name = command[0]
            raise BuildError(f"{name} is not installed", hint=f"apt-get install {PACKAGE_OF[name]} ovmf") from None

    def _pc(self) -> list[str]:
        code, variables = _first(FIRMWARE), _first(VARIABLES)
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1", "-device", "i6300esb"),
            *("-drive", f"if=pflash,format=raw,readonly=on,file={code}"),
            *("-drive", f"if=pflash,format=raw,snapshot=on,file={variables}"),
        ]

    def _virt(self) -> list[str]:
        """A generic arm64 machine: it never runs the Pi's own firmware, so the kernel is taken out of the image."""
        for name in ("vmlinuz", "initrd.img"):
            if not (self.console.parent / name).exists():
                run("mcopy", "-n", "-i", f"{self.image}@@4M", f"::{name}-*", str(self.console.parent / name))
        append = f"root=LABEL=edgefl-root ro console=ttyAMA0 panic=10 quiet systemd.ssh_auto=no {self._append}"
        return [
            *("qemu-system-aarch64", "-M", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a72", "-smp", "2"),
            *("-kernel", str(self.console.parent / "vmlinuz"), "-initrd", str(self.console.parent / "initrd.img")),
            *("-append", append),
        ]

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def cut_power(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def said(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""


def _first(paths: tuple[str, ...]) -> str:
    for path in paths:
        if Path(path).exists():
            return path
    raise UsageError("there is no UEFI firmware for QEMU", hint="apt-get install ovmf")
