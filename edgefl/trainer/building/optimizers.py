"""Optimisers as formulas over the flat vector of all trained parameters: (p, g, lr, state) → (p', state').

The graph works on one vector instead of one tensor per weight: few large nodes, however many layers a model has. The
learning rate is an input; every other constant is fixed when the artifacts are built. State starts at zero. Conventions
are PyTorch's, so that published learning rates carry over: momentum without dampening, decoupled weight decay in AdamW
and coupled elsewhere, ε outside the square root, clipping by the global norm before everything else. Sources: D. Kingma
and J. Ba, Adam, 2015, algorithm 1; I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, 2019.

Invariant: every old value is read by ancestors of its successor alone, so the graph may write each result over its
input (`require_in_place`).

Plain gradient descent is given −lr·g instead of g (`takes_step`): the factor costs nothing where the backward pass
begins, and leaves one pass over the weights where Mul and Sub would make two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Optimizer as Record
from edgefl.trainer.files.manifest import Tensor
from edgefl.trainer.graph import Graph, Value

CLIP_EPSILON = 1e-6
"""As torch.nn.utils.clip_grad_norm_: no division by a norm of zero."""

Step = tuple[Value, Sequence[Value]]
"""The new parameters and the new state."""

Options = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """`state` names vectors of the parameters' size; `counts` whether the formula needs the step number."""

    name: str
    update: Callable[[Value, Value, Value, Sequence[Value], Value, Options], Step]
    state: tuple[str, ...] = ()
    counts: bool = False
    options: Options = field(default_factory=dict)

    def takes_step(self, options: Options) -> bool:
        """Whether it is given −lr·g: plain descent alone, since everything else needs g itself."""
        return self.name == "sgd" and not any(options.values())


def _sgd(p: Value, g: Value, lr: Value, _: Sequence[Value], __: Value, o: Options) -> Step:
    return p - lr * _decayed(p, g, o), ()


def _momentum(p: Value, g: Value, lr: Value, state: Sequence[Value], _: Value, o: Options) -> Step:
    (v,) = state
    g = _decayed(p, g, o)
    v = v * o["momentum"] + g
    return p - lr * (g + v * o["momentum"] if o["nesterov"] else v), (v,)


def _adam(p: Value, g: Value, lr: Value, state: Sequence[Value], t: Value, o: Options) -> Step:
    return _adam_step(p, _decayed(p, g, o), lr, state, t, o)


def _adamw(p: Value, g: Value, lr: Value, state: Sequence[Value], t: Value, o: Options) -> Step:
    decayed = p * (p.graph.lift(1.0) - lr * o["weight_decay"]) if o["weight_decay"] else p
    return _adam_step(decayed, g, lr, state, t, o)


def _adam_step(p: Value, g: Value, lr: Value, state: Sequence[Value], t: Value, o: Options) -> Step:
    # m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε), with the two scalar corrections moved out of the passes over the vector
    m, v = state
    b1, b2, lift = o["beta1"], o["beta2"], p.graph.lift
    m = m * b1 + g * (1 - b1)
    v = v * b2 + (g * g) * (1 - b2)
    unbias1, unbias2 = (lift(1.0) - p.graph.op("Pow", lift(b), t) for b in (b1, b2))
    spread = p.graph.op("Sqrt", unbias2)
    root = p.graph.op("Sqrt", v) + spread * o["epsilon"]
    return p - m / root * (lr * spread / unbias1), (m, v)


def _decayed(p: Value, g: Value, o: Options) -> Value:
    return g + p * o["weight_decay"] if o["weight_decay"] else g


_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
_ALL = {"weight_decay": 0.0, "clip_norm": 0.0}

OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", _sgd, options=_ALL),
        Optimizer("momentum", _momentum, ("velocity",), options={"momentum": 0.9, "nesterov": 0.0, **_ALL}),
        Optimizer("adam", _adam, ("mean", "square"), counts=True, options={**_ADAM, **_ALL}),
        Optimizer("adamw", _adamw, ("mean", "square"), counts=True, options={**_ADAM, **_ALL, "weight_decay": 0.01}),
    )
}


def optimizer_model(name: str, options: Options, size: int) -> tuple[onnx.ModelProto, Record]:
    """The graph (lr, step, p, g, *state) → (p', *state') for vectors of `size`, and its record. An input that the
    formula does not need is not there: `step` (float32, counted from 1) without `counts`, `lr` with `takes_step`.

    Raises ModelError for a name or an option that does not exist.
    """
    if name not in OPTIMIZERS:
        raise ModelError(f"no optimizer {name!r}", hint=f"choose one of {', '.join(OPTIMIZERS)}")
    optimizer = OPTIMIZERS[name]
    if unknown := set(options) - set(optimizer.options):
        raise ModelError(
            f"optimizer {name} has no option {', '.join(sorted(unknown))}",
            hint=f"its options are: {', '.join(optimizer.options)}",
        )
    settings = {**optimizer.options, **{key: float(value) for key, value in options.items()}}
    takes_step = optimizer.takes_step(settings)

    graph = Graph()
    scalars = [*(() if takes_step else ("lr",)), *(("step",) if optimizer.counts else ())]
    carried = ["parameters", *optimizer.state]
    inputs = [
        *(Tensor(scalar, "float32", ()) for scalar in scalars),
        *(Tensor(vector, "float32", (size,)) for vector in ("parameters", "gradient", *optimizer.state)),
    ]
    graph.taken.update(tensor.name for tensor in inputs)
    values = {tensor.name: Value(graph, tensor.name, tensor.shape) for tensor in inputs}
    p, g = values["parameters"], values["gradient"]
    if takes_step:
        new, state = p + g, list[Value]()
    else:
        step = values.get("step", graph.lift(0.0))
        given = [values[vector] for vector in optimizer.state]
        new, changed = optimizer.update(p, _clipped(g, settings["clip_norm"]), values["lr"], given, step, settings)
        state = list(changed)
    names = graph.name_results([new, *state], [f"{vector}.next" for vector in carried])
    model = graph.model("optimizer", inputs, [Tensor(name, "float32", (size,)) for name in names])
    require_in_place(model, carried)
    return model, Record(name, settings, optimizer.state, optimizer.counts, takes_step)


def _clipped(g: Value, limit: float) -> Value:
    """g scaled down to the norm `limit` where it is longer (0: never)."""
    if not limit:
        return g
    graph = g.graph
    norm = graph.op("ReduceL2", g, keepdims=0)
    return g * graph.op("Min", graph.lift(limit) / (norm + CLIP_EPSILON), graph.lift(1.0))


def require_in_place(model: onnx.ModelProto, carried: Sequence[str]) -> None:
    """Raises ValueError unless `carried` inputs may share their memory with the outputs `<name>.next`: whatever reads
    the old value comes before the new one in any order of execution."""
    producers = {output: node for node in model.graph.node for output in node.output}
    for name in carried:
        before: set[str] = set()
        waiting = [f"{name}.next"]
        while waiting:
            node = producers.get(waiting.pop())
            if node is not None and node.output[0] not in before:
                before.add(node.output[0])
                waiting.extend(node.input)
        readers = [node.output[0] for node in model.graph.node if name in node.input]
        if not before.issuperset(readers):
            raise ValueError(f"{name} is read by what does not lead to its successor")
