"""Trees and rounds as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl.daemon.report import epsilon_document
from edgefl.overlay.game.equilibrium import of_player
from edgefl.pictures import draw_edges, draw_tree, round_line, tree_depth, tree_places


def test_a_tree_is_drawn_with_its_branches() -> None:
    parents = {"a": None, "b": "a", "c": "a", "d": "b", "e": "b"}
    assert draw_tree(parents, {"a": "root"}) == ["root", "├─ b", "│  ├─ d", "│  └─ e", "└─ c"]
    assert tree_depth(parents) == 2
    assert tree_depth({}) == 0


def test_a_device_whose_parent_is_gone_is_marked() -> None:
    assert draw_tree({"a": None, "b": "gone"}) == ["a", "b ?"]


def test_a_cycle_does_not_hang() -> None:
    assert tree_depth({"a": "b", "b": "a"}) <= 3
    assert draw_tree({"a": "b", "b": "a"}) == []


def test_rounds() -> None:
    record = {"round": 3, "loss": 0.5, "accuracy": 0.9, "participants": 8, "seconds": 1.0, "bytes": 2048}
    assert round_line(record, 12) == "round   3/12  loss 0.5000  accuracy 0.9000  8 devices  1.00 s  2 KB"
    assert round_line({"round": 0, "loss": 2.0}, 12) == "round   0/12  loss 2.0000"


def test_places_of_a_tree() -> None:
    parents = {"a": None, "b": "a", "c": "a", "d": "b", "e": "b", "lost": "gone", "x": "y", "y": "x"}
    assert tree_places(parents) == {
        "a": (1.25, 0), "b": (0.5, 1), "c": (2.0, 1), "d": (0.0, 2), "e": (1.0, 2), "lost": (3.0, 0),
    }  # fmt: skip
    chain = {f"{number:04}": f"{number - 1:04}" if number else None for number in range(1500)}
    assert max(depth for _, depth in tree_places(chain).values()) == 1499


PLASMA = ("#f0f921", "#cc4778", "#9c179e")
"""The colours of the dearest edge, of half of that, of a third."""


def test_a_tree_is_drawn_with_its_costs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [("a", None, 0.0), ("b", "a", 1.5), ("c", "a", 0.5), ("d", "b", None)]
    document = {
        "name": "digits",
        "epsilon_of_all": epsilon_document(of_player(0.25, 2.0, 100.0)),
        "devices": [{"node": n, "parent": p, "cost_s": c, "answered": c is not None} for n, p, c in rows],
    }
    draw_edges(document, tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")
    draw_edges(document, tmp_path / "tree.svg")
    drawn = (tmp_path / "tree.svg").read_text()
    edges = {colour for colour in PLASMA if f"stroke: {colour}" in drawn}
    assert edges == {PLASMA[0], PLASMA[2]}
