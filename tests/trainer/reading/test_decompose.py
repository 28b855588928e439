"""Newer operators in terms of opset 21: the same function, on ONNX Runtime, as the reference implementation of ONNX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients.differentiate import reachable, require_rules
from edgefl.trainer.graph import OPSET, Graph
from edgefl.trainer.reading.decompose import decompose

Array = Any
BATCH = 2


@dataclass(frozen=True)
class Example:
    """`inputs`: shapes of normally distributed inputs, or arrays; "" is an absent input. The batch comes first."""

    operator: str
    opset: int
    inputs: dict[str, tuple[int, ...] | Array]
    attributes: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def id(self) -> str:
        return "-".join([self.operator, self.note or ",".join(f"{k}={v}" for k, v in self.attributes.items())])

    def feeds(self) -> dict[str, Array]:
        rng = np.random.default_rng(2)
        return {
            name: rng.normal(size=value).astype(np.float32) if isinstance(value, tuple) else value
            for name, value in self.inputs.items()
        }


def heads(q: int, kv: int, places: int = 4, others: int = 4, width: int = 3, wide: int = 3) -> dict[str, Any]:
    """Q, K, V with four axes."""
    return {"q": (BATCH, q, places, width), "k": (BATCH, kv, others, width), "v": (BATCH, kv, others, wide)}


def flat(q: int, kv: int, places: int = 4, others: int = 4, width: int = 3, wide: int = 3) -> dict[str, Any]:
    """Q, K, V with the heads side by side."""
    return {"q": (BATCH, places, q * width), "k": (BATCH, others, kv * width), "v": (BATCH, others, kv * wide)}


def attention(inputs: dict[str, Any], opset: int = 23, note: str = "", **attributes: Any) -> Example:
    if len(inputs["q"]) == 3:
        attributes = {"q_num_heads": inputs["q"][2] // 3, "kv_num_heads": inputs["k"][2] // 3, **attributes}
    return Example("Attention", opset, inputs, attributes, note)


GENEROUS = np.tri(4, 4, 1, dtype=np.bool_)
STERN = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], np.bool_)  # the second query sees no key
PADDED = np.repeat(np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.bool_).reshape(BATCH, 1, 1, 4), 4, axis=2)
ATTENTION = [
    attention(heads(2, 2), note="heads"),
    attention(flat(2, 2), note="flat"),
    attention(flat(2, 2, others=5, wide=2), note="cross"),
    attention(heads(2, 2, others=5, wide=2), note="cross-heads"),
    attention(flat(4, 2), note="grouped"),
    attention(heads(4, 1, others=3, wide=2), note="one-key-for-all"),
    attention(flat(4, 2), is_causal=1, note="causal"),
    attention(heads(2, 2, places=5, others=3), is_causal=1, note="causal-cross"),
    attention(flat(2, 2), scale=0.3, softcap=0.7, note="capped"),
    attention({**flat(2, 2), "mask": (4, 4)}, note="added-mask"),
    attention({**flat(4, 2), "mask": (BATCH, 4, 4, 4)}, is_causal=1, note="added-mask-per-head-causal"),
    attention({**flat(2, 2), "mask": GENEROUS}, note="bool-mask"),
    attention({**flat(2, 2), "mask": STERN}, note="bool-mask-empty-row"),
    attention({**heads(4, 2), "mask": PADDED}, is_causal=1, note="padding-causal"),
    attention({**heads(2, 2), "mask": ~PADDED}, is_causal=1, note="padding-in-front-causal"),
]
NARROW = [
    attention(heads(2, 2), opset=25, left_window_size=1, note="window-left"),
    attention(heads(2, 2, others=6), opset=25, left_window_size=1, right_window_size=0, note="window-both"),
    attention(heads(2, 2, places=6), opset=25, right_window_size=1, left_window_size=0, note="window-past-the-end"),
]
ANGLES = np.linspace(0, 3, 8, dtype=np.float32).reshape(4, 2)
PLACES = np.array([[0, 3, 1], [2, 2, 0]])


def rotary(x: tuple[int, ...], *, listed: bool = True, note: str, **attributes: Any) -> Example:
    inputs: dict[str, Any] = {"x": x, "cos": np.cos(ANGLES), "sin": np.sin(ANGLES), "places": PLACES}
    if not listed:
        inputs = {"x": x, "cos": np.cos(ANGLES[PLACES]), "sin": np.sin(ANGLES[PLACES])}
    return Example("RotaryEmbedding", 23, inputs, attributes, note)


OTHERS = [
    Example("RMSNormalization", 23, {"x": (BATCH, 3, 5), "scale": (5,)}),
    Example("RMSNormalization", 23, {"x": (BATCH, 3, 5), "scale": (3, 5)}, {"axis": 1, "epsilon": 0.1}),
    Example("RMSNormalization", 23, {"x": (BATCH, 3, 5), "scale": (3, 5)}, {"axis": -2}),
    Example("Swish", 24, {"x": (BATCH, 5)}),
    Example("Swish", 24, {"x": (BATCH, 5)}, {"alpha": 1.7}),
    rotary((BATCH, 2, 3, 4), note="halves"),
    rotary((BATCH, 2, 3, 4), interleaved=1, note="neighbours"),
    rotary((BATCH, 2, 3, 7), rotary_embedding_dim=4, note="partial"),
    rotary((BATCH, 3, 14), num_heads=2, rotary_embedding_dim=4, interleaved=1, note="flat-partial-neighbours"),
    rotary((BATCH, 3, 8), num_heads=2, note="flat"),
    rotary((BATCH, 3, 8), num_heads=2, listed=False, interleaved=1, note="angles-per-sample"),
]
GATED = [Example("SwiGLU", 28, {"a": (BATCH, 5), "b": (BATCH, 5)}, {"alpha": alpha}) for alpha in (1.0, 0.5)]

ALL = ATTENTION + NARROW + OTHERS + GATED


def known(example: Example) -> bool:
    """Whether the installed onnx has the operator."""
    try:
        onnx.defs.get_schema(example.operator, example.opset)
    except onnx.defs.SchemaError:
        return False
    return onnx.defs.onnx_opset_version() >= example.opset


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.id)
def test_the_rewritten_operator_is_the_same_function(example: Example) -> None:
    if not known(example):
        pytest.skip("this onnx does not know the operator")
    feeds = example.feeds()
    expected = ReferenceEvaluator(original(example)).run(None, feeds)[0]
    (found,) = session(rewritten(example)).run(None, feeds)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("example", [e for e in ATTENTION + OTHERS if "empty" not in e.id], ids=lambda e: e.id)
def test_the_rewritten_operator_is_the_same_as_the_kernel(example: Example) -> None:
    if not known(example):
        pytest.skip("this onnx does not know the operator")
    feeds = example.feeds()
    try:
        stock = session(original(example))
    except (ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.NotImplemented):
        pytest.skip("this ONNX Runtime has no kernel")
    (found,) = session(rewritten(example)).run(None, feeds)
    np.testing.assert_allclose(found, stock.run(None, feeds)[0], atol=5e-6)


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.id)
def test_what_comes_out_can_be_differentiated(example: Example) -> None:
    nodes, _ = rewrite(example)
    trained = [name for name, value in example.inputs.items() if isinstance(value, tuple)]
    path = reachable(nodes, trained, "y")
    assert path
    require_rules(path)


def test_nodes_that_are_not_in_the_table_stay() -> None:
    kept = helper.make_node("Relu", ["x"], ["a"])
    foreign = helper.make_node("Attention", ["a", "a", "a"], ["y"], domain="com.example")
    assert decompose([kept, foreign], {}, Graph().fresh) == ([kept, foreign], [])


def test_constants_are_shared_and_none_looks_like_a_weight() -> None:
    """A float32 initializer with dimensions would be taken for something to train."""
    q, k = (BATCH, 2, 4, 3), (BATCH, 2, 4, 3)
    nodes = [helper.make_node("Attention", [a, "k", "k"], [b], is_causal=1) for a, b in ("qa", "ab")]
    new, constants = decompose(nodes, {"q": q, "k": k, "a": q, "b": q}, Graph(taken=set("qkab")).fresh)
    assert len({name for node in new for name in node.output}) == sum(len(node.output) for node in new)
    assert len({tensor.name for tensor in constants}) == len(constants)
    assert sum(list(tensor.dims) == [4, 4] for tensor in constants) == 1
    assert not [t for t in constants if t.data_type == onnx.TensorProto.FLOAT and t.dims]


@pytest.mark.parametrize(
    ("inputs", "outputs", "attributes", "what"),
    [
        ({**heads(2, 2), "": (), "past": (), "past_v": ()}, ["y"], {}, "past keys"),
        ({**heads(2, 2)}, ["y", "present_k", "present_v"], {}, "beside Y"),
        ({**heads(2, 2)}, ["y", "", "", "scores"], {}, "beside Y"),
        ({**heads(3, 2)}, ["y"], {}, "do not fit"),
        ({**flat(3, 3)}, ["y"], {"q_num_heads": 2, "kv_num_heads": 3}, "q_num_heads"),
        ({**heads(2, 2), "mask": (4, 3)}, ["y"], {}, "shorter"),
        ({**heads(2, 2), "mask": np.zeros((4, 4), np.float16)}, ["y"], {}, "float16"),
        ({**heads(2, 2, places=5), "mask": (None, 4)}, ["y"], {}, "inferred"),
    ],
)
def test_a_form_of_attention_is_refused_by_name(inputs: Any, outputs: list[str], attributes: Any, what: str) -> None:
    node = helper.make_node("Attention", list(inputs), outputs, "attend", **attributes)
    shapes = {name: value if isinstance(value, tuple) else value.shape for name, value in inputs.items()}
    shapes = {name: shape for name, shape in shapes.items() if None not in shape}
    dtypes = {name: "float32" if isinstance(value, tuple) else value.dtype.name for name, value in inputs.items()}
    with pytest.raises(UnsupportedOperatorError, match=what) as caught:
        decompose([node], shapes, Graph().fresh, dtypes)
    assert "attend" in caught.value.cause or "attend" in caught.value.hint


def original(example: Example) -> onnx.ModelProto:
    node = helper.make_node(example.operator, list(example.inputs), ["y"], "node", **example.attributes)
    return model([node], [], example, example.opset)


def rewrite(example: Example) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    feeds = example.feeds()
    node = helper.make_node(example.operator, list(feeds), ["y"], "node", **example.attributes)
    shapes = {name: (None, *array.shape[1:]) if len(array) == BATCH else array.shape for name, array in feeds.items()}
    dtypes = {name: array.dtype.name for name, array in feeds.items()}
    return decompose([node], shapes, Graph(taken={*feeds, "y"}).fresh, dtypes)


def rewritten(example: Example) -> onnx.ModelProto:
    return model(*rewrite(example), example, OPSET)


def model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], example: Example, opset: int
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in example.feeds().items()
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(proto.SerializeToString())
