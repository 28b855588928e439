"""Small models as real exporters write them, with gradients in float64 by their own framework: tests/trainer/exported/.

Run by hand, once for each framework, in an environment that has it, and commit what comes out:

    python -m venv A && A/bin/pip install torch==2.13.0 onnx onnxscript scikit-learn skl2onnx
    python -m venv B && B/bin/pip install tensorflow-cpu==2.21.0 tf2onnx
    A/bin/python tools/export_models.py torch
    A/bin/python tools/export_models.py sklearn
    B/bin/python tools/export_models.py keras

For each model M a file M.npz holds, for each batch size, loss and gradients under KIND/BATCH/loss and
KIND/BATCH/gradient/WEIGHT, and from PyTorch the losses of 20 steps of gradient descent under KIND/losses. KIND is
`plain`; with batch normalisation `train` (statistics of the batch), `eval` (running statistics) and `fused` (the layer
folded into the convolution before it, as exporters do). M.EXPORTER.onnx is what an exporter wrote; index.json says
which of its initializers is which weight, by comparing values: exporters rename, transpose and reorder them. Inputs are
drawn anew by exporters/fixtures.py, with the generator that numpy promises not to change.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    importlib.import_module(f"exporters.from_{sys.argv[1]}").run()
