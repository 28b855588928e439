"""What a model computes as its exporter wrote it, and in the normal form that is trained; both by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime as ort

from edgefl.trainer.graph import Graph
from edgefl.trainer.reading.source_model import SourceModel, read_model


def as_written(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    """The model's first output."""
    return ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0]


def in_normal_form(model: onnx.ModelProto | SourceModel, feeds: dict[str, Any]) -> Any:
    """The same by the model's normal form, at our opset."""
    source = read_model(model) if isinstance(model, onnx.ModelProto) else model
    graph = Graph(nodes=list(source.nodes), constants=dict(source.initializers))
    proto = graph.model("normal_form", source.inputs, source.outputs)
    return as_written(proto, feeds)


def operators(source: SourceModel) -> list[str]:
    return [node.op_type for node in source.nodes]
