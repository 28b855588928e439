"""The devices' part of a strategy: what it adds to local training, and what it makes of the result before it travels.

Pure, like the root's part (server.py): `plan` before training, `report` after it. Vectors are float32; `parameters` is
the length of the model that travels, of which the first `trained` are trained and the rest are buffers (running
statistics). What a strategy sends of the trained part differs; of the buffers it is always the plain change, and the
root takes their mean.

    fedavg, fedavgm, fedadagrad, fedadam, fedyogi,
    trimmed, trimmed-zones                                     delta
    fedprox                                                    delta; a proximal term in training
    scaffold                                                   [delta | change of the control variate]
    fednova                                                    delta / tau, with tau as a metric
    qfedavg                                                    F^q delta, with its share of the denominator as a metric
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgefl.declared import dataclass
from edgefl.learning.aggregate import is_finite
from edgefl.learning.strategies.spec import StrategySpec, parse_strategy
from edgefl.wire.learning import Metric

Vector = NDArray[np.float32]

STEPS_METRIC = "train_steps"
"""FedNova's tau, weighted by samples: how far a device has gone, in plain gradients."""

FAIRNESS_METRIC = "train_fair_step"
"""q-FedAvg's denominator, weighted by samples."""

LEAST_LOSS = 1e-6
"""A loss of 0 has no power below 0, and the fifth power of less than this no place in float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train: from `weights` [parameters]; `shift` [parameters], if any, is added to every gradient; `proximal`
    pulls back to `weights`; with `wants_loss` the mean loss of `weights` over the data trained on has to be measured
    first."""

    weights: Vector
    shift: Vector | None = None
    proximal: float = 0.0
    wants_loss: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training did: delta [parameters] on `samples`, with learning rate `lr`. `steps`: plain gradients that the
    delta is made of (for descent without momentum, the number of steps). `loss`: as the plan wanted it."""

    delta: Vector
    samples: int
    steps: float
    lr: float
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What travels up (`vector` and `metrics`) and what stays on the device for its next round (`kept`)."""

    vector: Vector
    kept: Vector | None = None
    metrics: tuple[Metric, ...] = ()


class LocalPart(Protocol):
    """`model`: the vector that came, `kept`: what the last report left here, None at first. `trained`: how many of the
    parameters are trained."""

    def plan(self, model: Vector, kept: Vector | None) -> Plan: ...

    def report(self, model: Vector, kept: Vector | None, outcome: Outcome, trained: int) -> Report: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """The delta as it is."""

    proximal: float = 0.0

    def plan(self, model: Vector, kept: Vector | None) -> Plan:
        return Plan(model, proximal=self.proximal)

    def report(self, model: Vector, kept: Vector | None, outcome: Outcome, trained: int) -> Report:
        return Report(outcome.delta)


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Gradients are shifted by c - c_i, the drift of this device. Afterwards c_i+ = c_i - c - delta / (K lr), which is
    the mean gradient on the way, and c_i+ - c_i travels behind the delta.

    Source: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, algorithm
    1, option II.
    """

    def plan(self, model: Vector, kept: Vector | None) -> Plan:
        weights, control = halves(model)
        return Plan(weights, control - _fitting(kept, control))

    def report(self, model: Vector, kept: Vector | None, outcome: Outcome, trained: int) -> Report:
        _, control = halves(model)
        own = _fitting(kept, control)
        change = np.zeros_like(control)
        pace = np.float32(-1 / (outcome.steps * outcome.lr))
        np.multiply(outcome.delta[:trained], pace, out=change[:trained])
        change[:trained] -= control[:trained]
        return Report(np.concatenate((outcome.delta, change)), own + change)


@dataclass(frozen=True, slots=True)
class FedNova:
    """delta / tau: a direction, whatever the number of steps; the root multiplies by the mean of tau.

    Source: Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, NeurIPS
    2020, equation 6 with tau_i = ||a_i||_1.
    """

    def plan(self, model: Vector, kept: Vector | None) -> Plan:
        return Plan(model)

    def report(self, model: Vector, kept: Vector | None, outcome: Outcome, trained: int) -> Report:
        vector = outcome.delta.copy()
        vector[:trained] /= np.float32(outcome.steps)
        weight = float(outcome.samples)
        return Report(vector, metrics=(Metric(STEPS_METRIC, outcome.steps * weight, weight),))


@dataclass(frozen=True, slots=True)
class QFedAvg:
    """F^q delta, and q F^(q-1) ||delta||^2 / lr + F^q for the denominator: devices with a large loss F weigh more.

    Source: Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020, algorithm 2 with L = 1 / lr, numerator
    and denominator both divided by L.
    """

    q: float

    def plan(self, model: Vector, kept: Vector | None) -> Plan:
        return Plan(model, wants_loss=self.q > 0)

    def report(self, model: Vector, kept: Vector | None, outcome: Outcome, trained: int) -> Report:
        loss = max(outcome.loss, LEAST_LOSS)
        vector = outcome.delta.copy()
        moved = vector[:trained]
        length = float(np.dot(moved, moved))
        share = loss**self.q
        moved *= np.float32(share)
        fair = self.q * loss ** (self.q - 1) * length / outcome.lr + share
        weight = float(outcome.samples)
        return Report(vector, metrics=(Metric(FAIRNESS_METRIC, fair * weight, weight),))


def halves(model: Vector) -> tuple[Vector, Vector]:
    """SCAFFOLD's model as it travels: (weights, the control variate c)."""
    middle = len(model) // 2
    return model[:middle], model[middle:]


def _fitting(kept: Vector | None, like: Vector) -> Vector:
    """This device's control variate; zeros at first, and where what was kept does not fit (any more)."""
    return kept if kept is not None and kept.shape == like.shape and is_finite(kept) else np.zeros_like(like)


def local_part(text: str) -> LocalPart:
    """The devices' part of the strategy that a manifest names. Raises UsageError, see parse_strategy."""
    spec: StrategySpec = parse_strategy(text)
    if spec.name == "scaffold":
        return Scaffold()
    if spec.name == "fednova":
        return FedNova()
    if spec.name == "qfedavg":
        return QFedAvg(spec.options["q"])
    return Plain(spec.proximal)
