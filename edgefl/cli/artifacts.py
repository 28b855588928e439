"""artifacts build | check | show: training artifacts from an ONNX model, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors
from edgefl.trainer.files.manifest import LOSSES, OPTIMIZERS
from edgefl.trainer.running.providers import PROVIDERS

if TYPE_CHECKING:
    from edgefl.trainer.files.manifest import Manifest, Tensor

TIMED_STEPS = 20
"""Enough that the median means something, few enough for a slow device."""


@click.group()
def artifacts() -> None:
    """Make an ONNX model trainable on stock ONNX Runtime."""


@artifacts.command()
@click.argument("model", type=click.Path())
@click.option("--loss", type=click.Choice(LOSSES), help="What training makes small.")
@click.option("--loss-model", type=click.Path(), help="A loss of your own: an ONNX model of (prediction, target).")
@click.option("--loss-option", metavar="NAME=VALUE", multiple=True, help="label_smoothing=0.1, class_weights=1,2,5 …")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", help="How a step is taken.")
@click.option("--optimizer-option", metavar="NAME=VALUE", multiple=True, help="momentum=0.9, clip_norm=1 …")
@click.option("--trainable", metavar="GLOB", multiple=True, help="Train only the weights of these names.")
@click.option("--frozen", metavar="GLOB", multiple=True, help="Do not train the weights of these names.")
@click.option("--lora", metavar="RANK", type=int, help="Train adapters of this rank beside the large weights instead.")
@click.option("--lora-target", metavar="GLOB", multiple=True, help="Adapters for the weights of these names alone.")
@click.option("--lora-alpha", metavar="X", type=float, help="Strength of the adapters; the rank if not given.")
@click.option("--portable", is_flag=True, help="Standard ai.onnx operators alone, without ONNX Runtime's own.")
@click.option("-o", "--out", metavar="DIR", required=True, help="Directory to write the artifacts into.")
@json_option
@report_errors
def build(
    model: str,
    loss: str | None,
    loss_model: str | None,
    loss_option: tuple[str, ...],
    optimizer: str,
    optimizer_option: tuple[str, ...],
    trainable: tuple[str, ...],
    frozen: tuple[str, ...],
    lora: int | None,
    lora_target: tuple[str, ...],
    lora_alpha: float | None,
    portable: bool,
    out: str,
    as_json: bool,
) -> None:
    """Make MODEL, an ONNX inference model, trainable. Needs the build extra: pip install 'edgefl[build]'."""
    from edgefl.trainer import LowRank
    from edgefl.trainer import build as build_artifacts

    if (loss is None) == (loss_model is None):
        raise click.UsageError("give either --loss or --loss-model")
    if lora is None and (lora_target or lora_alpha is not None):
        raise click.UsageError("--lora-target and --lora-alpha need --lora RANK")
    manifest = build_artifacts(
        model,
        loss=loss or Path(str(loss_model)),
        loss_options=_given(loss_option),
        optimizer=optimizer,
        optimizer_options=_given(optimizer_option),
        out=out,
        trainable=trainable or None,
        frozen=frozen,
        lora=None if lora is None else LowRank(lora, lora_target or None, lora_alpha),
        portable=portable,
    )
    if as_json:
        emit_json(_document(out, manifest))
        return
    if manifest.stripped:
        note(f"the model ends in {manifest.stripped}: the loss is taken before it, the exported model keeps it")
    emit_pairs(_summary(out, manifest))


@artifacts.command()
@click.argument("directory", type=click.Path())
@json_option
@report_errors
def show(directory: str, as_json: bool) -> None:
    """What the artifacts in DIRECTORY train, and how."""
    from edgefl.trainer import read_manifest

    manifest = read_manifest(Path(directory))
    if as_json:
        emit_json(_document(directory, manifest))
        return
    emit_pairs(_summary(directory, manifest))
    click.echo()
    rows = [(p.name, _shape(p.shape), p.size, "") for p in manifest.parameters]
    rows += [(p.name, _shape(p.shape), p.size, "running statistic") for p in manifest.buffers]
    emit_table(rows, ("tensor", "shape", "size", ""))
    click.echo()
    emit_table([(name, f.size_bytes, f.blake2b) for name, f in manifest.files.items()], ("file", "bytes", "blake2b"))


@artifacts.command()
@click.argument("directory", type=click.Path())
@click.option("--samples", type=click.IntRange(1, 4096), default=16, help="Size of the random batch.")
@click.option("--seed", type=int, default=0, help="Seed of the random batch.")
@click.option("--provider", type=click.Choice([*PROVIDERS]), default="cpu", help="What ONNX Runtime trains on.")
@json_option
@report_errors
def check(directory: str, samples: int, seed: int, provider: str, as_json: bool) -> None:
    """Compare the gradients of the artifacts in DIRECTORY with finite differences, and time a step on this device."""
    from math import isfinite

    from edgefl.errors import ModelError
    from edgefl.trainer import Session
    from edgefl.trainer.running.gradient_check import TOLERANCE, check_gradients, synthetic_batch
    from edgefl.trainer.running.trial import require_trial

    require_trial(Path(directory), provider=provider)
    session = Session(directory, provider=provider)
    batch = synthetic_batch(session.manifest, samples, seed)
    loss = session.evaluate(batch)["loss"]
    if not isfinite(loss):
        raise ModelError("the loss of random data is infinite or NaN", hint="check the weights of the model")
    errors = check_gradients(session, batch, seed)
    step_s = _time_steps(session, batch)
    ok = all(error.ok for error in errors)
    if as_json:
        emit_json(
            {
                "directory": directory,
                "ok": ok,
                "samples": samples,
                "loss": loss,
                "tolerance": TOLERANCE,
                "gradients": [{"parameter": e.parameter, "relative_error": e.relative, "ok": e.ok} for e in errors],
                "step_seconds": step_s,
            }
        )
    else:
        rows = [(e.parameter, f"{e.relative:.1e}", "ok" if e.ok else "WRONG") for e in errors]
        emit_table(rows, ("parameter", "relative error", "gradient"))
        click.echo()
        emit_pairs([("loss", f"{loss:.4f}"), ("step", f"{1e3 * step_s:.2f} ms for {samples} samples")])
    if not ok:
        raise SystemExit(1)


def _given(options: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE texts: whole numbers, numbers, or lists with commas."""
    values: dict[str, Any] = {}
    for text in options:
        name, sign, value = text.partition("=")
        try:
            numbers = [int(part) if part.lstrip("+-").isdecimal() else float(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if not sign or not name or not numbers:
            raise click.UsageError(f"{text!r} is not NAME=VALUE with a number or numbers")
        values[name] = numbers if "," in value else numbers[0]
    return values


def _time_steps(session: Any, batch: Any) -> float:
    """Median seconds of a step; at learning rate 0, so that timing changes no weight."""
    from statistics import median
    from time import perf_counter

    seconds = []
    for _ in range(TIMED_STEPS):
        start = perf_counter()
        session.step(batch, 0.0)
        seconds.append(perf_counter() - start)
    return median(seconds)


def _summary(directory: str, m: Manifest) -> list[tuple[str, object]]:
    return [
        ("artifacts", directory),
        ("inputs", ", ".join(map(_tensor, m.inputs))),
        ("target", _tensor(m.target)),
        ("outputs", ", ".join(map(_tensor, m.outputs))),
        ("loss", m.loss.name + _options(m.loss.options) + (f" (before the final {m.stripped})" if m.stripped else "")),
        ("optimizer", m.optimizer.name + _options(m.optimizer.options)),
        ("trained", f"{m.trained_size} numbers in {len(m.parameters)} tensors"),
        *([("statistics", f"{m.vector_size - m.trained_size} in {len(m.buffers)} tensors")] if m.buffers else []),
        *([("adapters", f"beside {len(m.adapters)} weights, which stay at home")] if m.adapters else []),
        ("travels", f"{4 * m.vector_size} bytes per model"),
        ("opset", m.opset),
        ("operators", ", ".join(m.operators)),
    ]


def _options(options: Mapping[str, Any]) -> str:
    """What differs from nothing: (momentum 0.9, weight_decay 0.01)."""
    shown = [f"{name} {value if isinstance(value, list) else f'{value:g}'}" for name, value in options.items() if value]
    return f" ({', '.join(shown)})" if shown else ""


def _document(directory: str, m: Manifest) -> dict[str, Any]:
    from dataclasses import asdict

    loss = {"loss": m.loss.name, "loss_options": dict(m.loss.options), "classes": m.loss.classes}
    return {"directory": directory, **asdict(m), **loss, "vector_size": m.vector_size}


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.dtype}{_shape(tensor.shape)}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("batch" if n is None else str(n) for n in shape) + "]"
