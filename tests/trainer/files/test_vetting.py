"""What ONNX files may contain: found by walking the bytes, and never understood more kindly than protobuf does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.building import build

from edgefl import trainer
from edgefl.datasets import models
from edgefl.errors import ModelError
from edgefl.trainer.files import vetting
from edgefl.trainer.files.manifest import EVALUATION, OPTIMIZER, TRAINING
from edgefl.trainer.files.protobuf import fields
from edgefl.trainer.files.vetting import contents_of, require_harmless


def external(name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def model() -> onnx.ModelProto:
    return models.mlp(inputs=2, hidden=2, classes=2)


def subgraph(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])


PLACES: dict[str, Any] = {
    "initializer": lambda m: m.graph.initializer.append(external()),
    "sparse initializer": lambda m: m.graph.sparse_initializer.add().values.CopyFrom(external()),
    "constant": lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value=external())),
    "tensor list": lambda m: m.graph.node[0].attribute.add(name="t", type=9).tensors.append(external()),
    "sparse constant": lambda m: m.graph.node[0].attribute.add(name="s").sparse_tensor.indices.CopyFrom(external()),
    "branch": lambda m: m.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=subgraph(external()))),
    "function": lambda m: m.functions.add(name="f").node.append(
        helper.make_node("Constant", [], ["c"], value=external())
    ),
    "function default": lambda m: m.functions.add(name="f").attribute_proto.add(name="a").t.CopyFrom(external()),
    "training info": lambda m: m.training_info.add().initialization.initializer.append(external()),
}


@pytest.mark.parametrize("place", PLACES)
def test_data_outside_the_file_is_found_wherever_it_hides(place: str) -> None:
    proto = model()
    PLACES[place](proto)
    with pytest.raises(ModelError, match="data outside itself"):
        contents_of(proto.SerializeToString())


@pytest.mark.parametrize("only", ["external_data", "data_location"])
def test_either_half_of_a_reference_is_enough(only: str) -> None:
    proto, tensor = model(), external()
    tensor.ClearField("data_location" if only == "external_data" else "external_data")
    proto.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match="data outside itself"):
        contents_of(proto.SerializeToString())


def test_what_edgefl_builds_passes(tmp_path: Path) -> None:
    proto = models.cnn()
    proto.graph.initializer[0].data_location = TensorProto.DEFAULT  # as onnx.load leaves it
    manifest = build(proto, loss="cross-entropy", optimizer="adam", frozen=["conv1.*"], out=tmp_path)
    for name in (TRAINING, EVALUATION, OPTIMIZER):
        require_harmless((tmp_path / name).read_bytes(), manifest.operators, name)
    trainer.Session(tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m.graph.node.append(helper.make_node("Erf", ["x"], ["y"])), "Erf"),
        (
            lambda m: m.graph.node.append(helper.make_node("Gemm", ["x"], ["y"], domain="com.microsoft")),
            "com.microsoft",
        ),
        (lambda m: m.functions.add(name="f"), "Function"),
        (lambda m: m.training_info.add(), "TrainingInfo"),
        (lambda m: m.graph.sparse_initializer.add(), "SparseTensor"),
        (lambda m: m.graph.node[0].attribute.add(name="g").g.CopyFrom(helper.make_graph([], "g", [], [])), "Subgraph"),
    ],
)
def test_training_graphs_are_flat_and_of_listed_standard_operators(change: Any, what: str) -> None:
    proto = model()
    require_harmless(proto.SerializeToString(), ("Gemm", "Relu"), "m")
    change(proto)
    with pytest.raises(ModelError, match=what):
        require_harmless(proto.SerializeToString(), ("Gemm", "Relu"), "m")


WHOLE = model()
WHOLE.graph.node.append(helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(2))))
WHOLE.graph.initializer[0].external_data.add(key="location", value="f")
GUILTY = WHOLE.SerializeToString()


def refers_outside(proto: onnx.ModelProto) -> bool:
    """As the protobuf library understands it; of the places above, the two that a mutation of GUILTY can reach."""
    tensors = [*proto.graph.initializer, *(a.t for node in proto.graph.node for a in node.attribute)]
    return any(t.external_data or t.data_location for t in tensors)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_protobuf_sees_in_a_damaged_file_is_seen_here_too(data: st.DataObject) -> None:
    content = bytearray(GUILTY)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with suppress(ModelError):
        contents_of(bytes(content))
        # it passed: then protobuf refuses the file, or sees no reference either
        try:
            proto = onnx.ModelProto.FromString(bytes(content))
        except Exception:
            return
        assert not refers_outside(proto)


@given(st.binary(max_size=80))
@example(b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
def test_arbitrary_bytes_raise_nothing_but_a_model_error(content: bytes) -> None:
    with suppress(ModelError):
        contents_of(content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x3a\x05ab", "does not fit"),
        (b"\x3a", "does not end"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "does not end"),
        (b"\xea\x80\x80\x80\x10\x00", "does not fit"),  # field 13 with bits above 32, which some readers drop
        (b"\x02\x00", "does not fit"),  # field 0
        (b"\x3b\x3c", "wire type 3"),
        (b"\x09\x00", "does not fit"),
    ],
)
def test_a_field_that_readers_could_disagree_on_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        list(fields(content, 0, len(content)))


def test_depth_and_number_of_fields_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = b""
    for _ in range(10):  # node { attribute { g { … } } }
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            graph = tag + bytes([len(graph)]) + graph
    with pytest.raises(ModelError, match="nested deeper"):
        contents_of(b"\x3a" + bytes([len(graph)]) + graph)
    monkeypatch.setattr(vetting, "MAX_FIELDS", 10)
    with pytest.raises(ModelError, match="more than 10 fields"):
        contents_of(model().SerializeToString())
