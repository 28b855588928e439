"""Is this file an image of edgefl, whole and as its builder made it?"""

from __future__ import annotations

from pathlib import Path

from edgefl.errors import EdgeflError
from edgefl.image.bill import sha256
from edgefl.image.customize import settings_in
from edgefl.image.disk import ext_label, partitions

LABELS = ("edgefl-root", "", "edgefl-data")
"""Of the partitions behind the first: the place b is empty at first."""


def check_image(image: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """(what was found, what is wrong with the next step). The token is never shown."""
    found: list[str] = []
    wrong: list[tuple[str, str]] = []
    try:
        parts = partitions(image)
        found.append(f"{len(parts)} partitions, {image.stat().st_size >> 20} MB")
        labels = [ext_label(image, part) for part in parts[1:]]
        if tuple(labels) != LABELS:
            wrong.append(
                (f"its file systems are {labels}, not {list(LABELS)}", "this is no image of edgefl, or damaged")
            )
        settings = settings_in(image)
        if settings.empty:
            found.append("settings: none yet (edgefl image customize)")
        else:
            keys = [*(["token"] if settings.token else []), *settings.daemon]
            keys += ["hostname"] * bool(settings.hostname) + ["ssh keys"] * bool(settings.ssh_keys)
            found.append(f"settings: {', '.join(keys)}")
    except EdgeflError as error:
        wrong.append((error.cause, error.hint))
        return found, wrong
    beside = image.with_name(image.name + ".sha256")
    if beside.exists():
        same = beside.read_text().split()[0] == sha256(image)
        if same:
            found.append("checksum: as built")
        elif settings.empty:
            wrong.append(("its checksum differs from the one beside it", "download or build it again"))
        else:
            found.append("checksum: another than the builder's, as a customised image has")
    return found, wrong
