"""LSTM and GRU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from support.gradient_cases import Case, finite_differences, forward, small_model

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import OPSET, Graph, Value, attributes_of

Array = Any
STEPS, BATCH, FEATURES, HIDDEN = 4, 3, 2, 3
GATES = {"LSTM": 4, "GRU": 3}


def recurrent(
    operator: str,
    direction: str = "forward",
    *,
    steps: int = STEPS,
    bias: bool = True,
    initial: bool = True,
    outputs: tuple[str, ...] = ("Y", "Y_h", "Y_c"),
    **attributes: Any,
) -> Case:
    """x of one sample is [steps, features]; `outputs` lists those that the loss depends on, "" the others."""
    d, gates = 2 if direction == "bidirectional" else 1, GATES[operator]
    weights = {"W": (d, gates * HIDDEN, FEATURES), "R": (d, gates * HIDDEN, HIDDEN)}
    if bias:
        weights["B"] = (d, 2 * gates * HIDDEN)
    if initial:
        weights["h"] = (d, BATCH, HIDDEN)
        if operator == "LSTM":
            weights["c"] = (d, BATCH, HIDDEN)
    inputs = ("s", "W", "R", "B" * bias, "", *list(weights)[2 + bias :])
    attributes |= {"hidden_size": HIDDEN, "direction": direction}
    used = outputs[: 3 if operator == "LSTM" else 2]
    return Case(operator, (steps, FEATURES), weights, attributes=attributes, inputs=inputs, outputs=used)


DIRECTIONS = ("forward", "reverse", "bidirectional")
CASES = [
    *[recurrent("LSTM", direction) for direction in DIRECTIONS],
    *[recurrent("LSTM", outputs=outputs) for outputs in (("Y",), ("", "Y_h"), ("", "", "Y_c"), ("Y", "", "Y_c"))],
    recurrent("LSTM", "bidirectional", bias=False, initial=False, outputs=("Y",)),
    recurrent("LSTM", "reverse", initial=False, outputs=("", "Y_h"), activations=["Sigmoid", "Tanh", "Tanh"]),
    recurrent("LSTM", steps=1),
    recurrent("LSTM", "reverse", steps=1, initial=False),
    *[recurrent("GRU", direction, linear_before_reset=after) for direction in DIRECTIONS for after in (0, 1)],
    *[
        recurrent("GRU", outputs=outputs, linear_before_reset=after)
        for outputs in (("Y",), ("", "Y_h"))
        for after in (0, 1)
    ],
    *[recurrent("GRU", "bidirectional", bias=False, initial=False, linear_before_reset=after) for after in (0, 1)],
    *[recurrent("GRU", steps=1, linear_before_reset=after) for after in (0, 1)],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id}-{','.join(case.outputs)}")
def test_gradient_matches_finite_differences(case: Case) -> None:
    rng = np.random.default_rng(3)
    feeds = {"s": rng.normal(size=(case.x[0], BATCH, FEATURES))}
    feeds |= {name: rng.normal(size=shape) for name, shape in case.weights.items()}
    states = reference(case, feeds)
    slopes = {f"d{name}": rng.normal(size=state.shape) for name, state in states.items() if name in case.outputs}

    found = on_onnxruntime(case, feeds, slopes)
    for name in filter(None, case.outputs):
        np.testing.assert_allclose(found[name], states[name], atol=1e-5, err_msg=name)
    for name in feeds:
        expected = differences(case, feeds, slopes, name)
        np.testing.assert_allclose(found[f"d{name}"], expected, atol=3e-5 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_in_a_model_with_the_batch_first(operator: str, session: Any) -> None:
    """As exporters write it: transposed to time first and back, the batch open."""
    rng = np.random.default_rng(0)
    gates = GATES[operator]
    weights = {
        "W": rng.normal(size=(1, gates * HIDDEN, FEATURES)).astype(np.float32),
        "R": rng.normal(size=(1, gates * HIDDEN, HIDDEN)).astype(np.float32),
        "B": rng.normal(size=(1, 2 * gates * HIDDEN)).astype(np.float32),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node(operator, ["time_first", "W", "R", "B"], ["Y", "Y_h"], "under_test", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["Y", "one"], ["states"]),
        helper.make_node("Transpose", ["states"], ["y"], perm=[1, 0, 2]),
    ]
    model = small_model(nodes, weights, x=("batch", STEPS, FEATURES))
    trained = ["W", "R", "B"]
    s = session(model, trainable=trained)
    for batch in (1, 5):
        x = rng.normal(size=(batch, STEPS, FEATURES)).astype(np.float32)
        target = rng.normal(size=forward(model, x).shape).astype(np.float32)
        found = s.gradients({"x": x, "target": target})
        for name, expected in finite_differences(model, x, target, trained).items():
            np.testing.assert_allclose(found[name], expected, atol=3e-5 * np.abs(expected).max(), err_msg=name)


def test_constant_lengths_are_ignored_if_full_and_refused_if_not() -> None:
    case = recurrent("LSTM", initial=False)
    graph, node = prepared(case, np.full(BATCH, STEPS, np.int32))
    assert any(RULES["LSTM"].gradient(node, Value(graph, "dY"), None, None))
    for lengths in (np.array([STEPS, STEPS, STEPS - 1], np.int32), "an input of the model"):
        graph, node = prepared(case, lengths)
        with pytest.raises(UnsupportedOperatorError, match="sequence_lens"):
            RULES["LSTM"].gradient(node, Value(graph, "dY"), None, None)


@pytest.mark.parametrize(
    ("case", "what"),
    [
        (recurrent("LSTM", layout=1), "layout"),
        (recurrent("LSTM", clip=1.0), "clip"),
        (recurrent("LSTM", input_forget=1), "input_forget"),
        (recurrent("GRU", activations=["Sigmoid", "Relu"]), "activations"),
    ],
)
def test_a_form_without_a_rule_is_refused(case: Case, what: str) -> None:
    graph, node = prepared(case)
    with pytest.raises(UnsupportedOperatorError, match=what):
        RULES[case.operator].gradient(node, Value(graph, "dY"), None)


def test_peepholes_and_an_open_number_of_steps_are_refused() -> None:
    graph, node = prepared(recurrent("LSTM"))
    peepholes = Value(graph, "P", (1, 3 * HIDDEN))
    looking = Node(graph, "LSTM", "lstm", (*node.inputs, peepholes), node.outputs, node.attributes)
    with pytest.raises(UnsupportedOperatorError, match="peepholes"):
        RULES["LSTM"].gradient(looking, Value(graph, "dY"), None, None)
    x = Value(graph, "s", (None, BATCH, FEATURES))
    open_ = Node(graph, "LSTM", "lstm", (x, *node.inputs[1:]), node.outputs, node.attributes)
    with pytest.raises(UnsupportedOperatorError, match="not fixed"):
        RULES["LSTM"].gradient(open_, Value(graph, "dY"), None, None)


def prepared(case: Case, lengths: Array | str = "") -> tuple[Graph, Node]:
    """A graph with the node alone, its batch open; outputs that nobody reads are absent, as in an exported model."""
    graph = Graph(taken={"s", *case.weights})
    shapes = {"s": (case.x[0], None, FEATURES), **case.weights}
    values = [Value(graph, name, shapes[name]) if name else None for name in case.inputs]
    if isinstance(lengths, np.ndarray):
        values[4] = graph.constant(lengths)
    elif lengths:
        values[4] = Value(graph, lengths, (None,))
    graph.op(case.operator, *values, names=case.outputs, **case.attributes)
    outputs = tuple(Value(graph, name) for name in case.outputs if name)
    return graph, Node(graph, case.operator, "under_test", tuple(values), outputs, attributes_of(graph.nodes[0]))


def on_onnxruntime(case: Case, feeds: dict[str, Array], slopes: dict[str, Array]) -> dict[str, Array]:
    """The outputs by name, and the gradient of each input as "d" and its name."""
    graph, node = prepared(case)
    arrived = [Value(graph, f"d{name}") if name else None for name in case.outputs]
    sent = RULES[case.operator].gradient(node, *arrived)
    gradients = {
        f"d{name}": value for name, value in zip(case.inputs, sent, strict=False) if name and value is not None
    }
    arrays = {name: array.astype(np.float32) for name, array in {**feeds, **slopes}.items()}
    names = [*filter(None, case.outputs), *(value.name for value in gradients.values())]
    proto = helper.make_graph(
        graph.nodes,
        "test",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape) for name, array in arrays.items()],
        [onnx.ValueInfoProto(name=name) for name in names],
        list(graph.constants.values()),
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    results = ort.InferenceSession(model.SerializeToString()).run(None, arrays)
    return dict(zip([*filter(None, case.outputs), *gradients], results, strict=True))


def differences(case: Case, feeds: dict[str, Array], slopes: dict[str, Array], name: str) -> Array:
    """The gradient of Σ outputs · slopes by central differences."""

    def loss() -> float:
        states = reference(case, feeds)
        return float(sum((states[output[1:]] * slope).sum() for output, slope in slopes.items()))

    gradient = np.zeros_like(feeds[name])
    for place in np.ndindex(gradient.shape):
        kept = feeds[name][place]
        ends = []
        for h in (1e-5, -1e-5):
            feeds[name][place] = kept + h
            ends.append(loss())
        feeds[name][place] = kept
        gradient[place] = (ends[0] - ends[1]) / 2e-5
    return gradient


def reference(case: Case, feeds: dict[str, Array]) -> dict[str, Array]:
    """Y, Y_h and Y_c by the equations of the ONNX specification."""
    x, w, r = feeds["s"], feeds["W"], feeds["R"]
    directions = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}[case.attributes["direction"]]
    zeros = np.zeros((len(directions), x.shape[1], HIDDEN))
    hs, cs = feeds.get("h", zeros).copy(), feeds.get("c", zeros).copy()
    y = np.zeros((len(x), len(directions), x.shape[1], HIDDEN))
    for d, stride in enumerate(directions):
        b_w, b_r = np.split(feeds["B"][d], 2) if "B" in feeds else (0.0, 0.0)
        for t in range(len(x))[::stride]:
            from_x, h = x[t] @ w[d].T + b_w, hs[d]
            from_h = h @ r[d].T + b_r
            if case.operator == "LSTM":
                i, o, f, c = np.split(from_x + from_h, 4, 1)
                cs[d] = sigmoid(f) * cs[d] + sigmoid(i) * np.tanh(c)
                hs[d] = sigmoid(o) * np.tanh(cs[d])
            else:
                z, reset = np.split(sigmoid((from_x + from_h)[:, : 2 * HIDDEN]), 2, 1)
                own = reset * from_h[:, 2 * HIDDEN :]
                if not case.attributes["linear_before_reset"]:
                    bias = b_r[2 * HIDDEN :] if "B" in feeds else 0.0
                    own = (reset * h) @ r[d, 2 * HIDDEN :].T + bias
                hs[d] = (1 - z) * np.tanh(from_x[:, 2 * HIDDEN :] + own) + z * h
            y[t, d] = hs[d]
    return {"Y": y, "Y_h": hs, **({"Y_c": cs} if case.operator == "LSTM" else {})}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
