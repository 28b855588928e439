"""Builders for small ONNX models. Each is a fixture that returns a function, so that a test says what it builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.building import build

from edgefl import trainer


def _onnx_model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    *,
    x: Sequence[int | str] = ("batch", 4),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", dtype, list(x))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@pytest.fixture(scope="session")
def onnx_model() -> Callable[..., onnx.ModelProto]:
    """onnx_model(nodes, weights, x=("batch", 4), outputs=("y",), opset=17): a model with the one input x."""
    return _onnx_model


@pytest.fixture(scope="session")
def linear() -> Callable[..., onnx.ModelProto]:
    """linear(final=None): y = x w + b, [batch, 4] → [batch, 3], with a final operator on request."""

    def make(final: str | None = None, opset: int = 17, **attributes: Any) -> onnx.ModelProto:
        rng = np.random.default_rng(5)
        weights = {"w": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z" if final else "y"], "dense")]
        if final:
            nodes.append(helper.make_node(final, ["z"], ["y"], "final", **attributes))
        return _onnx_model(nodes, weights, opset=opset)

    return make


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., trainer.Session]:
    """session(model, loss="mse", …): build the artifacts and open them, one thread."""

    def open_(model: Any, loss: str = "mse", **options: Any) -> trainer.Session:
        out = tmp_path / "artifacts"
        build(model, loss=loss, out=out, **options)
        return trainer.Session(out, threads=1)

    return open_
