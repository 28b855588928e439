"""The base layer: Debian's packages for a target as a tar file, made by mmdebstrap and cached by what it is made of.

The archive comes from the machine's own apt configuration, or from a sources list of the user's; none is named here. A
kept base layer makes builds reproducible: the archive moves on, the file does not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgefl.errors import UsageError
from edgefl.image.namespace import run_inside
from edgefl.image.payload import epoch, run
from edgefl.image.recipe import Recipe


def sources_of(recipe: Recipe, given: Path | None) -> str:
    """The lines of a sources list for the recipe's suite. Raises UsageError when apt knows no Debian archive."""
    if given is not None:
        return given.read_text()
    told = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(SUITE) $(COMPONENT)", "Created-By: Packages")
    mirrors = list(dict.fromkeys(line.split()[0] for line in told.splitlines() if re.search(r"/debian/?\s", line)))
    if not mirrors:
        raise UsageError("apt on this machine knows no Debian archive", hint="give a sources.list with --sources")
    suites = [recipe.suite, f"{recipe.suite}-updates"] + [f"{recipe.suite}-backports"] * recipe.backports
    lines = [f"deb {mirrors[0]} {suite} {recipe.components}\n" for suite in suites]
    security = re.search(r"^(\S+/debian-security/?)\s", told, re.MULTILINE)
    if security:
        lines.append(f"deb {security[1]} {recipe.suite}-security {recipe.components}\n")
    return "".join(lines)


def base_layer(recipe: Recipe, sources: str, cache: Path) -> Path:
    """The tar file of the recipe's packages, from the cache if it is there. Raises BuildError."""
    layer = cache / f"base-{recipe.target}-{recipe.base_key(sources)}.tar"
    if layer.exists():
        return layer
    cache.mkdir(parents=True, exist_ok=True)
    listing = cache / f"{layer.stem}.list"
    listing.write_text(sources)
    part = layer.with_suffix(".part.tar")
    log = layer.with_suffix(".log")
    log.unlink(missing_ok=True)
    hooks = recipe.home / "base"
    run_inside(
        "mmdebstrap",
        *("--mode=root", "--skip=check/qemu", "--format=tar", "--variant=apt"),
        *(f"--arch={recipe.architecture}", f"--components={recipe.components.replace(' ', ',')}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--dpkgopt=force-{name}" for name in ("confdef", "confold", "unsafe-io")),
        *('--aptopt=Acquire::Retries "3"', '--aptopt=APT::Install-Recommends "false"'),
        f"--setup-hook={hooks / 'binfmt'}",
        f"--essential-hook=copy-in {hooks / 'etc'} /",
        f"--include={','.join(recipe.packages)}",
        f"--customize-hook={hooks / 'finish'}",
        *(recipe.suite, str(part), str(listing)),
        log=log,
        environment={
            "SOURCE_DATE_EPOCH": str(epoch()),
            "TARGET_ARCHITECTURE": recipe.architecture,
            # Not by the kernel's package: base/finish makes the initramfs, once. On ARM it is a third of the build.
            "INITRD": "No",
            # The default model emulates pointer authentication, which makes Python six times slower.
            "QEMU_CPU": "cortex-a72",
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # noqa: S108 (mmdebstrap's own default)
        },
    )
    part.rename(layer)
    return layer
