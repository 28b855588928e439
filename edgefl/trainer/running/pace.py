"""How many plain gradients the steps of an optimiser add up to: the sum of the weights that each gradient has in the
final change of the parameters, divided by the learning rate.

Plain descent: one for each step. With momentum m the gradient of an early step goes on to be used in all later ones.
Source: Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, NeurIPS 2020,
section 4.1 (||a||_1 of SGD with momentum). Optimisers that divide by what they have measured (Adam) have no such sum.
"""

from __future__ import annotations

from edgefl.trainer.files.manifest import Optimizer


def adds_up(optimizer: Optimizer) -> bool:
    """Whether the change of the parameters is a weighted sum of gradients."""
    return optimizer.name in ("sgd", "momentum")


def plain_steps(optimizer: Optimizer, steps: int) -> float:
    """The sum of weights after `steps` steps from a fresh start; the number of steps where there is no such sum."""
    m = float(optimizer.options.get("momentum", 0.0)) if optimizer.name == "momentum" else 0.0
    if m == 0.0:
        return float(steps)
    velocity = (steps - m * (1 - m**steps) / (1 - m)) / (1 - m) if m != 1.0 else steps * (steps + 1) / 2
    return steps + m * velocity if optimizer.options.get("nesterov", 0.0) else velocity
