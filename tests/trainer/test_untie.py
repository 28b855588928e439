"""Weights that an exporter merged are set apart again; those that were shared on purpose are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from edgefl.trainer import untie
from edgefl.trainer.source_model import read_model

ONES = np.ones(4, np.float32)
ODD = np.array([1, 2, 3, 4], np.float32)


def scopes(node: Any, *names: str) -> Any:
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", *names, "op"]))
    return node


def two_norms(onnx_model: Any, weight: Any, *, by: str) -> Any:
    """Two modules, a and b, each with a weight; stored once."""
    second = "b.weight" if by == "identity" else "a.weight"
    nodes = [
        scopes(helper.make_node("Mul", ["x", "a.weight"], ["h"]), "a"),
        scopes(helper.make_node("Mul", ["h", second], ["y"]), "b" if by == "note" else "a"),
    ]
    if by == "identity":
        nodes.insert(0, helper.make_node("Identity", ["a.weight"], ["b.weight"]))
        for node in nodes:
            del node.metadata_props[:]
    return onnx_model(nodes, {"a.weight": weight})


def test_equal_fresh_weights_are_trained_each_on_its_own(onnx_model: Any, session: Any) -> None:
    for by in ("identity", "note"):
        model = two_norms(onnx_model, ONES, by=by)
        s = session(model)
        assert list(s.parameters()) == ["a.weight", "b.weight"]
        # and both are in the model that is exported
        stored = {t.name: numpy_helper.to_array(t) for t in read_model(model).proto.graph.initializer}
        np.testing.assert_array_equal(stored["b.weight"], ONES)


def test_a_weight_shared_on_purpose_stays_one(onnx_model: Any, session: Any) -> None:
    for by in ("identity", "note", "reuse"):
        s = session(two_norms(onnx_model, ODD, by=by))
        assert list(s.parameters()) == ["a.weight"]


def test_a_module_that_is_used_twice_keeps_its_one_weight(onnx_model: Any, session: Any) -> None:
    assert list(session(two_norms(onnx_model, ONES, by="reuse")).parameters()) == ["a.weight"]


def test_copies_are_bounded(onnx_model: Any, session: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(untie, "MAX_COPIED_BYTES", 40)
    nodes = [helper.make_node("Identity", ["a.weight"], [f"w{i}"]) for i in range(50)]
    nodes.append(helper.make_node("Sum", ["x", *(f"w{i}" for i in range(50))], ["y"]))
    assert len(read_model(onnx_model(nodes, {"a.weight": ONES})).proto.graph.initializer) == 2


def test_notes_that_are_no_lists_are_ignored(onnx_model: Any, session: Any) -> None:
    for note in ("[", "7", "[1, 2, 3]", "__import__('os')", "[" * 2000, "['x']" * 9000):
        model = two_norms(onnx_model, ONES, by="note")
        model.graph.node[1].metadata_props[0].value = note
        assert list(session(model).parameters()) == ["a.weight"]
