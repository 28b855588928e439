"""Artifacts made from a model: what the loss adds, and the way back through both.

apart.py            build(), which people call: the work is done in a process of its own
artifacts.py        the work: from the model to the files
simplify.py         forms of the model that cost less
low_rank.py         which adapters are wanted
lora.py             low-rank adapters put beside large weights
training_form.py    what the model does only while it learns
divisible.py        whether the samples of a batch keep to themselves
phases.py           a first convolution and the pool behind it, place by place
dropout.py          masks from a seed that is fed per step
losses.py           cross-entropy, bce, mse, mae, huber
own_loss.py         a user's loss, given as a second ONNX model
optimizers.py       sgd, momentum, adam, adamw as graphs over one flat vector
"""
