"""Opening a graph on ONNX Runtime: only after its contents were looked at, and only with the signature expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from edgefl.errors import ConfigError, ModelError
from edgefl.trainer.files.manifest import Shape, Tensor
from edgefl.trainer.files.vetting import require_harmless
from edgefl.trainer.running.providers import PROVIDERS

_TYPES = {
    "float32": "tensor(float)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
}


def open_graph(
    content: bytes,
    name: str,
    operators: tuple[str, ...],
    inputs: Sequence[Tensor],
    outputs: int,
    *,
    by_name: int,
    threads: int,
    provider: str,
) -> ort.InferenceSession:
    """A session on the bytes of a graph. The first `by_name` inputs must have the names given, all of them types and
    shapes. Raises ModelError, ConfigError for a provider that this onnxruntime does not have."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # spinning threads would starve the daemon's own thread on a small device
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A memory pattern would be a second block as large as what the first run took: 42 of 157 MB for a small ResNet
    # (measured; time per step is the same without).
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    require_harmless(content, operators, name)
    try:
        session = ort.InferenceSession(content, options, providers=providers(provider))
    except ConfigError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ModelError(
            f"ONNX Runtime {ort.__version__} cannot load {name}: {str(error).strip()[:300]}",
            hint="build the artifacts again, or update onnxruntime",
        ) from error
    found = [(arg.name, arg.type, _shape(arg.shape)) for arg in session.get_inputs()]
    expected = [(t.name, _TYPES[t.dtype], t.shape) for t in inputs]
    same = [f[1:] for f in found] == [e[1:] for e in expected] and found[:by_name] == expected[:by_name]
    if not same or len(session.get_outputs()) != outputs:
        raise ModelError(f"{name} does not have the signature that the manifest lists", hint="build it again")
    return session


def providers(name: str) -> list[str]:
    """ONNX Runtime's names for a provider. Raises ConfigError when it is unknown or not in this onnxruntime."""
    if name not in PROVIDERS:
        raise ConfigError(f"no provider {name!r}", hint=f"choose one of {', '.join(PROVIDERS)}")
    if PROVIDERS[name][0] not in ort.get_available_providers():
        raise ConfigError(
            f"this device's onnxruntime {ort.__version__} has no {PROVIDERS[name][0]}",
            hint="install the onnxruntime-gpu of your device's vendor, or use --provider cpu",
        )
    return list(PROVIDERS[name])


def _shape(shape: Sequence[Any]) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in shape)


def run_options() -> ort.RunOptions:
    """For runs that may be cancelled: `terminate` ends them.

    The graph id is the default said aloud: ONNX Runtime 1.32 asks for it before every run, and where there is none it
    catches an exception in Python, which takes as long as a small layer (27 µs)."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "0")
    return options
