"""QEMU: boots an image as a machine would, cuts its power, keeps what its serial console says.

Emulated (TCG), with one processor: QEMU's parallel emulation has been seen to trip a kernel. The guest's clock counts
its instructions, so that a machine that has other work makes it slow, not ill: its timers would run out otherwise
before it has done what they wait for. QEMU does not run a Raspberry Pi's firmware: its part, to follow config.txt at
each start, is played here.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from edgefl.demo.local_fleet import die_with_parent
from edgefl.errors import UsageError
from edgefl.image.disk import partitions
from edgefl.image.payload import PACKAGE_OF, BuildError, run
from edgefl.update.bootloader import CONFIG, choice_of

PC_FIRMWARE = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd")
PC_VARIABLES = ("/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS.fd")
ARM_FIRMWARE = ("/usr/share/AAVMF/AAVMF_CODE.fd",)
ARM_VARIABLES = ("/usr/share/AAVMF/AAVMF_VARS.fd",)

MEMORY_MEGABYTES = 1024

CLOCK = ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=2,align=off,sleep=on", "-rtc", "clock=vm"]
"""4 ns an instruction, which are six cycles of a Raspberry Pi 4 (1.5 GHz): real devices are several times faster."""

RASPI3B = "raspi3b"
BOARDS = {"pc": ("",), "arm64": ("",), "rpi": ("", RASPI3B)}
"""For each target the machines: QEMU's general one, and those that it has of real boards."""

PI3_TREE = "bcm2837-rpi-3-b.dtb"

PI3_WORDS = "console=ttyS1,115200 systemd.watchdog_sec=0 modprobe.blacklist=vc4,snd_bcm2835,bcm2835_v4l2"
"""What QEMU's model lacks would keep the kernel waiting; its watchdog resets at once."""


class Machine:
    """One emulated machine with `image` as its disk. Use as a context: its power is cut at the end, and when this
    program dies."""

    def __init__(self, image: Path, target: str, console: Path, *, ssh_port: int = 0, board: str = "") -> None:
        """`ssh_port`: on this machine's loopback, to the guest's ssh. Raises UsageError for what QEMU cannot start."""
        if board not in BOARDS.get(target, ()):
            raise UsageError(
                f"QEMU starts no image of {target}" + (f" as a {board}" if board else ""),
                hint=f"it starts those of {', '.join(BOARDS)}",
            )
        self.image, self.target, self.console = image, target, console
        self._board = board
        self._ssh_port = ssh_port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    def start(self) -> None:
        """Raises BuildError when QEMU is not there."""
        if self._board == RASPI3B:
            command = self._raspi3b()
        else:
            command = {"pc": self._pc, "arm64": self._arm64, "rpi": self._rpi}[self.target]()
            command += ["-drive", f"file={self.image},format=raw,if=virtio", "-device", "virtio-rng-pci"]
        forward = f",hostfwd=tcp:127.0.0.1:{self._ssh_port}-:22" if self._ssh_port else ""
        card = "usb-net,netdev=net" if self._board == RASPI3B else "virtio-net-pci,netdev=net,romfile="
        command += [
            *("-m", str(MEMORY_MEGABYTES), "-display", "none", "-monitor", "none"),
            *("-chardev", f"file,id=console,path={self.console},append=on"),
            *(("-serial", "null") if self._board == RASPI3B else ()),
            *("-serial", "chardev:console", "-netdev", f"user,id=net{forward}", "-device", card),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.console.open("ab"),
                start_new_session=True,  # Ctrl-C is ours to handle
                preexec_fn=die_with_parent,
            )
        except FileNotFoundError:
            name = command[0]
            raise BuildError(f"{name} is not installed", hint=f"apt-get install {PACKAGE_OF[name]}") from None

    def _pc(self) -> list[str]:
        return [
            # No floppy and no CD: the firmware tries the one, and the kernel waits for the other.
            *("qemu-system-x86_64", "-nodefaults", "-cpu", "max", "-device", "i6300esb", *CLOCK),
            *_flash(PC_FIRMWARE, PC_VARIABLES, "ovmf"),
        ]

    def _arm64(self) -> list[str]:
        return [*_VIRT, *_flash(ARM_FIRMWARE, ARM_VARIABLES, "qemu-efi-aarch64")]

    def _rpi(self) -> list[str]:
        """A general arm64 machine: kernel, initramfs and command line as the Pi's firmware would take them."""
        line = self._as_firmware().replace("ttyS1", "ttyAMA0")
        folder = self.console.parent
        kernel = ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-append", line]
        return [*_VIRT, *kernel, "-no-reboot"]

    def _raspi3b(self) -> list[str]:
        line = f"{self._as_firmware(PI3_TREE)} {PI3_WORDS}"
        folder = self.console.parent
        return [
            *("qemu-system-aarch64", "-M", "raspi3b", "-accel", "tcg,thread=multi", "-no-reboot"),
            *("-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-append", line),
            *("-dtb", str(folder / PI3_TREE), "-drive", f"file={self.image},format=raw,if=sd"),
        ]

    def _as_firmware(self, *more: str) -> str:
        """Take kernel and initramfs of the chosen system out of the image, and return its command line."""
        fat = f"{self.image}@@{partitions(self.image)[0].start}"
        slot = choice_of(run("mtype", "-i", fat, f"::{CONFIG}").encode())
        for name in ("vmlinuz", "initrd.img", *more):
            run("mcopy", "-o", "-n", "-i", fat, f"::{slot}/{name}", str(self.console.parent / name))
        return re.sub(r"\s+", " ", run("mtype", "-i", fat, f"::{slot}/cmdline.txt")).strip()

    def running(self) -> bool:
        """Whether it has power. A Pi that has reset itself starts again, as its firmware would."""
        if self._process is not None and self._process.poll() == 0 and self.target == "rpi":
            self.start()
        return self._process is not None and self._process.poll() is None

    def processor_s(self) -> float:
        """What emulating it since it was started has taken of this machine's processors: how far its boot has come,
        whatever other work this machine has. 0 without power."""
        import psutil

        if self._process is None or not self.running():
            return 0.0
        spent = psutil.Process(self._process.pid).cpu_times()
        return float(spent.user + spent.system)

    def cut_power(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def said(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""


_VIRT = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", *CLOCK]


def _flash(firmware: tuple[str, ...], variables: tuple[str, ...], package: str) -> list[str]:
    """UEFI firmware; what it writes into its variables is forgotten, as on a board whose variables do not work."""
    return [
        *("-drive", f"if=pflash,format=raw,readonly=on,file={_first(firmware, package)}"),
        *("-drive", f"if=pflash,format=raw,snapshot=on,file={_first(variables, package)}"),
    ]


def _first(paths: tuple[str, ...], package: str) -> str:
    for path in paths:
        if Path(path).exists():
            return path
    raise UsageError("there is no UEFI firmware for QEMU", hint=f"apt-get install {package}")
