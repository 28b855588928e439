"""Keras by tf2onnx, which folds batch normalisation into the convolution before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from exporters.fixtures import BATCHES, CLASSES, Weights, draw, specification, store, write_reference
from keras import layers

OPSETS = (15, 18)


def dense() -> Any:
    return [layers.Dense(16, activation="relu"), layers.Dense(CLASSES, activation="softmax")]


def convolution() -> Any:
    return [
        *(layers.Conv2D(4, 3, padding="same", activation="relu"), layers.MaxPooling2D(2)),
        *(layers.Conv2D(6, 3, strides=2, padding="same", activation="elu"), layers.GlobalAveragePooling2D()),
        *(layers.Dropout(0.3), layers.Dense(CLASSES)),
    ]


def normalised(fused: bool) -> Any:
    between = [] if fused else [layers.BatchNormalization()]
    return [
        *(layers.Conv2D(4, 3, padding="same", use_bias=fused), *between, layers.ReLU()),
        *(layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(CLASSES)),
    ]


def separable() -> Any:
    return [
        *(layers.SeparableConv2D(4, 3, padding="same"), layers.Activation("swish")),
        *(layers.DepthwiseConv2D(3, strides=2, padding="same"), layers.ReLU(6.0)),
        *(layers.GlobalMaxPooling2D(), layers.Dense(CLASSES)),
    ]


def recurrent() -> Any:
    return [layers.LSTM(6), layers.Dense(CLASSES)]


def upwards() -> Any:
    return [
        *(layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="elu"), layers.UpSampling2D()),
        *(layers.ZeroPadding2D(1), layers.LeakyReLU(0.1), layers.Conv2D(2, 3)),
    ]


def attention(x: Any) -> Any:
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return layers.Dense(CLASSES)(layers.Flatten()(x))


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "keras-dense": (dense, specification((12,))),
    "keras-conv": (convolution, specification((16, 16, 2))),
    "keras-norm": (lambda: normalised(fused=True), specification((8, 8, 2))),
    "keras-separable": (separable, specification((16, 16, 2))),
    "keras-lstm": (recurrent, specification((7, 4))),
    "keras-attention": (lambda: attention, specification((6, 8))),
    "keras-up": (upwards, specification((6, 6, 2), loss="mse", output=[24, 24, 2])),
}


def run() -> None:
    for name, (build, spec) in MODELS.items():
        keras.config.set_floatx("float32")
        model = made(build, spec)
        keras.config.set_floatx("float64")
        exact = made(build, spec)
        for target, source in zip(exact.weights, model.weights, strict=True):
            target.assign(source.numpy().astype(np.float64))
        results = {}
        for batch in BATCHES:
            x, y = draw(spec, batch)
            results |= {f"plain/{batch}/{key}": value for key, value in gradients(exact, x, y, spec).items()}
        write_reference(name, results)
        exported = model
        if name == "keras-norm":
            keras.config.set_floatx("float32")
            exported = unfused(model, spec)
        weights = as_onnx({w.path: w.numpy() for w in model.trainable_weights}, is_slope=False)
        for opset in OPSETS:
            signature = [tf.TensorSpec((None, *spec["input"]), tf.float32, name="x")]
            function = tf.function(lambda x, m=exported: m(x, training=False), input_signature=signature)
            proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=opset)
            store(name, f"tf2onnx-{opset}", proto, spec, {"plain": weights})


def made(build: Callable[[], Any], spec: dict[str, Any]) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    inputs = keras.Input(tuple(spec["input"]))
    parts = build()
    if callable(parts):
        model = keras.Model(inputs, parts(inputs))
    else:
        model = keras.Sequential([inputs, *parts])
    rng = np.random.RandomState(4)
    for weight in model.weights:
        if "seed" not in weight.path:
            scale = 0.2 if len(weight.shape) < 2 else 0.5 / np.sqrt(max(1, int(np.prod(weight.shape[:-1]))) / 4)
            shift = 1.0 if weight.path.endswith("gamma") else 0.0
            weight.assign(rng.standard_normal(weight.shape) * scale + shift)
    return model


def unfused(model: Any, spec: dict[str, Any]) -> Any:
    """A model with batch normalisation that computes what `model`, a convolution with bias, computes."""
    keras.utils.clear_session()
    result = keras.Sequential([keras.Input(tuple(spec["input"])), *normalised(fused=False)])
    kernel, bias, *others = (weight.numpy() for weight in model.weights)
    gamma, mean, variance = (
        np.array([0.5, 2.0, -1.0, 1.5]),
        np.array([0.1, -0.2, 0.3, 0.0]),
        np.array([0.5, 1.0, 2.0, 1.5]),
    )
    scale = gamma / np.sqrt(variance + 1e-3)
    values = [kernel / scale, gamma, bias + mean * scale, mean, variance, *others]
    for weight, value in zip(result.weights, values, strict=True):
        weight.assign(value)
    return result


def gradients(model: Any, x: np.ndarray, y: np.ndarray, spec: dict[str, Any]) -> dict[str, np.ndarray]:
    weights = model.trainable_weights
    with tf.GradientTape() as tape:
        outputs = model(tf.constant(x, tf.float64), training=False)
        if spec["loss"] == "mse":
            loss = tf.reduce_mean((outputs - tf.constant(y, tf.float64)) ** 2)
        else:
            logits = (
                tf.math.log(outputs) if "softmax" in model.layers[-1].get_config().get("activation", "") else outputs
            )
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    slopes = tape.gradient(loss, [weight.value for weight in weights])
    arrays = {weight.path: tf.convert_to_tensor(slope).numpy() for weight, slope in zip(weights, slopes, strict=True)}
    named = as_onnx(arrays, is_slope=True)
    return {"loss": loss.numpy(), **{f"gradient/{key}": value for key, value in named.items()}}


def as_onnx(weights: Weights, is_slope: bool) -> Weights:
    """The weights of an LSTM as ONNX has them: gates in another order, a second bias of zeros."""
    made_: Weights = {}
    for path, array in weights.items():
        short = path.split("/", 1)[1] if "/" in path else path
        if "lstm" not in path:
            made_[short] = array
            continue
        i, f, c, o = np.split(array, 4, axis=-1)
        joined = np.concatenate([i, o, f, c], axis=-1)
        second = joined if is_slope else np.zeros_like(joined)
        made_[short] = (np.concatenate([joined, second]) if array.ndim == 1 else joined.T)[None]
    return made_
