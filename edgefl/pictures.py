"""Trees and rounds as text, for people who would rather look than read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def draw_tree(parents: Mapping[str, str | None], labels: Mapping[str, str] | None = None) -> list[str]:
    """Lines of a tree: `parents` maps each device to its parent (None: a root). A device whose parent is not among the
    keys stands on its own, marked with «?»."""
    labels = labels or {}
    children: dict[str | None, list[str]] = {}
    for name, parent in sorted(parents.items()):
        children.setdefault(parent if parent in parents else None, []).append(name)
    lines: list[str] = []

    def draw(name: str, before: str, branch: str, below: str) -> None:
        lost = parents[name] is not None and parents[name] not in parents
        lines.append(f"{before}{branch}{labels.get(name, name)}{' ?' if lost else ''}")
        following = children.get(name, [])
        for number, child in enumerate(following):
            last = number == len(following) - 1
            draw(child, before + below, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in children.get(None, []):
        draw(root, "", "", "")
    return lines


def tree_depth(parents: Mapping[str, str | None]) -> int:
    """Edges on the longest way from a device to its root."""

    def depth(name: str) -> int:
        steps, at = 0, parents.get(name)
        while at is not None and steps <= len(parents):
            steps, at = steps + 1, parents.get(at)
        return steps

    return max((depth(name) for name in parents), default=0)


def round_line(record: dict[str, Any], rounds: int) -> str:
    """One finished and evaluated round, from a document of the daemon (report.record_document)."""
    parts = [f"round {record['round']:>3}/{rounds}", f"loss {record['loss']:.4f}"]
    if "accuracy" in record:
        parts.append(f"accuracy {record['accuracy']:.4f}")
    if record["round"]:
        parts += [f"{record['participants']} devices", f"{record['seconds']:.2f} s", f"{record['bytes'] / 1024:.0f} KB"]
    return "  ".join(parts)
