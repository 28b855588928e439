"""Weights that an exporter merged are set apart again; those that were shared on purpose are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgefl.trainer.reading import untie
from edgefl.trainer.reading.source_model import read_model

ONES = np.ones(4, np.float32)
ODD = np.array([1, 2, 3, 4], np.float32)


def scopes(node: Any, *names: str) -> Any:
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", *names, "op"]))
    return node


def two_norms(onnx_model: Any, weight: Any, *, by: str, names: tuple[str, str] = ("a", "b")) -> Any:
    """Two modules, each with a weight; stored once. `by`: what shows that there were two ("reuse": nothing does)."""
    a, b = names
    second = f"{b}.weight" if by == "identity" else f"{a}.weight"
    nodes = [
        helper.make_node("Mul", ["x", f"{a}.weight"], ["h"]),
        helper.make_node("Mul", ["h", second], ["y"]),
    ]
    if by == "identity":
        nodes.insert(0, helper.make_node("Identity", [f"{a}.weight"], [second]))
    else:
        scopes(nodes[0], a), scopes(nodes[1], b if by == "note" else a)
    return onnx_model(nodes, {f"{a}.weight": weight})


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


@pytest.mark.parametrize("by", ["identity", "note"])
def test_layers_that_were_copied_are_trained_each_on_its_own(by: str, onnx_model: Any, session: Any) -> None:
    """As in an encoder that makes its layers by copying one."""
    model = two_norms(onnx_model, ODD, by=by, names=("layers.0", "layers.1"))
    assert list(session(model).parameters()) == ["layers.0.weight", "layers.1.weight"]


@pytest.mark.parametrize(
    ("readers", "untied"), [(("/layers.0/MatMul", "/layers.1/MatMul"), True), (("/l.0/MatMul", "/l.0_1/MatMul"), False)]
)
def test_weights_without_a_name_of_their_own_go_by_their_readers(
    readers: tuple[str, str], untied: bool, onnx_model: Any, session: Any
) -> None:
    """One layer that is called twice has one weight; the exporter numbers its calls."""
    nodes = [
        helper.make_node("Identity", ["onnx::MatMul_1"], ["onnx::MatMul_2"]),
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["h"], readers[0]),
        helper.make_node("MatMul", ["h", "onnx::MatMul_2"], ["y"], readers[1]),
    ]
    model = onnx_model(nodes, {"onnx::MatMul_1": np.arange(16, dtype=np.float32).reshape(4, 4)})
    assert len(session(model).parameters()) == 1 + untied


def test_a_weight_that_is_read_by_another_module_alone_keeps_its_name(onnx_model: Any, session: Any) -> None:
    """Attention reads the bias of its output projection itself."""
    nodes = [scopes(helper.make_node("Add", ["x", "attention.out.bias"], ["y"]), "attention")]
    model = onnx_model(nodes, {"attention.out.bias": np.zeros(4, np.float32)})
    assert list(session(model).parameters()) == ["attention.out.bias"]


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
