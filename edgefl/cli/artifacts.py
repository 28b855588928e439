"""artifacts build | check | show: training artifacts from an ONNX model, and what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors
from edgefl.trainer.manifest import LOSSES, OPTIMIZERS

if TYPE_CHECKING:
    from edgefl.trainer.manifest import Manifest, Tensor

TIMED_STEPS = 20
"""Enough that the median means something, few enough for a slow device."""


@click.group()
def artifacts() -> None:
    """Make an ONNX model trainable on stock ONNX Runtime."""


@artifacts.command()
@click.argument("model", type=click.Path())
@click.option("--loss", type=click.Choice(LOSSES), required=True, help="What training makes small.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", help="How a step is taken.")
@click.option("--trainable", metavar="GLOB", multiple=True, help="Train only the weights of these names.")
@click.option("--frozen", metavar="GLOB", multiple=True, help="Do not train the weights of these names.")
@click.option("-o", "--out", metavar="DIR", required=True, help="Directory to write the artifacts into.")
@json_option
@report_errors
def build(
    model: str,
    loss: str,
    optimizer: str,
    trainable: tuple[str, ...],
    frozen: tuple[str, ...],
    out: str,
    as_json: bool,
) -> None:
    """Make MODEL, an ONNX inference model, trainable. Needs the build extra: pip install 'edgefl[build]'."""
    from edgefl.trainer import build as build_artifacts

    manifest = build_artifacts(
        model, loss=loss, optimizer=optimizer, out=out, trainable=trainable or None, frozen=frozen
    )
    if as_json:
        emit_json(_document(out, manifest))
        return
    if manifest.stripped:
        note(f"the model ends in {manifest.stripped}: {loss} is taken before it, the exported model keeps it")
    emit_pairs(_summary(out, manifest))


@artifacts.command()
@click.argument("directory", type=click.Path())
@json_option
@report_errors
def show(directory: str, as_json: bool) -> None:
    """What the artifacts in DIRECTORY train, and how."""
    from pathlib import Path

    from edgefl.trainer import read_manifest

    manifest = read_manifest(Path(directory))
    if as_json:
        emit_json(_document(directory, manifest))
        return
    emit_pairs(_summary(directory, manifest))
    click.echo()
    emit_table([(p.name, _shape(p.shape), p.size) for p in manifest.parameters], ("parameter", "shape", "size"))
    click.echo()
    emit_table([(name, f.size_bytes, f.blake2b) for name, f in manifest.files.items()], ("file", "bytes", "blake2b"))


@artifacts.command()
@click.argument("directory", type=click.Path())
@click.option("--samples", type=click.IntRange(1, 4096), default=16, help="Size of the random batch.")
@click.option("--seed", type=int, default=0, help="Seed of the random batch.")
@json_option
@report_errors
def check(directory: str, samples: int, seed: int, as_json: bool) -> None:
    """Compare the gradients of the artifacts in DIRECTORY with finite differences, and time a step on this device."""
    from math import isfinite

    from edgefl.errors import ModelError
    from edgefl.trainer import Session
    from edgefl.trainer.gradient_check import TOLERANCE, check_gradients, synthetic_batch

    session = Session(directory)
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
    options = ", ".join(f"{name} {value:g}" for name, value in m.optimizer.options.items())
    return [
        ("artifacts", directory),
        ("inputs", ", ".join(map(_tensor, m.inputs))),
        ("target", _tensor(m.target)),
        ("outputs", ", ".join(map(_tensor, m.outputs))),
        ("loss", m.loss + (f" (before the final {m.stripped})" if m.stripped else "")),
        ("optimizer", m.optimizer.name + (f" ({options})" if options else "")),
        ("parameters", f"{m.vector_size} in {len(m.parameters)} tensors"),
        ("opset", m.opset),
        ("operators", ", ".join(m.operators)),
    ]


def _document(directory: str, m: Manifest) -> dict[str, Any]:
    from dataclasses import asdict

    return {"directory": directory, **asdict(m), "vector_size": m.vector_size}


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.dtype}{_shape(tensor.shape)}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("batch" if n is None else str(n) for n in shape) + "]"
