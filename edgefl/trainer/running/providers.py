"""What a session can run on, by the names that people use. (No import: the command line needs the names alone.)"""

from __future__ import annotations

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}
"""What ONNX Runtime calls them; what the first cannot run, the next does. cuda is there where the device's onnxruntime
has it (on a Jetson, its vendor's)."""
