"""Trees and rounds as text."""

from __future__ import annotations

from edgefl.pictures import draw_tree, round_line, tree_depth


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
