"""Training with artifacts, on onnxruntime and numpy alone.

session.py           Session: step, evaluate, vector, export
runtime.py           ONNX Runtime's own sessions, as a device wants them
providers.py         what they may run on
beside.py            parts of a batch on threads of their own
batch.py             a batch of the user's, checked and brought into shape
metrics.py           what is counted beside the loss
correction.py        FedProx and SCAFFOLD, as inputs of the step
schedule.py          learning rates over steps
data.py              data sources and whether they fit the model
local.py             a device's share of a round: local epochs, local evaluation
cancelled.py         the error of work that was called off
trial.py             a first step with a stranger's artifacts, in a process of its own
gradient_check.py    the artifacts' gradients against finite differences
ort_training.py      artifacts of ONNX Runtime's own training package
"""
