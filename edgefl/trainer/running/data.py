"""Local data: read from files that may be broken, checked against the model before the first step.

Sources: `.npz` with the arrays x and y, `.csv` with a header. Everything is held in memory: a device that trains on
more than MAX_SOURCE_BYTES needs another kind of source.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgefl.errors import DataError
from edgefl.trainer.files.manifest import Manifest, Tensor

Array = npt.NDArray[Any]

MAX_SOURCE_BYTES = 1 << 30
"""Uncompressed size of one source; a 4 GB device holds this beside a model and its daemon."""

MAX_CSV_COLUMNS = 1 << 16
"""An image of 256 × 256 as one row."""

MAX_NPY_HEADER_BYTES = 10_000
"""numpy's own default."""

LABEL_COLUMNS = ("y", "label", "target")

KINDS = "edgefl reads .npz (arrays x and y) and .csv (with a header)"


@dataclass(frozen=True, slots=True)
class Dataset:
    """x [samples, …] and y [samples] or [samples, …]; `source` names it in errors."""

    x: Array
    y: Array
    source: str = "data"

    def __post_init__(self) -> None:
        if self.x.ndim < 1 or self.y.ndim < 1 or len(self.x) != len(self.y) or not len(self.x):
            raise DataError(
                f"{self.source}: x {self.x.shape} and y {self.y.shape} must have the same number of samples, at least 1"
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: npt.NDArray[np.intp]) -> Dataset:
        return replace(self, x=self.x[indices], y=self.y[indices])

    def split(self, held_back: float, seed: int) -> tuple[Dataset, Dataset]:
        """(train, held back): a random share held back for evaluation, both at least one sample, the same for the same
        seed. Raises DataError below two samples or for a share outside (0, 1)."""
        if not 0.0 < held_back < 1.0 or len(self) < 2:
            raise DataError(
                f"{self.source}: cannot hold back a share of {held_back} of {len(self)} samples",
                hint="give at least two samples and a share between 0 and 1",
            )
        order = np.random.default_rng(seed).permutation(len(self))
        count = min(max(round(held_back * len(self)), 1), len(self) - 1)
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))


def open_source(text: str) -> Dataset:
    """Read the data source that a user named. Raises DataError naming the file, the line or array, the next step."""
    path = Path(text)
    readers: dict[str, Callable[[Path], Dataset]] = {".npz": _read_npz, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{text}: unknown kind of data source", hint=KINDS)
    try:
        size = path.stat().st_size
        if size > MAX_SOURCE_BYTES:
            raise _too_large(text, size)
        return reader(path)
    except OSError as error:
        raise DataError(f"cannot read {text}: {error.strerror or error}", hint=KINDS) from error


def check_fit(dataset: Dataset, manifest: Manifest) -> Dataset:
    """The dataset in the model's own types and shapes. Raises DataError where it does not fit.

    Numbers keep their values: integer pixels and float64 become float32 without rescaling (scale them before if the
    model was made for 0..1), integer labels become int64. Axes of size 1 may be missing or extra; nothing else is
    reshaped, because guessing a layout would train on scrambled images.
    """
    if len(manifest.inputs) != 1:
        names = ", ".join(tensor.name for tensor in manifest.inputs)
        raise DataError(f"the model has several inputs ({names}); data sources give one", hint="use Session.step")
    x = _fit(dataset, "x", dataset.x, manifest.inputs[0])
    y = _fit(dataset, "y", dataset.y, manifest.target)
    classes = manifest.loss.classes
    counted = y[y != manifest.loss.options["ignore_index"]] if "ignore_index" in manifest.loss.options else y
    if classes and counted.size and not (counted.min() >= 0 and counted.max() < classes):
        raise DataError(
            f"{dataset.source}: labels from {counted.min()} to {counted.max()} do not fit a model of {classes} classes",
            hint=f"labels must count from 0 to {classes - 1}",
        )
    if manifest.loss.name == "bce" and not (y.min() >= 0 and y.max() <= 1):
        raise DataError(
            f"{dataset.source}: targets from {y.min():g} to {y.max():g} are no truths",
            hint="bce needs targets from 0 (false) to 1 (true)",
        )
    return Dataset(x, y, dataset.source)


def _fit(dataset: Dataset, name: str, array: Array, tensor: Tensor) -> Array:
    shape = tensor.shape[1:]
    if [n for n in array.shape[1:] if n != 1] != [n for n in shape if n != 1]:
        raise DataError(
            f"{dataset.source}: {name} has samples of shape {list(array.shape[1:])}, the model takes {list(shape)}",
            hint=f"reshape {name} to [samples, {', '.join(map(str, shape))}]"
            if shape
            else f"{name} is one number each",
        )
    if tensor.dtype == "int64" and array.dtype.kind == "f" and np.array_equal(array, np.round(array)):
        array = array.astype(np.int64)
    if array.dtype.kind not in "fiub" or not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
        raise DataError(
            f"{dataset.source}: {name} is {array.dtype}, the model takes {tensor.dtype}",
            hint=f"convert {name} to {tensor.dtype}",
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=tensor.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        sample = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise DataError(f"{dataset.source}: {name} of sample {sample} is infinite or NaN", hint="clean the data")
    return array.reshape(len(array), *(n or 1 for n in shape))


def _read_npz(path: Path) -> Dataset:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            arrays = []
            for name in ("x", "y"):
                if f"{name}.npy" not in members:
                    raise DataError(f"{path}: no array {name!r}", hint="save it with numpy.savez(file, x=…, y=…)")
                size = members[f"{name}.npy"].file_size
                if size > MAX_SOURCE_BYTES:
                    raise _too_large(f"{path}: array {name!r}", size)
                with archive.open(f"{name}.npy") as member:
                    arrays.append(_read_npy(f"{path}: array {name!r}", member, size))
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}", hint=KINDS) from error
    except Exception as error:  # zlib.error, lzma.LZMAError, struct.error: whatever a broken archive provokes
        raise DataError(f"{path} is a broken .npz file: {error}", hint=KINDS) from error
    return Dataset(arrays[0], arrays[1], str(path))


def _read_npy(where: str, file: IO[bytes], size: int) -> Array:
    """One array, its header believed only as far as the member's size goes."""
    hint = "save a plain numeric array (no objects, no text)"
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise DataError(f"{where}: unknown .npy version {version}", hint=hint)
    shape, fortran, dtype = read_header(file, max_header_size=MAX_NPY_HEADER_BYTES)
    if dtype.kind not in "fiub":
        raise DataError(f"{where} is of type {dtype}", hint=hint)
    expected = math.prod(shape) * dtype.itemsize
    if expected > size:
        raise DataError(f"{where}: shape {shape} needs more bytes than the file holds", hint="the file is damaged")
    content = file.read(expected)
    if len(content) != expected:
        raise DataError(f"{where} is cut off", hint="the file is damaged")
    array = np.frombuffer(content, dtype).reshape(shape[::-1] if fortran else shape)
    return array.T if fortran else array


def _read_csv(path: Path) -> Dataset:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            if not 2 <= len(header) <= MAX_CSV_COLUMNS:
                raise DataError(
                    f"{path}: line 1: a header of at least two columns was expected, found {len(header)}",
                    hint="the first line names the columns; the label's is y, label or target, or the last one",
                )
            label = next((header.index(name) for name in LABEL_COLUMNS if name in header), len(header) - 1)
            # fromiter holds 8 bytes a cell, where a list of rows would hold more than 32
            table = np.fromiter(_cells(path, rows, header), np.float64).reshape(-1, len(header))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not a readable .csv file: {error}", hint="save it as UTF-8 text") from error
    if not len(table):
        raise DataError(f"{path}: no rows below the header", hint="add one line per sample")
    y = table[:, label]
    whole = np.isfinite(y).all() and (np.abs(y) < 1 << 53).all() and (y == np.round(y)).all()
    x = np.delete(table, label, axis=1)
    with np.errstate(over="ignore"):
        return Dataset(x.astype(np.float32), y.astype(np.int64) if whole else y.astype(np.float32), str(path))


def _cells(path: Path, rows: Any, header: list[str]) -> Iterator[float]:
    room = MAX_SOURCE_BYTES // 8
    for row in rows:
        if not row:
            continue
        room -= len(row)
        if room < 0:
            raise _too_large(str(path), MAX_SOURCE_BYTES + 8)
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {rows.line_num}: {len(row)} values, the header has {len(header)}",
                hint="give every line one value per column",
            )
        try:
            yield from map(float, row)
        except ValueError as error:
            raise DataError(
                f"{path}: line {rows.line_num}: {error}", hint="every value must be a number; number the labels from 0"
            ) from None


def _too_large(what: str, size: int) -> DataError:
    return DataError(f"{what} has {size} bytes, over the limit of {MAX_SOURCE_BYTES}", hint="use a part of the data")
