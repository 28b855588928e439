"""PyTorch: the dynamo exporter with and without optimisation, and TorchScript."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from exporters.fixtures import BATCHES, CLASSES, RATE, STEPS, Weights, draw, specification, store, write_reference
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.c2, self.b2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        self.shortcut = shortcut if stride != 1 else nn.Identity()

    def forward(self, x: Any) -> Any:
        h = self.b2(self.c2(functional.relu(self.b1(self.c1(x)))))
        return functional.relu(h + self.shortcut(x))


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 3, 5), nn.Conv2d(3, 4, 5)
        self.f1, self.f2 = nn.Linear(64, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        x = functional.max_pool2d(functional.relu(self.c1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.c2(x)), 2)
        return self.f2(functional.relu(self.f1(x.view(x.size(0), -1))))


class Tokens(nn.Module):
    """Embedding, learned positions, attention written with the framework's own function."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(20, 8), nn.Parameter(torch.zeros(1, 6, 8))
        self.n1, self.n2, self.qkv, self.o = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, CLASSES)

    def forward(self, t: Any) -> Any:
        x = self.embedding(t) + self.positions
        n, length, width = x.shape
        q, k, v = (z.view(n, length, 2, 4).transpose(1, 2) for z in self.qkv(self.n1(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.o(mixed)
        x = x + self.down(functional.gelu(self.up(self.n2(x))))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, CLASSES)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.encoder(self.embed(x))[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.cell = kind(4, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options else 6, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(x)[0][:, -1])


class Painter(nn.Module):
    """Images to images: group, instance and channel-wise forms, and the way back up."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.group, self.c2 = nn.Conv2d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 3, 2, 1)
        self.instance, self.slope = nn.InstanceNorm2d(6, affine=True), nn.PReLU(6)
        self.back, self.c3 = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(8, 2, 3, 1, 1)

    def forward(self, x: Any) -> Any:
        a = functional.silu(self.group(self.c1(x)))
        b = self.back(self.slope(self.instance(self.c2(a))))
        return self.c3(functional.interpolate(torch.cat([b, a], 1), scale_factor=2, mode="nearest"))


def conv_norm(a: int, b: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Any]:
    return [nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]


def separable(a: int, b: int, stride: int) -> list[Any]:
    return [*conv_norm(a, a, 3, stride, a), nn.ReLU6(), *conv_norm(a, b, 1), nn.ReLU6()]


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
        specification((1, 8, 8)),
    ),
    "lenet": (LeNet, specification((1, 28, 28))),
    "cnn32": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(96, CLASSES)),
        ),
        specification((3, 32, 32)),
    ),
    "resnet8": (
        lambda: nn.Sequential(
            *(*conv_norm(3, 4, 3), nn.ReLU(), Residual(4, 4, 1), Residual(4, 6, 2), Residual(6, 8, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
        ),
        specification((3, 16, 16)),
    ),
    "mobilenet": (
        lambda: nn.Sequential(
            *(*conv_norm(3, 4, 3, 2), nn.Hardswish(), *separable(4, 6, 1), *separable(6, 8, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.0), nn.Linear(8, CLASSES)),
        ),
        specification((3, 16, 16)),
    ),
    "tokens": (Tokens, specification((6,), tokens=20)),
    "encoder": (Encoder, specification((6, 5))),
    "lstm": (lambda: Recurrent(nn.LSTM), specification((7, 4))),
    "bilstm": (lambda: Recurrent(nn.LSTM, bidirectional=True), specification((7, 4))),
    "gru": (lambda: Recurrent(nn.GRU), specification((7, 4))),
    "painter": (Painter, specification((2, 16, 16), loss="mse", output=[2, 16, 16])),
}
MORE = {
    "lenet": ["torchscript-9", "torchscript-11", "dynamo-fixed"],
    "resnet8": ["torchscript-train", "dynamo-raw-train"],
    "mobilenet": ["torchscript-train", "torchscript-11"],
    "encoder": ["dynamo-fixed"],
    "tokens": ["dynamo-fixed"],
    "painter": ["torchscript-11"],
    "lstm": ["dynamo-fixed"],
}
"""Exporters beyond the usual three."""


def loss_of(model: Any, x: np.ndarray, y: np.ndarray, spec: Mapping[str, Any]) -> Any:
    """The loss, whose gradients are with the parameters."""
    dtype = next(model.parameters()).dtype
    given = torch.tensor(x) if spec["tokens"] else torch.tensor(x).to(dtype)
    loss = functional.cross_entropy if spec["loss"] == "cross-entropy" else functional.mse_loss
    target = torch.tensor(y) if spec["loss"] == "cross-entropy" else torch.tensor(y).to(dtype)
    model.zero_grad()
    value = loss(model(given), target)
    value.backward()
    return value.detach().numpy()


def gradients(model: Any, x: np.ndarray, y: np.ndarray, spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
    value = loss_of(model, x, y, spec)
    found = {name: p.grad.double().numpy() for name, p in model.named_parameters()}
    slopes = {f"gradient/{name}": array for name, array in recurrent_forms(found).items()}
    return {"loss": value, **slopes}


def descent(model: Any, spec: Mapping[str, Any]) -> np.ndarray:
    """The losses of some steps of gradient descent on the largest batch, in float64."""
    x, y = draw(spec, max(BATCHES))
    optimizer = torch.optim.SGD(model.double().parameters(), RATE)
    losses = []
    for _ in range(STEPS):
        losses.append(loss_of(model, x, y, spec))
        optimizer.step()
    return np.array(losses)


def recurrent_forms(arrays: Weights) -> Weights:
    """With the tensors of recurrent layers as ONNX has them: gates in another order, directions together."""
    made = dict(arrays)
    for part, names in (("W", ["weight_ih"]), ("R", ["weight_hh"]), ("B", ["bias_ih", "bias_hh"])):
        directions = []
        for suffix in ("", "_reverse"):
            if f"cell.{names[0]}_l0{suffix}" in arrays:
                pieces = [arrays[f"cell.{name}_l0{suffix}"] for name in names]
                directions.append(np.concatenate([np.concatenate(reordered(piece)) for piece in pieces]))
        if directions:
            made[f"cell.{part}"] = np.stack(directions)
    return made


def reordered(piece: np.ndarray) -> list[np.ndarray]:
    gates = np.split(piece, piece.shape[0] // 6)
    return [gates[i] for i in ((0, 3, 1, 2) if len(gates) == 4 else (1, 0, 2))]


def fused(model: Any) -> Any:
    """The same model without batch normalisation."""
    from torch.nn.utils import fuse_conv_bn_eval

    for module in model.modules():
        names = list(module._modules)
        for name, following in itertools.pairwise(names):
            if isinstance(module._modules[following], nn.BatchNorm2d):
                module._modules[name] = fuse_conv_bn_eval(module._modules[name], module._modules[following])
                module._modules[following] = nn.Identity()
    return model.requires_grad_(True)


def made(build: Callable[[], Any]) -> Any:
    torch.manual_seed(3)
    model = build().eval()
    rng = np.random.RandomState(3)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype.is_floating_point:
            shift = 1.0 if ("weight" in name and tensor.ndim == 1) or "running_var" in name else 0.0
            scale = 0.2 if tensor.ndim == 1 else 0.5 / np.sqrt(max(1, tensor[0].numel()) / 4)
            values = rng.standard_normal(tuple(tensor.shape)) * scale
            tensor.data.copy_(torch.tensor(np.abs(values + shift) + 0.1 if "running_var" in name else values + shift))
    return model


def kinds(build: Callable[[], Any]) -> dict[str, Any]:
    if not any(isinstance(module, nn.BatchNorm2d) for module in build().modules()):
        return {"plain": made(build)}
    return {"train": made(build).train(), "eval": made(build), "fused": fused(made(build))}


def export(build: Callable[[], Any], exporter: str, spec: Mapping[str, Any], batch: int | None) -> onnx.ModelProto:
    model, buffer = made(build), io.BytesIO()
    x = (torch.tensor(draw(spec, batch or 2)[0]),)
    names = {"input_names": ["x"], "output_names": ["y"]}
    opset = int(exporter.rpartition("-")[2]) if exporter.rpartition("-")[2].isdigit() else None
    options = {"opset_version": opset} if opset else {}
    if exporter.startswith("torchscript"):
        training = torch.onnx.TrainingMode.TRAINING if "train" in exporter else torch.onnx.TrainingMode.EVAL
        options |= {"training": training, "do_constant_folding": "train" not in exporter}
        axes = None if batch else {"x": {0: "batch"}, "y": {0: "batch"}}
        torch.onnx.export(model, x, buffer, dynamo=False, dynamic_axes=axes, **names, **options)
        return onnx.load_model_from_string(buffer.getvalue())
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    model.train("train" in exporter)
    optimize = "raw" not in exporter
    program = torch.onnx.export(
        model, x, dynamo=True, optimize=optimize, dynamic_shapes=shapes, verbose=False, **names, **options
    )
    return program.model_proto


def run() -> None:
    for name, (build, spec) in MODELS.items():
        variants = kinds(build)
        results = references(build, variants, spec)
        write_reference(name, results)
        weights = {
            kind: {key: p.detach().float().numpy() for key, p in model.named_parameters()}
            for kind, model in variants.items()
        }
        for exporter in ["torchscript", "dynamo", "dynamo-raw", *MORE.get(name, [])]:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                proto = export(build, exporter, spec, 3 if "fixed" in exporter else None)
            known = {kind: as_in(proto, found) for kind, found in weights.items() if may_be(kind, exporter)}
            store(name, exporter, proto, spec, known)


def references(build: Callable[[], Any], variants: Mapping[str, Any], spec: dict[str, Any]) -> dict[str, np.ndarray]:
    """Loss and gradients in float64, for data on which no maximum is so close that rounding decides."""
    while True:
        results, worst = {}, 0.0
        for kind, model in variants.items():
            fresh = fused(made(build)) if kind == "fused" else made(build)
            for batch in BATCHES:
                x, y = draw(spec, batch)
                rough, exact = gradients(model.float(), x, y, spec), gradients(model.double(), x, y, spec)
                scale = max(np.abs(value).max() for key, value in exact.items() if key != "loss")
                worst = max(worst, *(np.abs(rough[key] - exact[key]).max() / scale for key in exact))
                results |= {f"{kind}/{batch}/{key}": value for key, value in exact.items()}
            model.load_state_dict(fresh.state_dict())
            results[f"{kind}/losses"] = descent(model, spec)
            model.load_state_dict(fresh.state_dict())  # running statistics and weights have moved
        if worst < 2e-6:
            return results
        spec["seed"] += 1000


def may_be(kind: str, exporter: str) -> bool:
    """Whether the exporter keeps batch normalisation, and (tracing in training mode moves them) its statistics."""
    if kind == "plain" or (kind == "eval" and exporter == "torchscript-train"):
        return kind == "plain"
    return ("raw" in exporter or "train" in exporter) != (kind == "fused")


def as_in(proto: onnx.ModelProto, weights: Weights) -> Weights:
    """Recurrent weights as this file has them: assembled already, or still as the framework keeps them."""
    every = recurrent_forms(weights)
    assembled = {"cell.W", "cell.R", "cell.B"} & set(every)
    if not assembled or any(tensor.name == "cell.weight_ih_l0" for tensor in proto.graph.initializer):
        return weights
    return {key: value for key, value in every.items() if not key.startswith("cell.") or key in assembled}
