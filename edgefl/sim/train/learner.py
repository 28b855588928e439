"""Real gradients, quickly: softmax regression and a perceptron with one hidden layer in NumPy, over one flat vector."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgefl.learning.manifest import travelling
from edgefl.wire.application import Manifest

Vector = NDArray[np.float32]
Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class LocalTraining(Protocol):
    """How devices train, over one flat float32 vector [parameters]: Learner below, or real artifacts."""

    parameters: int
    trained: int
    """So many of the parameters, the first ones, are trained; the rest are running statistics."""

    def initial(self, seed: int) -> Vector:
        """A start of its own for each seed."""
        ...

    def accuracy(self, model: Vector, x: Images, y: Labels) -> float:
        """Share of right answers."""
        ...

    def train(
        self,
        model: Vector,
        x: Images,
        y: Labels,
        *,
        steps: int,
        batch: int,
        lr: float,
        momentum: float,
        seed: int,
        proximal: float = 0.0,
        shift: Vector | None = None,
    ) -> Vector:
        """The model after `steps` steps of SGD with momentum on random batches, pulled back to where it began by
        `proximal`; `shift` is added to every gradient."""
        ...

    def loss(self, model: Vector, x: Images, y: Labels) -> float:
        """Mean cross-entropy."""
        ...

    def gradients(self, steps: int, momentum: float) -> float:
        """How many plain gradients such a training is made of, each counted as often as it was used."""
        ...


class Learner:
    """A classifier of `inputs` features into `classes`; `hidden` 0 is softmax regression, else ReLU units.

    Parameters are float32 [parameters]: weights and biases, layer by layer.
    """

    def __init__(self, inputs: int, classes: int, hidden: int = 0) -> None:
        self.inputs, self.classes, self.hidden = inputs, classes, hidden
        sizes = [inputs, hidden, classes] if hidden else [inputs, classes]
        self._shapes = list(pairwise(sizes))
        self.parameters = self.trained = sum((rows + 1) * columns for rows, columns in self._shapes)

    def initial(self, seed: int) -> Vector:
        """He's initialisation."""
        rng = np.random.default_rng(seed)
        parts = []
        for rows, columns in self._shapes:
            parts += [rng.normal(0, np.sqrt(2 / rows), rows * columns), np.zeros(columns)]
        return np.concatenate(parts).astype(np.float32)

    def _layers(self, model: Vector) -> list[tuple[Vector, Vector]]:
        """Views of (weights [rows, columns], biases [columns])."""
        layers, at = [], 0
        for rows, columns in self._shapes:
            end = at + rows * columns
            layers.append((model[at:end].reshape(rows, columns), model[end : end + columns]))
            at = end + columns
        return layers

    def logits(self, model: Vector, x: Images) -> Vector:
        """float32 [n, classes]."""
        layers = self._layers(model)
        for weights, biases in layers[:-1]:
            x = np.maximum(x @ weights + biases, 0)
        return x @ layers[-1][0] + layers[-1][1]

    def accuracy(self, model: Vector, x: Images, y: Labels) -> float:
        """Share of right answers."""
        return float(np.mean(np.argmax(self.logits(model, x), axis=1) == y))

    def loss(self, model: Vector, x: Images, y: Labels) -> float:
        """Mean cross-entropy."""
        logits = self.logits(model, x)
        logits = logits - logits.max(axis=1, keepdims=True)
        likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -float(likely[np.arange(len(y)), y].mean())

    def gradients(self, steps: int, momentum: float) -> float:
        """How many plain gradients such a training is made of, each counted as often as it was used."""
        if not momentum:
            return float(steps)
        return sum((1 - momentum**left) / (1 - momentum) for left in range(1, steps + 1))

    def gradient(self, model: Vector, x: Images, y: Labels) -> Vector:
        """Of the mean cross-entropy: float32 [parameters]."""
        layers, gradient = self._layers(model), np.empty_like(model)
        inputs = [x]
        for weights, biases in layers[:-1]:
            inputs.append(np.maximum(inputs[-1] @ weights + biases, 0))
        logits = inputs[-1] @ layers[-1][0] + layers[-1][1]
        error = np.exp(logits - logits.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        for (into, bias), (weights, _), given in reversed(
            list(zip(self._layers(gradient), layers, inputs, strict=True))
        ):
            into[...] = given.T @ error
            bias[...] = error.sum(axis=0)
            error = (error @ weights.T) * (given > 0)
        return gradient

    def train(
        self,
        model: Vector,
        x: Images,
        y: Labels,
        *,
        steps: int,
        batch: int,
        lr: float,
        momentum: float,
        seed: int,
        proximal: float = 0.0,
        shift: Vector | None = None,
    ) -> Vector:
        """The model after `steps` steps of SGD with momentum on random batches. `proximal`: FedProx's mu; `shift`:
        SCAFFOLD's c - c_i."""
        rng = np.random.default_rng(seed)
        start, model, velocity = model, model.copy(), None
        for _ in range(steps):
            chosen = rng.integers(len(y), size=min(batch, len(y)))
            step = self.gradient(model, x[chosen], y[chosen])
            if shift is not None:
                step += shift
            if proximal:
                step += np.float32(proximal) * (model - start)
            if momentum:
                if velocity is not None:
                    velocity *= np.float32(momentum)
                    velocity += step
                    step = velocity
                velocity = step
                model -= np.float32(lr) * step
            else:
                step *= np.float32(lr)
                model -= step
        return model


def initial_model(learner: LocalTraining, manifest: Manifest) -> Vector:
    """As it travels: what the strategy puts behind the weights is 0 at first. float32, little-endian."""
    vector = np.zeros(travelling(manifest), "<f4")
    vector[: learner.parameters] = learner.initial(manifest.seed)
    return vector
