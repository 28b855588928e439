"""Data sources: what is read, what is refused, and how the refusal helps."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.building import build

from edgefl.datasets import models
from edgefl.errors import DataError
from edgefl.trainer import Dataset, Manifest, check_fit, open_source
from edgefl.trainer.files.manifest import Loss, Tensor

X, Y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 1])


def npz(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def test_an_npz_with_x_and_y(tmp_path: Path) -> None:
    for x in (X, np.asfortranarray(X), X.astype(np.uint8), X.astype(">f4")):
        data = open_source(npz(tmp_path / "d.npz", x=x, y=Y, more=np.zeros(3)))
        assert np.array_equal(data.x, X)
        assert np.array_equal(data.y, Y)
        assert len(data) == 4


def test_a_csv_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("\ufeffa, label ,b\n1,0,2.5\n\n-1e-3,2,4\n", encoding="utf-8")
    data = open_source(str(path))
    assert data.x.tolist() == [[1.0, 2.5], [pytest.approx(-1e-3), 4.0]]
    assert data.y.tolist() == [0, 2]
    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int64)
    path.write_text("a,b\n1,0.5\n2,1.5\n")
    assert open_source(str(path)).y.tolist() == [0.5, 1.5]  # the last column, and no labels but numbers


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "line 1: a header"),
        ("y\n1\n", "line 1: a header"),
        ("a,y\n", "no rows"),
        ("a,y\n1,2\n1\n", "line 3: 1 values, the header has 2"),
        ("a,y\n1,2\n1,cat\n", "line 3: could not convert string to float: 'cat'"),
        ('a,y\n1,2\n"1,2\n', "not a readable .csv"),
    ],
)
def test_a_bad_csv_names_its_line(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        open_source(str(path))
    assert str(path) in caught.value.cause
    assert caught.value.hint


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"a,y\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"utf-8"):
        open_source(str(tmp_path / "d.csv"))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": X}, "no array 'y'"),
        ({"images": X, "labels": Y}, "no array 'x'"),
        ({"x": X, "y": Y[:3]}, "same number of samples"),
        ({"x": X[:0], "y": Y[:0]}, "at least 1"),
        ({"x": np.float32(1), "y": np.float32(1)}, "same number of samples"),
        ({"x": np.array(["a", "b"]), "y": np.zeros(2)}, "'x' is of type <U1"),
        ({"x": X.astype(complex), "y": Y}, "'x' is of type complex128"),
        ({"x": np.array([{}, {}]), "y": np.zeros(2)}, "'x' is of type object"),
    ],
)
def test_a_bad_npz_names_its_array(arrays: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=what) as caught:
        open_source(npz(tmp_path / "d.npz", **arrays))
    assert "d.npz" in caught.value.cause


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("a pickle was loaded",))

    np.savez(tmp_path / "d.npz", x=np.array([Bomb(), Bomb()], dtype=object), y=np.zeros(2))
    with pytest.raises(DataError, match="object"):
        open_source(str(tmp_path / "d.npz"))


def test_a_header_that_promises_more_than_the_file_holds_reserves_no_memory(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 64)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", member.getvalue())
        archive.writestr("y.npy", member.getvalue())
    with pytest.raises(DataError, match="needs more bytes"):
        open_source(str(tmp_path / "d.npz"))


def test_sources_over_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = npz(
        tmp_path / "zeros.npz", x=np.zeros((1000, 64), np.float32), y=np.zeros(1000)
    )  # small file, large content
    (tmp_path / "d.csv").write_text("a,y\n" + "1,2\n" * 500)
    monkeypatch.setattr("edgefl.trainer.running.data.MAX_SOURCE_BYTES", 5000)
    assert Path(flat).stat().st_size < 5000
    for source in (flat, str(tmp_path / "d.csv")):
        with pytest.raises(DataError, match="over the limit"):
            open_source(source)


@pytest.mark.parametrize("text", ["data.parquet", "", "/nowhere/d.npz", "/nowhere/d.csv"])
def test_what_cannot_be_read_names_what_can(text: str) -> None:
    with pytest.raises(DataError) as caught:
        open_source(text)
    assert ".npz" in caught.value.hint


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_raises_nothing_but_a_data_error(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / data.draw(st.sampled_from(["d.npz", "d.csv"]))
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        data.draw(st.sampled_from([np.savez, np.savez_compressed]))(buffer, x=X, y=Y)
    else:
        buffer.write(b"a,b,y\n" + b"1.5,2,3\n" * 5)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with suppress(DataError):
        open_source(str(path))


# Splitting


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_keeps_every_sample_in_exactly_one_part(samples: int, share: float, seed: int) -> None:
    data = Dataset(np.arange(samples)[:, None], np.arange(samples))
    train, held = data.split(share, seed)
    assert sorted([*train.y, *held.y]) == list(range(samples))
    assert len(train) >= 1
    assert abs(len(held) - share * samples) <= 1
    again = data.split(share, seed)
    assert np.array_equal(again[0].y, train.y)
    assert np.array_equal(train.x[:, 0], train.y)


def test_another_seed_splits_differently() -> None:
    data = Dataset(np.zeros((100, 1)), np.arange(100))
    assert not np.array_equal(data.split(0.2, 1)[1].y, data.split(0.2, 2)[1].y)


@pytest.mark.parametrize(("samples", "share"), [(1, 0.5), (10, 0.0), (10, 1.0), (10, -1.0), (10, float("nan"))])
def test_a_split_that_cannot_be_is_refused(samples: int, share: float) -> None:
    with pytest.raises(DataError):
        Dataset(np.zeros((samples, 1)), np.zeros(samples)).split(share, 0)


# Fitting


@pytest.fixture(scope="module")
def digits_manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build(models.mlp(), loss="cross-entropy", out=tmp_path_factory.mktemp("fit"))


def data(x: Any = None, y: Any = None) -> Dataset:
    x = np.zeros((4, 64), np.float32) if x is None else x
    return Dataset(np.asarray(x), np.asarray(Y if y is None else y), "cells.csv")


def test_pixels_become_floats_of_the_same_value_and_labels_integers(digits_manifest: Manifest) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 64)
    for x in (pixels, pixels.astype(np.float64), pixels.astype(np.int32), pixels.reshape(4, 1, 64)):
        for y in (Y, Y.astype(np.uint8), Y.astype(np.float32), Y[:, None]):
            fitted = check_fit(data(x, y), digits_manifest)
            assert (fitted.x.dtype, fitted.x.shape) == (np.float32, (4, 64))
            assert (fitted.y.dtype, fitted.y.shape) == (np.int64, (4,))
            assert np.array_equal(fitted.x, pixels)
            assert np.array_equal(fitted.y, Y)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (data(x=np.zeros((4, 63))), r"x has samples of shape \[63\], the model takes \[64\]"),
        (data(x=np.zeros((4, 8, 8))), r"shape \[8, 8\]"),
        (data(x=np.full((4, 64), np.nan)), "x of sample 0 is infinite or NaN"),
        (data(x=np.full((4, 64), 1e300)), "infinite or NaN"),
        (data(x=np.zeros((4, 64), complex)), "x is complex128"),
        (data(x=np.full((4, 64), "a")), "x is <U1"),
        (data(y=[0, 1, 2, 10]), "labels from 0 to 10"),
        (data(y=[0, 1, 2, -1]), "labels from -1 to 2"),
        (data(y=[0, 1, 2, 0.5]), "y is float64"),
        (data(y=np.zeros((4, 10))), r"y has samples of shape \[10\]"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_source_and_the_next_step(
    bad: Dataset, what: str, digits_manifest: Manifest
) -> None:
    with pytest.raises(DataError, match=what) as caught:
        check_fit(bad, digits_manifest)
    assert caught.value.cause.startswith("cells.csv: ")
    assert caught.value.hint


def test_images_may_lack_the_channel_axis_and_targets_of_mse_are_floats(digits_manifest: Manifest) -> None:
    manifest = dataclasses.replace(
        digits_manifest,
        inputs=(Tensor("x", "float32", (None, 1, 8, 8)),),
        target=Tensor("target", "float32", (None, 1)),
        loss=Loss("mse", {}, 0),
    )
    fitted = check_fit(data(np.zeros((4, 8, 8)), [1, 2, 3, 4]), manifest)
    assert fitted.x.shape == (4, 1, 8, 8)
    assert fitted.y.tolist() == [[1.0], [2.0], [3.0], [4.0]]


def test_a_model_with_two_inputs_has_no_data_source(digits_manifest: Manifest) -> None:
    two = dataclasses.replace(digits_manifest, inputs=(*digits_manifest.inputs, Tensor("z", "float32", (None, 1))))
    with pytest.raises(DataError, match=r"several inputs \(x, z\)"):
        check_fit(data(), two)
