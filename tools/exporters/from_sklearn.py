"""scikit-learn by skl2onnx; the gradients are those of the same model written in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from exporters.fixtures import BATCHES, Weights, draw, specification, store, write_reference
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

FEATURES, CLASSES = 5, 3

Layers = list[tuple[np.ndarray, np.ndarray]]


def run() -> None:
    rng = np.random.RandomState(0)
    x = rng.standard_normal((60, FEATURES)).astype(np.float32)
    many = rng.randint(0, CLASSES, 60)
    two, number = many > 0, rng.standard_normal(60)
    mlp = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 1}
    scaler = StandardScaler().fit(x * 2 + 1)
    piped = make_pipeline(scaler, MLPClassifier(activation="tanh", **mlp).fit(x, np.array(["a", "b", "c"])[many]))
    models: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "sklearn-mlp": (MLPClassifier(**mlp).fit(x, many), "relu", {"classes": CLASSES}),
        "sklearn-mlp-two": (MLPClassifier(**mlp).fit(x, two), "relu", {"classes": 2}),
        "sklearn-scaled": (piped, "tanh", {"classes": CLASSES}),
        "sklearn-regressor": (MLPRegressor(**mlp).fit(x, number), "relu", {"loss": "mse", "output": [1]}),
        "sklearn-logistic": (LogisticRegression().fit(x, many), "", {"classes": CLASSES}),
        "sklearn-logistic-two": (LogisticRegression().fit(x, two), "", {"classes": 2}),
        "sklearn-linear": (LinearRegression().fit(x, number), "", {"loss": "mse", "output": [1]}),
    }
    for name, (model, activation, options) in models.items():
        spec = specification((FEATURES,), **options)
        layers = layers_of(model)
        scale = model[0] if hasattr(model, "steps") else None
        results = {}
        for batch in BATCHES:
            given, target = draw(spec, batch)
            inputs = (given.astype(np.float64) - scale.mean_) / scale.scale_ if scale else given.astype(np.float64)
            slopes = gradients(layers, activation, inputs, target, spec)
            results |= {f"plain/{batch}/{key}": value for key, value in slopes.items()}
        write_reference(name, results)
        weights = {
            f"{part}{i}": array for i, layer in enumerate(layers) for part, array in zip("Wb", layer, strict=True)
        }
        for exporter, choice in (("skl2onnx", {"zipmap": False}), ("skl2onnx-zipmap", {})):
            if exporter == "skl2onnx" or "classes" in options:
                final = model[-1] if scale else model
                chosen = {id(final): choice} if choice and "classes" in options else None
                proto = to_onnx(model, x[:1], options=chosen)
                store(name, exporter, proto, spec, {"plain": weights}, hidden=None if activation else attributes(proto))


def attributes(proto: Any) -> dict[str, Any]:
    """The names that edgefl gives to weights that the converter keeps in attributes."""
    node = next(node for node in proto.graph.node if node.op_type.startswith("Linear"))
    return {f"{node.name}.weight": ("W0", [0, 1]), f"{node.name}.bias": ("b0", [0])}


def layers_of(model: Any) -> Layers:
    """(weight [in, out], bias [out]) of each layer; two classes of a linear model are two opposite halves."""
    final = model[-1] if hasattr(model, "steps") else model
    if hasattr(final, "coefs_"):
        return [(weight, bias) for weight, bias in zip(final.coefs_, final.intercepts_, strict=True)]
    weight, bias = np.atleast_2d(final.coef_).T, np.atleast_1d(final.intercept_)
    if hasattr(final, "classes_") and len(final.classes_) == 2:
        weight, bias = weight * [-0.5, 0.5], bias * [-0.5, 0.5]
    return [(weight, bias)]


def gradients(layers: Layers, activation: str, x: np.ndarray, y: np.ndarray, spec: dict[str, Any]) -> Weights:
    parameters = [[torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in layer] for layer in layers]
    h = torch.tensor(x)
    for i, (weight, bias) in enumerate(parameters):
        h = h @ weight + bias
        if i + 1 < len(parameters):
            h = getattr(torch, activation)(h)
    if spec["loss"] == "mse":
        loss = functional.mse_loss(h, torch.tensor(y, dtype=torch.float64))
    else:
        logits = torch.cat([h - h, h], 1) if h.shape[1] == 1 else h
        loss = functional.cross_entropy(logits, torch.tensor(y))
    loss.backward()
    slopes = {
        f"gradient/{part}{i}": p.grad.numpy()
        for i, pair in enumerate(parameters)
        for part, p in zip("Wb", pair, strict=True)
    }
    return {"loss": loss.detach().numpy(), **slopes}
