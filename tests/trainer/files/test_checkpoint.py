"""The safetensors layout: what is written is read back; nothing else is read at all."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgefl.errors import ModelError
from edgefl.trainer.files import checkpoint

tensors = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.one_of(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
        hnp.arrays(np.int64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    ),
    max_size=4,
).filter(lambda d: "__metadata__" not in d)


@given(tensors)
def test_round_trip(original: dict[str, Any]) -> None:
    read = checkpoint.parse(checkpoint.serialise(original))
    assert list(read) == list(original)
    for name, tensor in original.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert read[name].tobytes() == tensor.tobytes()


def test_the_layout_is_that_of_safetensors() -> None:
    content = checkpoint.serialise({"a": np.array([1.0, 2.0], np.float32)})
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert content[8 + length :] == np.array([1.0, 2.0], "<f4").tobytes()


def test_metadata_of_other_writers_is_ignored() -> None:
    assert checkpoint.parse(file({"__metadata__": {"format": "pt"}, **entry("a", [1], 0, 4)}, b"\0" * 4))["a"] == [0.0]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_a_model_error(content: bytes) -> None:
    expect_refusal_or_tensors(content)


@given(st.data())
def test_a_damaged_file_raises_nothing_but_a_model_error(data: st.DataObject) -> None:
    content = bytearray(checkpoint.serialise({"a": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.int64)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    expect_refusal_or_tensors(bytes(content[: data.draw(st.integers(0, len(content)))]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.text(max_size=3),
        json_values
        | st.fixed_dictionaries(
            {"dtype": json_values | st.just("F32"), "shape": json_values, "data_offsets": json_values}
        ),
        max_size=3,
    )
)
def test_any_json_header_raises_nothing_but_a_model_error(header: dict[str, Any]) -> None:
    expect_refusal_or_tensors(file(header, b"\0" * 16))


def expect_refusal_or_tensors(content: bytes) -> None:
    with suppress(ModelError):
        assert isinstance(checkpoint.parse(content), dict)


def file(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(name: str, shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "does not fit"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "does not fit"),
        ((9 << 20).to_bytes(8, "little") + b" " * (9 << 20), "does not fit"),
        (file([], b""), "not a JSON object"),
        (b"\x04\0\0\0\0\0\0\0nope", "not JSON"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "not JSON"),
        (file(entry("a", [2], 0, 4), b"\0" * 4), "does not cover"),
        (file(entry("a", [1], 0, 4), b""), "does not cover"),
        (file(entry("a", [1], 4, 8), b"\0" * 8), "gap"),
        (file(entry("a", [1], 0, 4), b"\0" * 8), "gap"),
        (file({**entry("a", [1], 0, 4), **entry("b", [1], 0, 4)}, b"\0" * 4), "overlap"),
        (file(entry("a", [-1], 0, 4), b"\0" * 4), "no valid"),
        (file(entry("a", [1 << 60, 1 << 60], 0, 4), b"\0" * 4), "no valid"),
        (file(entry("a", [1.0], 0, 4), b"\0" * 4), "no valid"),
        (file(entry("a", [True], 0, 4), b"\0" * 4), "no valid"),
        (file(entry("a", [1] * 9, 0, 4), b"\0" * 4), "no valid"),
        (file(entry("a", [1], 0, 4, "F16"), b"\0" * 4), "no valid"),
        (file({"a": 7}, b""), "no valid"),
        (b'\x15\0\0\0\0\0\0\0{"a": 1 ,"a":      2}', "twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(content: bytes, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        checkpoint.parse(content)


def test_writing_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for value in (1.0, 2.0):
        checkpoint.write(path, {"a": np.array([value], np.float32)})
    assert checkpoint.parse(path.read_bytes())["a"] == [2.0]
    assert list(tmp_path.iterdir()) == [path]
