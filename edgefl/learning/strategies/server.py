"""Server optimisers: the mean delta of a round is a pseudo-gradient, and the root takes one step along it.

What the devices send in place of their delta is in local.py. Source of the adaptive ones: Reddi et al., Adaptive
Federated Optimization, ICLR 2021, algorithm 2. There is no correction of the first steps' bias there, and none here.
All vectors are float32 of the length that travels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefl.declared import dataclass
from edgefl.learning.strategies.local import FAIRNESS_METRIC, STEPS_METRIC, halves
from edgefl.learning.strategies.spec import parse_strategy

Vector = NDArray[np.float32]
State = tuple[Vector, ...]
"""What a strategy remembers from round to round; () before the first. At most two vectors."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a strategy may know of a round beside the mean delta. `share`: 0..1 of the members took part. `means`: the
    weighted means of what the devices measured, by name."""

    share: float = 1.0
    means: Mapping[str, float] = field(default_factory=dict)


NO_FACTS = Facts()


class Strategy(Protocol):
    """Pure: changes none of its arguments. `vectors`: how many it remembers, once it has taken a step."""

    @property
    def vectors(self) -> int: ...

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        """The next model, and what to remember with it. `delta`: sum(n_i * delta_i) / sum(n_i)."""
        ...


@dataclass(frozen=True, slots=True)
class FedAvg:
    """x ← x + lr Δ. With lr 1, the average of the devices' models, weighted by their samples.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017. FedProx
    (T. Li et al., 2020) is the same at the root: its proximal term is the devices' part. For `trimmed` and
    `trimmed-zones`, Δ is a trimmed mean (groups.py).
    """

    lr: float
    vectors: ClassVar[int] = 0

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        return _moved(model, delta, self.lr), ()


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """v ← momentum v + Δ;  x ← x + lr v.

    Source: Hsu et al., Measuring the Effects of Non-Identical Data Distribution, 2019.
    """

    lr: float
    momentum: float
    vectors: ClassVar[int] = 1

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        velocity = np.float32(self.momentum) * state[0] + delta if state else delta.astype(np.float32)
        return _moved(model, velocity, self.lr), (velocity,)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """m ← beta1 m + (1 - beta1) Δ;  v ← second(v, Δ²);  x ← x + lr m / (√v + tau); at first m = 0 and v = tau²."""

    lr: float
    beta1: float
    tau: float
    second: Callable[[Vector, Vector], Vector]
    vectors: ClassVar[int] = 2

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        m, v = state or (np.zeros_like(model), np.full_like(model, self.tau * self.tau))
        m = np.float32(self.beta1) * m + np.float32(1 - self.beta1) * delta
        v = self.second(v, delta * delta)
        return _moved(model, m / (np.sqrt(v) + np.float32(self.tau)), self.lr), (m, v)


MAX_STEPS = 1e9
"""FedNova's mean of tau is what devices say; more gradients than this takes no device in a round."""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """[x | c] ← [x + lr Δx | c + share Δc], share being the part of the members that took part.

    Source: Karimireddy et al., SCAFFOLD, ICML 2020, algorithm 1, lines 16 and 17, with means weighted by samples.
    """

    lr: float
    vectors: ClassVar[int] = 0

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        (x, c), (moved, change) = halves(model), halves(delta)
        return np.concatenate((_moved(x, moved, self.lr), _moved(c, change, facts.share))), ()


@dataclass(frozen=True, slots=True)
class FedNova:
    """x ← x + lr τ d, d being the mean of the devices' Δᵢ / τᵢ and τ that of their τᵢ.

    Source: Wang et al., NeurIPS 2020, equation 6 with p_i = w_i and tau_eff = sum p_i tau_i.
    """

    lr: float
    vectors: ClassVar[int] = 0

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        steps = min(max(facts.means.get(STEPS_METRIC, 1.0), 0.0), MAX_STEPS)
        return _moved(model, delta, self.lr * steps), ()


@dataclass(frozen=True, slots=True)
class QFedAvg:
    """x ← x + lr (mean of F^q Δ) / (mean of the denominators). With q = 0, FedAvg.

    Source: Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020, algorithm 2.
    """

    lr: float
    vectors: ClassVar[int] = 0

    def step(self, model: Vector, delta: Vector, state: State, facts: Facts = NO_FACTS) -> tuple[Vector, State]:
        denominator = facts.means.get(FAIRNESS_METRIC, 0.0)
        return _moved(model, delta, self.lr / denominator if denominator > 0 else 0.0), ()


def step_with_buffers(
    strategy: Strategy, model: Vector, delta: Vector, state: State, facts: Facts, buffers: slice
) -> tuple[Vector, State]:
    """The strategy's step for all but the buffers (running statistics): they are averaged, whatever the strategy. A
    step along a variance that was not measured may leave it negative."""
    new, after = strategy.step(model, delta, state, facts)
    new[buffers] = model[buffers] + delta[buffers]
    return new, after


def _moved(model: Vector, direction: Vector, lr: float) -> Vector:
    step = direction if lr == 1 else np.float32(lr) * direction
    return (model + step).astype(np.float32, copy=False)


def _adagrad(v: Vector, square: Vector) -> Vector:
    return v + square


def _adam(beta2: float) -> Callable[[Vector, Vector], Vector]:
    return lambda v, square: np.float32(beta2) * v + np.float32(1 - beta2) * square


def _yogi(beta2: float) -> Callable[[Vector, Vector], Vector]:
    return lambda v, square: v - np.float32(1 - beta2) * square * np.sign(v - square)


PLAIN: dict[str, Callable[[float], Strategy]] = {
    "fedavg": FedAvg,
    "fedprox": FedAvg,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "qfedavg": QFedAvg,
    "trimmed": FedAvg,
    "trimmed-zones": FedAvg,
}
"""Those that remember nothing and have a rate alone."""


def strategy_of(text: str) -> Strategy:
    """The strategy that a manifest names. Raises UsageError, see parse_strategy."""
    spec = parse_strategy(text)
    options = spec.options
    if spec.name == "fedavgm":
        return FedAvgM(options["lr"], options["momentum"])
    if spec.name in PLAIN:
        return PLAIN[spec.name](options["lr"])
    second = {"fedadagrad": lambda _: _adagrad, "fedadam": _adam, "fedyogi": _yogi}[spec.name]
    return Adaptive(options["lr"], options["beta1"], options["tau"], second(options.get("beta2", 0.0)))
