"""Optimisers as formulas: (p, g, lr, state) → (p', state'), one application per parameter.

The learning rate is an input of the graph; every other constant is fixed when the artifacts are built. State starts at
zero. Conventions are PyTorch's, so that published learning rates carry over: momentum without dampening, decoupled
weight decay in AdamW, ε outside the square root. Source: D. Kingma and J. Ba, Adam, 2015, algorithm 1; I. Loshchilov
and F. Hutter, Decoupled Weight Decay Regularization, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from edgefl.errors import ModelError
from edgefl.trainer.graph import Graph, Value
from edgefl.trainer.manifest import Optimizer as Record
from edgefl.trainer.manifest import Parameter, Tensor

Step = tuple[Value, Sequence[Value]]
"""The new parameter and its new moments."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """`moments` state tensors of the parameter's shape; `counts` whether the formula needs the step number."""

    name: str
    update: Callable[[Value, Value, Value, Sequence[Value], Value, Mapping[str, float]], Step]
    moments: tuple[str, ...] = ()
    counts: bool = False
    options: Mapping[str, float] = field(default_factory=dict)


def _sgd(p: Value, g: Value, lr: Value, _: Sequence[Value], __: Value, o: Mapping[str, float]) -> Step:
    return p - lr * g, ()


def _momentum(p: Value, g: Value, lr: Value, state: Sequence[Value], _: Value, o: Mapping[str, float]) -> Step:
    (v,) = state
    v = v * o["momentum"] + g
    return p - lr * v, (v,)


def _adam(p: Value, g: Value, lr: Value, state: Sequence[Value], t: Value, o: Mapping[str, float]) -> Step:
    m, v = state
    b1, b2, lift = o["beta1"], o["beta2"], p.graph.lift
    m = m * b1 + g * (1 - b1)
    v = v * b2 + (g * g) * (1 - b2)
    unbias1, unbias2 = (lift(1.0) - p.graph.op("Pow", lift(b), t) for b in (b1, b2))
    root = p.graph.op("Sqrt", v / unbias2) + o["epsilon"]
    if o["weight_decay"]:
        p = p * (lift(1.0) - lr * o["weight_decay"])
    return p - (lr / unbias1) * m / root, (m, v)


_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", _sgd),
        Optimizer("momentum", _momentum, ("velocity",), options={"momentum": 0.9}),
        Optimizer("adam", _adam, ("mean", "square"), counts=True, options={**_ADAM, "weight_decay": 0.0}),
        Optimizer("adamw", _adam, ("mean", "square"), counts=True, options={**_ADAM, "weight_decay": 0.01}),
    )
}


def optimizer_model(
    name: str, options: Mapping[str, float], parameters: Sequence[Parameter]
) -> tuple[onnx.ModelProto, Record]:
    """The graph (lr, parameters, gradients, state) → (parameters, state), in manifest order, and its record.

    Raises ModelError for a name or an option that does not exist.
    """
    if name not in OPTIMIZERS:
        raise ModelError(f"no optimizer {name!r}", hint=f"choose one of {', '.join(OPTIMIZERS)}")
    optimizer = OPTIMIZERS[name]
    if unknown := set(options) - set(optimizer.options):
        raise ModelError(
            f"optimizer {name} has no option {', '.join(sorted(unknown))}",
            hint=f"its options are: {', '.join(optimizer.options) or 'none'}",
        )
    settings = {**optimizer.options, **{key: float(value) for key, value in options.items()}}

    graph = Graph()
    graph.taken.update(parameter.name for parameter in parameters)
    lr = Tensor(graph.fresh("lr"), "float32", ())
    inputs = [lr, *(Tensor(p.name, "float32", p.shape) for p in parameters)]
    inputs += [Tensor(graph.fresh(f"{p.name}.gradient"), "float32", p.shape) for p in parameters]
    state = [Tensor(graph.fresh("step"), "float32", ())] if optimizer.counts else []
    moments = [
        [Tensor(graph.fresh(f"{p.name}.{m}"), "float32", p.shape) for m in optimizer.moments] for p in parameters
    ]
    state += [tensor for group in moments for tensor in group]
    inputs += state

    step = Value(graph, state[0].name) + 1.0 if optimizer.counts else graph.lift(0.0)
    new_parameters: list[Value] = []
    new_state: list[Value] = [step] if optimizer.counts else []
    for p, gradient, group in zip(parameters, inputs[1 + len(parameters) :], moments, strict=False):
        values = [Value(graph, tensor.name) for tensor in group]
        update = optimizer.update(
            Value(graph, p.name), Value(graph, gradient.name), Value(graph, lr.name), values, step, settings
        )
        new_parameters.append(update[0])
        new_state.extend(update[1])
    results = [
        Tensor(value.named(graph.fresh(f"{old.name}.next")).name, "float32", old.shape)
        for value, old in zip((*new_parameters, *new_state), (*inputs[1 : 1 + len(parameters)], *state), strict=True)
    ]
    return graph.model("optimizer", inputs, results), Record(name, settings, tuple(state))
