"""Encodings: what goes in comes out within the bounds of its family, sums stay right on average, what is left out is
not lost, and hostile bytes are a named error."""

from __future__ import annotations

import contextlib
import tracemalloc
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.learning_world import World, make_manifest

from edgefl.errors import ConfigError, UsageError
from edgefl.learning.encoding import check_extra, open_encoding, parse_spec
from edgefl.learning.encoding.codec import Encoding, EncodingError
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.wire.learning import CHUNK_PARAMETERS

TAG = (65537, 3, 1)

NAMES = ["none", "fp16", "bf16", "int8", "int4", "topk:0.1", "randk:0.1", "lowrank:4", "topk:0.1+zstd", "int8+zstd"]
LOSSY = [name for name in NAMES if name != "none"]

chunks = npst.arrays(
    np.float32,
    st.integers(1, 700),
    elements=st.floats(-(2.0**30), 2.0**30, width=32, allow_subnormal=False).map(
        lambda v: 0.0 if abs(v) < 1e-20 else v
    ),
)


def round_trip(encoding: Encoding, values: np.ndarray, *, seed: int = 0, index: int = 0) -> np.ndarray:
    encoded = encoding.encode(values.copy(), TAG, index, None, Random(seed))
    return encoding.decode(encoded.data, values.size, TAG, index)


@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("name", NAMES)
@given(values=chunks, seed=st.integers(0, 2**32))
def test_every_chunk_comes_back_and_its_error_is_as_reported(name: str, values: np.ndarray, seed: int) -> None:
    encoding = open_encoding(name, 7)
    encoded = encoding.encode(values.copy(), TAG, 5, None, Random(seed))
    assert len(encoded.data) <= encoding.codec.limit(values.size)
    back = encoding.decode(bytes(encoded.data), values.size, TAG, 5)
    assert (back.shape, back.dtype) == (values.shape, np.float32)
    error = float(np.sum((values.astype(np.float64) - back) ** 2))
    if name == "none":
        np.testing.assert_array_equal(back, values)
    else:
        assert encoded.error == pytest.approx(error, rel=1e-2, abs=1e-9 * (1 + encoded.norm))
        assert encoded.norm == pytest.approx(float(np.sum(values.astype(np.float64) ** 2)), rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(chunks)
def test_floating_point_is_right_to_its_digits(values: np.ndarray) -> None:
    largest = np.abs(values).max()
    np.testing.assert_allclose(round_trip(open_encoding("bf16", 0), values), values, rtol=2**-8)
    np.testing.assert_allclose(round_trip(open_encoding("fp16", 0), values), values, rtol=2**-11, atol=6e-8 * largest)


@pytest.mark.parametrize(("name", "largest", "block"), [("int8", 127, 256), ("int4", 7, 128)])
@settings(max_examples=12, deadline=None)
@given(values=chunks, seed=st.integers(0, 2**32))
def test_integers_are_off_by_less_than_one_step(
    name: str, largest: int, block: int, values: np.ndarray, seed: int
) -> None:
    back = round_trip(open_encoding(name, 0), values, seed=seed)
    for at in range(0, values.size, block):
        part = values[at : at + block]
        step = np.abs(part).max() / largest
        assert np.abs(part - back[at : at + block]).max() <= step * 1.001


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_stochastic_rounding_is_right_on_average(name: str) -> None:
    """The mean of 400 encodings is within five standard errors of the value, for every value."""
    encoding, times = open_encoding(name, 0), 400
    values = np.random.default_rng(0).normal(size=512).astype(np.float32)
    encodings = np.array([round_trip(encoding, values, seed=seed) for seed in range(times)])
    steps = np.repeat(np.abs(values.reshape(-1, encoding.codec.block)).max(axis=1), encoding.codec.block)  # type: ignore[attr-defined]
    steps /= encoding.codec.largest  # type: ignore[attr-defined]
    # A value rounded to one of two neighbours has a deviation of at most half a step.
    assert (np.abs(encodings.mean(axis=0) - values) < 5 * 0.5 * steps / times**0.5).all()
    assert (encodings != encodings[0]).any()


def test_rounding_is_drawn_from_the_context() -> None:
    encoding, values = open_encoding("int8", 0), np.random.default_rng(0).normal(size=512).astype(np.float32)
    np.testing.assert_array_equal(round_trip(encoding, values, seed=1), round_trip(encoding, values, seed=1))
    assert (round_trip(encoding, values, seed=1) != round_trip(encoding, values, seed=2)).any()


def test_the_largest_values_are_those_that_travel() -> None:
    values = np.arange(100, dtype=np.float32) - 50
    back = round_trip(open_encoding("topk:0.04", 0), values)
    assert set(np.flatnonzero(back)) - {2, 98} == {0, 1, 99}
    assert np.count_nonzero(back) == 4
    np.testing.assert_allclose(back[[0, 99]], [-50, 49], rtol=1e-3)


@pytest.mark.parametrize("name", ["randk:0.05", "lowrank:3"])
def test_shared_choices_add_up_without_a_loss(name: str) -> None:
    """What an inner device encodes again is what its children sent: only rounding to 16 bits is added."""
    encoding, generator = open_encoding(name, 7), np.random.default_rng(0)
    sent = [round_trip(encoding, generator.normal(size=1000).astype(np.float32), seed=n) for n in range(5)]
    total = np.sum(sent, axis=0, dtype=np.float32)
    np.testing.assert_allclose(round_trip(encoding, total, seed=9), total, atol=4e-3 * np.abs(total).max())
    other = encoding.encode(total.copy(), (65537, 4, 1), 0, None, Random(0))
    assert (encoding.decode(other.data, 1000, (65537, 4, 1), 0) != total).any(), "the next round draws anew"


@pytest.mark.parametrize("name", [name for name in LOSSY if open_encoding(name, 0).feedback])
def test_feedback_conserves_what_was_trained(name: str) -> None:
    """Over 30 rounds: all that was sent, and what is kept, is all that was given."""
    encoding, generator = open_encoding(name, 7), np.random.default_rng(0)
    memory, given_, sent = np.zeros(500, np.float32), np.zeros(500), np.zeros(500)
    for number in range(30):
        values = generator.normal(size=500).astype(np.float32)
        given_ += values
        tag = (65537, number, 1)
        encoded = encoding.encode(values, tag, 0, memory, Random(number))
        sent += encoding.decode(encoded.data, 500, tag, 0)
    np.testing.assert_allclose(sent + memory, given_, atol=1e-3)


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=300) | st.binary(min_size=4096, max_size=4200), size=st.integers(1, 400))
def test_hostile_bytes_are_a_named_error(name: str, data: bytes, size: int) -> None:
    encoding = open_encoding(name, 7)
    try:
        values = encoding.decode(memoryview(data), size, TAG, 0)
    except EncodingError:
        return
    assert (values.shape, values.dtype) == ((size,), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_bytes_of_the_right_length_take_bounded_memory(name: str) -> None:
    encoding = open_encoding(name, 7)
    limit = encoding.codec.limit(CHUNK_PARAMETERS)
    assert limit <= CHUNK_PARAMETERS * 4 + 1
    for fill in (b"\xff", b"\x7f", b"\x80", b"\x00", b"\x01"):
        tracemalloc.start()
        with contextlib.suppress(EncodingError):
            encoding.decode(memoryview(fill * limit), CHUNK_PARAMETERS, TAG, 0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * 1024 * 1024


def test_a_frame_that_unpacks_to_much_is_refused_before_it_is_unpacked() -> None:
    import zstandard

    encoding = open_encoding("topk:0.1+zstd", 7)
    bomb = b"\1" + zstandard.ZstdCompressor(level=19).compress(bytes(100_000_000))
    assert len(bomb) < 20_000
    tracemalloc.start()
    with pytest.raises(EncodingError, match="frame of"):
        encoding.decode(memoryview(bomb), CHUNK_PARAMETERS, TAG, 0)
    assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    tracemalloc.stop()
    for data in (b"\1junk", b"\2", b"", b"\1"):
        with pytest.raises(EncodingError):
            encoding.decode(memoryview(data), 100, TAG, 0)


class TestNames:
    @pytest.mark.parametrize(
        "name", ["", "int7", "topk", "topk:", "topk:0", "topk:0.9", "topk:nan", "lowrank:0", "lowrank:1.5", "int8:3"]
    )
    def test_what_is_no_encoding_says_which_there_are(self, name: str) -> None:
        with pytest.raises(UsageError, match="no encoding") as caught:
            parse_spec(name)
        assert "lowrank:R" in caught.value.hint
        with pytest.raises(ManifestError, match="compress"):
            check_manifest(make_manifest(compress=name))

    @pytest.mark.parametrize("name", [*NAMES, "none+zstd"])
    def test_what_is_one_passes(self, name: str) -> None:
        check_manifest(make_manifest(compress=name))
        assert open_encoding(name, 0).chunk_bytes <= 4 * CHUNK_PARAMETERS + 1

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgefl.learning.encoding.spec.find_spec", lambda name: None)
        check_extra("topk:0.1")
        with pytest.raises(ConfigError, match="zstandard") as caught:
            check_extra("topk:0.1+zstd")
        assert "edgefl[zstd]" in caught.value.hint


class TestInRounds:
    @pytest.mark.parametrize("name", ["fp16", "int8", "int4+zstd", "topk:0.1", "randk:0.1", "lowrank:4"])
    def test_a_tree_comes_to_the_same_model(self, name: str) -> None:
        """Every device pulls a little towards its target: with the error fed back, the model ends at their mean. (What
        waits for its turn is computed again meanwhile, so steps times waiting rounds must stay below one.)"""
        world = World(6, manifest=make_manifest(rounds=90, parameters=40, compress=name))
        world.pull = 0.05
        world.start({2: 1, 3: 1, 4: 2, 5: 2, 6: 4})
        world.run(world.finished, limit_s=6000)
        goal = world.expected_model(1000)
        away = np.linalg.norm(world.model_of(1) - goal) / np.linalg.norm(goal)
        assert away < (0.02 if name[:4] in ("fp16", "bf16", "int8", "int4") else 0.2)

    def test_the_history_tells_what_encoding_has_cost(self) -> None:
        world = World(4, manifest=make_manifest(rounds=2, parameters=40, compress="int4"))
        world.start({2: 1, 3: 2, 4: 2})
        world.run(world.finished)
        record = world.devices[1].app.ledger.history.get(1)
        assert record is not None
        found = {metric.name: metric.total / metric.weight for metric in record.metrics if metric.weight > 0}
        assert 0 < found["train_encoding_error"] < 0.02
        assert 0 < found["train_requantising_error"] < 0.02

    def test_what_is_left_out_survives_a_restart(self) -> None:
        world = World(3, manifest=make_manifest(rounds=30, parameters=40, compress="topk:0.1"))
        world.start({2: 1, 3: 1})
        world.run(lambda: world.devices[1].app.ledger.round == 5)
        device = world.devices[3]
        kept = device.memories[world.app_id, "feedback"]
        assert np.linalg.norm(np.frombuffer(kept, "<f4")) > 0
        world.kill(3)
        world.restart(3)
        fresh = world.devices[3]
        world.attach(3, 1)
        world.run(lambda: fresh.app.feedback.chunk(0) is not None)
        np.testing.assert_array_equal(fresh.app.feedback.chunk(0), np.frombuffer(kept, "<f4"))
        world.run(world.finished, limit_s=6000)

    def test_a_refused_update_takes_nothing_out_of_the_memory(self) -> None:
        """The update comes too late: the next one begins from what was committed before."""
        world = World(
            3, manifest=make_manifest(rounds=4, parameters=40, compress="topk:0.1", deadline_s=9.0, quorum=0.3)
        )
        world.start({2: 1, 3: 1})
        world.run(lambda: world.devices[1].app.ledger.round == 1)
        device = world.devices[3]
        committed = device.memories[world.app_id, "feedback"]
        world.links_down.add(frozenset((1, 3)))
        world.run(lambda: world.devices[1].app.ledger.round == 3)
        assert device.memories[world.app_id, "feedback"] == committed
        world.links_down.clear()
        world.run(world.finished)
        assert device.memories[world.app_id, "feedback"] != committed

    @pytest.mark.parametrize("kept", [b"x", np.full(40, np.nan, "<f4").tobytes()])
    def test_a_memory_that_does_not_fit_is_a_fresh_start(self, kept: bytes) -> None:
        world = World(2, manifest=make_manifest(rounds=2, parameters=40, compress="int8"))
        world.devices[2].memories[world.app_id, "feedback"] = kept
        world.start({2: 1})
        world.run(world.finished)
        assert len(world.devices[2].memories[world.app_id, "feedback"]) == 160
