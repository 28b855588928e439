"""What a target consists of: firmware-images/base.toml and TARGET.toml beside it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefl.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Recipe:
    """`boot` is "uefi" (GPT, systemd-boot) or "rpi" (MBR, the Pi's firmware). A card has `slot_megabytes` for a root,
    twice. `emulated`: QEMU has a machine that starts it."""

    target: str
    home: Path
    suite: str
    components: str
    lock: Path
    architecture: str
    packages: tuple[str, ...]
    boot: str
    cmdline: str
    boot_megabytes: int
    slot_megabytes: int
    emulated: bool

    @property
    def backports(self) -> bool:
        """A package is asked for from the suite's backports."""
        return any(package.endswith("-backports") for package in self.packages)

    def base_key(self, sources: str) -> str:
        """Names a base layer by what it is made of; `sources` is where its packages come from."""
        digest = hashlib.blake2b(digest_size=6)
        parts = [self.suite, self.components, self.architecture, *self.packages, sources]
        for path in sorted(p for p in (self.home / "base").rglob("*") if p.is_file()):
            parts += [str(path.relative_to(self.home)), path.read_text()]
        for part in parts:
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()


def load(home: Path, target: str) -> Recipe:
    """The recipe of a target. Raises UsageError."""
    base = _toml(home / "base.toml")
    path = home / f"{target}.toml"
    if not path.exists() or target == "base":
        known = ", ".join(sorted(p.stem for p in home.glob("*.toml") if p.stem != "base"))
        raise UsageError(f"there is no recipe for {target!r}", hint=f"choose one of {known}")
    own = _toml(path)
    return Recipe(
        target=target,
        home=home,
        suite=base["suite"],
        components=base["components"],
        lock=home / "locks" / f"{base['lock']}.txt",
        architecture=own["architecture"],
        packages=(*base["packages"], *own["packages"]),
        boot=own["boot"],
        cmdline=own["cmdline"],
        boot_megabytes=own["boot_megabytes"],
        slot_megabytes=own["slot_megabytes"],
        emulated=own.get("emulated", True),
    )


def _toml(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(path.read_text())
    return document
