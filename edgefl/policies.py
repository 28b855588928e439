"""Policies for the owner of a device: ready-made ones, and what one's own are like.

A policy is a function on the device's own Python path, which its owner gives a name in the configuration. Applications
ask for it by that name (docs/policies.md):

    [policies]
    clip_and_noise = "edgefl.policies:clip_and_noise:clip=1.0,noise=0.8"

    select(manifest, facts) -> bool                  take part in this round? `facts`: the load of the device
    privacy(delta, context) -> delta                 this device's own change of the model, before anybody sees it
    compress(delta, context) -> delta                the same, after privacy: what is worth sending
    aggregate(model, mean, state) -> model           the next model at the root, in place of the strategy

Vectors are float32 [parameters]. A policy may change `delta` in place and return it; `model` and `mean` are read-only.
It runs in a thread of its own, beside the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefl.declared import dataclass

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy is told beside the vector. `random` is drawn from the system's entropy and never replayed: noise
    that others can compute hides nothing."""

    application: str
    round: int
    samples: int
    random: np.random.Generator


def clip_and_noise(delta: Vector, context: Context, *, clip: float = 1.0, noise: float = 1.0) -> Vector:
    """Scale the delta down to an L2 norm of at most `clip`, then add Gaussian noise of standard deviation noise * clip
    to each value.

    The Gaussian mechanism as in DP-SGD (Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1),
    applied to a device's whole delta as in DP-FedAvg (McMahan et al., Learning Differentially Private Recurrent
    Language Models, ICLR 2018), with the noise added on the device: it holds against the root and all other devices.
    """
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    if norm > clip:
        delta *= np.float32(clip / norm)
    if noise > 0:
        delta += context.random.standard_normal(delta.shape, np.float32) * np.float32(noise * clip)
    return delta


def keep_largest(delta: Vector, context: Context, *, share: float = 0.1) -> Vector:
    """Send the largest `share` of the values, by magnitude, and zeros for the rest (top-k sparsification: Aji and
    Heafield, 2017). For a model whose manifest compresses well what is zero, as topk or zstd do."""
    kept = max(1, round(share * delta.size))
    if kept < delta.size:
        magnitude = np.abs(delta)
        delta[magnitude < np.partition(magnitude, delta.size - kept)[delta.size - kept]] = 0
    return delta


def charging_only(manifest: Any, facts: Mapping[str, Any]) -> bool:
    """Train on mains alone. A device without a battery is on mains."""
    return facts.get("on_mains") is not False


def momentum(model: Vector, mean: Vector, state: dict[str, Any], *, beta: float = 0.9, lr: float = 1.0) -> Vector:
    """v ← beta v + mean; model ← model + lr v: server momentum (Hsu et al., 2019) as an example of a policy with a
    state. A root that takes over begins with an empty one."""
    velocity: Vector = np.float32(beta) * state["velocity"] + mean if "velocity" in state else mean.copy()
    state["velocity"] = velocity
    new: Vector = model + np.float32(lr) * velocity
    return new
