"""The manifest: a valid one survives a round trip, everything else is refused, and so is every altered file."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl import trainer
from edgefl.errors import ModelError
from edgefl.trainer.building import losses, optimizers
from edgefl.trainer.files.manifest import (
    FILES,
    INFERENCE,
    LOSSES,
    OPTIMIZERS,
    Adapter,
    File,
    Loss,
    Manifest,
    Optimizer,
    Parameter,
    Tensor,
    read_file,
    read_manifest,
)


def valid() -> Manifest:
    return Manifest(
        inputs=(Tensor("x", "float32", (None, 4)),),
        target=Tensor("target", "int64", (None,)),
        outputs=(Tensor("y", "float32", (None, 3)),),
        parameters=(
            Parameter("w", (4, 3), 100),
            Parameter("b", (3,), 200),
            Parameter("v.left", (2, 1), None),
            Parameter("v.right", (1, 3), None),
        ),
        buffers=(Parameter("mean", (3,), 220),),
        adapters=(Adapter("v", (3, 2), 240, "v.left", "v.right", 0.5, True),),
        seeded=False,
        loss=Loss("cross-entropy", {"label_smoothing": 0.0}, 3),
        stripped="",
        optimizer=Optimizer("momentum", {"momentum": 0.9}, ("velocity",), False, False),
        opset=21,
        operators=("Gemm",),
        files={name: File.of(name.encode() * 20) for name in FILES},
    )


def test_round_trip() -> None:
    manifest = valid()
    assert Manifest.parse(manifest.serialise()) == manifest
    assert (manifest.trained_size, manifest.vector_size) == (20, 23)


def test_hints_may_be_missing_or_of_a_later_release() -> None:
    document = json.loads(dataclasses.replace(valid(), divisible=True).serialise())
    document["hints"]["colour"] = {"of": "the next release"}
    assert Manifest.parse(json.dumps(document).encode()).divisible
    del document["hints"]
    assert not Manifest.parse(json.dumps(document).encode()).divisible


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_model_error(content: bytes) -> None:
    with pytest.raises(ModelError):
        Manifest.parse(content)


OTHER = st.sampled_from(
    [None, True, -1, 1, 10**30, 1.5, "", "x", "\ud800", "a\nb", "y" * 600, [], [None], [[]], {}, {"x": 1}, [-1], ["x"]]
)


@given(data=st.data())
def test_one_altered_value_is_refused_or_still_a_valid_manifest(data: st.DataObject) -> None:
    document = json.loads(valid().serialise())
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    if data.draw(st.booleans()) and isinstance(place, dict):
        del place[key]
    else:
        place[key] = data.draw(OTHER)
    with suppress(ModelError):
        manifest = Manifest.parse(json.dumps(document).encode())
        assert Manifest.parse(manifest.serialise()) == manifest


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (["format"], 1, "artifact format 1"),
        (["vector_size"], 14, "vector_size"),
        (["parameters", 1, "inference_offset"], 120, "overlap"),
        (["parameters", 1, "inference_offset"], 10**6, "outside"),
        (["parameters", 1, "inference_offset"], None, "no place"),
        (["parameters", 0, "shape"], [4, 0], "empty"),
        (["buffers", 0, "inference_offset"], None, "no place"),
        (["buffers", 0, "name"], "w", "twice"),
        (["adapters", 0, "left"], "w", "no two matrices"),
        (["adapters", 0, "shape"], [3, 3], "does not fit"),
        (["adapters", 0, "inference_offset"], 224, "overlap"),
        (["adapters"], [], "no place"),
        (["adapters", 0, "scale"], float("inf"), "finite"),
        (["adapters", 0, "transposed"], 1, "true or false"),
        (["seeded"], None, "true or false"),
        (["hints", "divisible"], 1, "true or false"),
        (["hints"], [], "hints must be"),
        (["parameters", 0, "name"], "b", "twice"),
        (["parameters"], [], "must not be empty"),
        (["inputs", 0, "name"], "target", "named 'target'"),
        (["inputs", 0, "shape"], [4], "batch as first"),
        (["inputs", 0, "shape"], [None, None], "only open"),
        (["inputs", 0, "dtype"], "float64", "dtype"),
        (["loss"], "hinge", "loss"),
        (["loss", "name"], "hinge", "loss and classes"),
        (["loss", "classes"], 0, "loss and classes"),
        (["loss", "options"], {"label_smoothing": 2.0}, "label_smoothing"),
        (["loss", "options"], {}, "not complete"),
        (["optimizer", "name"], "lion", "optimizer"),
        (["optimizer", "options"], {"momentum": 10**400}, "finite"),
        (["optimizer", "state"], ["v"] * 40, "at most 32"),
        (["files", "checkpoint", "size_bytes"], 1 << 33, "over the limit"),
        (["files"], {}, "exactly the keys"),
        (["extra"], 1, "have extra, which this edgefl does not know"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(path: list[Any], value: Any, what: str) -> None:
    document = json.loads(valid().serialise())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ModelError, match=what):
        Manifest.parse(json.dumps(document).encode())


def test_a_file_that_is_not_the_one_listed_is_refused(tmp_path: Path) -> None:
    manifest = valid()
    content = INFERENCE.encode() * 20
    for altered in (content[:-1], content + b"!", content[:-1] + b"!"):
        (tmp_path / INFERENCE).write_bytes(altered)
        with pytest.raises(ModelError):
            read_file(tmp_path, manifest, INFERENCE)
    (tmp_path / INFERENCE).write_bytes(content)
    assert read_file(tmp_path, manifest, INFERENCE) == content


def test_a_directory_without_manifest_is_a_model_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json") as caught:
        read_manifest(tmp_path)
    assert "artifacts build" in caught.value.hint


def test_the_names_in_manifests_are_those_that_can_be_built() -> None:
    assert tuple(losses.LOSSES) == LOSSES
    assert tuple(optimizers.OPTIMIZERS) == OPTIMIZERS


def test_the_package_lends_its_names_lazily() -> None:
    assert {name: getattr(trainer, name) for name in trainer.__all__}
    with pytest.raises(AttributeError):
        trainer.nothing  # noqa: B018  the access is the test
