"""What lies beside an image: its checksum, what it is made of (CycloneDX), and the entry for Raspberry Pi Imager."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import time
from pathlib import Path
from typing import Any

from edgefl import __version__
from edgefl.image.payload import epoch
from edgefl.image.recipe import Recipe

DPKG_STATUS = "./var/lib/dpkg/status"

RPI_DEVICES = ["pi3-64bit", "pi4-64bit"]
"""Tags of Raspberry Pi Imager; a Zero 2 W counts as a Pi 3."""


def write_companions(recipe: Recipe, raw: Path, out: Path, base: Path) -> list[Path]:
    """The files beside `out`; `raw` is the image unpacked (the same file, unless it is compressed)."""
    made = [_beside(out, ".sha256", f"{sha256(out)}  {out.name}\n")]
    made.append(_beside(out, ".cdx.json", json.dumps(bill_of_materials(recipe, base), indent=1) + "\n"))
    if recipe.architecture == "arm64":
        made.append(_beside(out, ".rpi-imager-manifest", json.dumps(imager_manifest(raw, out), indent=1) + "\n"))
    return made


def _beside(out: Path, suffix: str, text: str) -> Path:
    path = out.with_name(out.name + suffix)
    path.write_text(text)
    return path


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def bill_of_materials(recipe: Recipe, base: Path) -> dict[str, Any]:
    """Every Debian package of the base layer and every wheel, as CycloneDX 1.5."""
    with tarfile.open(base) as archive:
        member = archive.extractfile(DPKG_STATUS)
        installed = member.read().decode() if member is not None else ""
    components = [
        {
            "type": "library",
            "name": found["Package"],
            "version": found["Version"],
            "purl": f"pkg:deb/debian/{found['Package']}@{found['Version']}?arch={found['Architecture']}",
        }
        for block in installed.split("\n\n")
        if (found := dict(re.findall(r"^(Package|Version|Architecture): (.*)$", block, re.MULTILINE)))
    ]
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", recipe.lock.read_text(), re.MULTILINE):
        components.append({"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch())),
            "component": {"type": "firmware", "name": f"edgefl-{recipe.target}", "version": __version__},
        },
        "components": components,
    }


def imager_manifest(raw: Path, out: Path) -> dict[str, Any]:
    """For `rpi-imager --repo FILE`: this image as its list's entry. Its settings come from edgefl.toml alone."""
    return {
        "os_list": [
            {
                "name": f"edgefl {__version__}",
                "description": "Federated learning with no server. Settings: edgefl.toml on the boot partition.",
                "url": out.absolute().as_uri(),
                "extract_size": raw.stat().st_size,
                "extract_sha256": sha256(raw),
                "image_download_size": out.stat().st_size,
                "image_download_sha256": sha256(out),
                "release_date": time.strftime("%Y-%m-%d", time.gmtime(epoch())),
                "devices": RPI_DEVICES,
            }
        ]
    }
