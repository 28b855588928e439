"""The models that the trainer is measured with, in PyTorch: what people train on small devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """A model and the shape of one sample; integer inputs are token numbers below `tokens`."""

    make: Any
    shape: tuple[int, ...]
    tokens: int = 0


def mlp() -> nn.Module:
    """784-256-128-10."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
    )  # fmt: skip


def cnn32() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet8() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def _separable(before: int, after: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False), nn.BatchNorm2d(before), nn.ReLU6(),
        nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU6(),
    ]  # fmt: skip


def mobilenet() -> nn.Module:
    """Depthwise separable convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
        *_separable(16, 32, 1), *_separable(32, 64, 2), *_separable(64, 64, 1), *_separable(64, 128, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES),
    )  # fmt: skip


class TinyTransformer(nn.Module):
    """Two encoder layers written out: embedding, attention with 4 heads, layer norm, gelu; mean over 64 places."""

    def __init__(self, tokens: int = 256, places: int = 64, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(torch.randn(1, places, width) * 0.02)
        self.layers = nn.ModuleList([EncoderLayer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h).mean(1))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, places, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (t.reshape(batch, places, self.heads, size).transpose(1, 2) for t in (q, k, v))
        weights = torch.softmax(q @ k.transpose(2, 3) * size**-0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, places, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


SUBJECTS = {
    "mlp": Subject(mlp, (784,)),
    "lenet": Subject(lenet, (1, 28, 28)),
    "cnn32": Subject(cnn32, (3, 32, 32)),
    "resnet8": Subject(resnet8, (3, 32, 32)),
    "mobilenet": Subject(mobilenet, (3, 32, 32)),
    "tinytf": Subject(TinyTransformer, (64,), tokens=256),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return SUBJECTS[name].make()


def example(name: str, batch: int) -> torch.Tensor:
    subject = SUBJECTS[name]
    generator = torch.Generator().manual_seed(1)
    if subject.tokens:
        return torch.randint(0, subject.tokens, (batch, *subject.shape), generator=generator)
    return torch.randn(batch, *subject.shape, generator=generator)


def export(name: str, path: str) -> None:
    """As a user would, with the batch open. (The TorchScript exporter: it keeps batch norm apart.)"""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            make(name).eval(), (example(name, 2),), path, input_names=["x"], output_names=["logits"],
            dynamic_axes={"x": {0: "batch"}}, opset_version=17, dynamo=False, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip


def main() -> None:
    """models.py DIRECTORY NAME…: export models, and a batch of each, for those who have no PyTorch."""
    import sys
    from pathlib import Path

    import numpy as np

    directory, *names = sys.argv[1:]
    for name in names:
        place = Path(directory) / name
        place.mkdir(parents=True, exist_ok=True)
        export(name, str(place / "model.onnx"))
        np.savez(place / "batch.npz", x=example(name, 128).numpy())


if __name__ == "__main__":
    main()
