"""What is shared and what stays at home: together they are the model, whatever the pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.building import build

from edgefl.datasets import models
from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Loss, Manifest, Optimizer, Parameter, Tensor
from edgefl.trainer.files.split import Split


def make_manifest(sizes: list[int], buffers: list[int]) -> Manifest:
    tensor = Tensor("x", "float32", (None, 2))
    return Manifest(
        inputs=(tensor,),
        target=tensor,
        outputs=(tensor,),
        parameters=tuple(Parameter(f"p{i}", (size,), None) for i, size in enumerate(sizes)),
        buffers=tuple(Parameter(f"b{i}", (size,), None) for i, size in enumerate(buffers)),
        adapters=(),
        seeded=False,
        loss=Loss("mse", {}, 0),
        stripped="",
        optimizer=Optimizer("sgd", {}, (), False, True),
        opset=17,
        operators=(),
        files={},
    )


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    st.lists(st.integers(1, 5), max_size=3),
    st.sets(st.integers(1, 5)),
    st.sets(st.integers(0, 2)),
)
def test_both_parts_together_are_the_model(
    sizes: list[int], buffers: list[int], parameters: set[int], running: set[int]
) -> None:
    manifest = make_manifest(sizes, buffers)
    names = [f"p{i}" for i in parameters if i < len(sizes)] + [f"b{i}" for i in running if i < len(buffers)]
    split = Split(manifest, names)
    vector = np.arange(manifest.vector_size, dtype=np.float32)
    shared, personal = split.shared(vector), split.personal(vector)
    assert (len(shared), len(personal)) == (split.shared_size, split.personal_size)
    np.testing.assert_array_equal(split.join(shared, personal), vector)
    assert sorted(shared) == list(shared)  # in manifest order: trained first, buffers behind
    assert split.trained == sum(size for i, size in enumerate(sizes) if f"p{i}" not in names)
    assert (shared[: split.trained] < manifest.trained_size).all()
    assert (shared[split.trained :] >= manifest.trained_size).all()


def test_without_patterns_nothing_is_copied() -> None:
    split = Split(make_manifest([3, 2], [4]), ())
    vector = np.arange(9, dtype=np.float32)
    assert split.shared(vector) is vector
    assert split.join(vector, split.personal(vector)) is vector
    assert (split.shared_size, split.personal_size, split.trained) == (9, 0, 5)


def test_patterns_are_those_of_file_names(tmp_path: Path) -> None:
    manifest = build(models.mlp(hidden=16), loss="cross-entropy", optimizer="sgd", out=tmp_path)
    names = [parameter.name for parameter in manifest.parameters]
    split = Split(manifest, [f"{names[-1][:-1]}?"])
    assert split.personal_size >= manifest.parameters[-1].size


@pytest.mark.parametrize(
    ("patterns", "cause"),
    [(["head*"], "'head\\*'"), (["p0", "x"], "'x'"), (["*"], "share nothing"), (["p*"], "share nothing")],
)
def test_patterns_that_leave_nothing_or_name_nothing(patterns: list[str], cause: str) -> None:
    with pytest.raises(ModelError, match=cause) as caught:
        Split(make_manifest([3, 2], [4]), patterns)
    assert caught.value.hint
