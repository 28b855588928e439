"""A device's policies: found on its own path alone, called beside the loop, and not believed whatever they do."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.learning_world import make_manifest

from edgefl.config import check_document, from_memory, merge
from edgefl.daemon.policies import Policies, PolicyError, resolve
from edgefl.errors import ConfigError, UsageError
from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.policies import check_references, parse_policies
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind

APP = 7
MODEL = BlobRef(bytes(32), 20)
JOB = TrainJob((1, 5, 1), RoundKind.TRAIN, MODEL, 0)
RESULT_SAMPLES = 30


@pytest.fixture
def owner() -> Iterator[ModuleType]:
    """A module of the device's owner."""
    module = ModuleType("owners_policies")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def result() -> TrainResult:
    return TrainResult(np.arange(5, dtype=np.float32), RESULT_SAMPLES, ())


def run(policies: str, references: dict[str, str], work: Callable[[Policies], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        found = Policies(references, lambda: {"on_mains": False}, **options)
        await found.prepare(APP, make_manifest(policies=policies))
        return await work(found)

    return asyncio.run(main())


def shape(hook: str, function: Any, owner: ModuleType, **options: Any) -> Any:
    """What becomes of a delta of 0 to 4."""
    owner.policy = function  # type: ignore[attr-defined]

    async def work(policies: Policies) -> Any:
        shaped = await policies.shape(APP, make_manifest(), JOB, result())
        return shaped.delta

    return run(f"{hook}=p", {"p": "owners_policies:policy"}, work, **options)


def test_privacy_comes_before_compress_and_both_see_the_round(owner: ModuleType) -> None:
    seen: list[Any] = []

    def first(delta: Any, context: Any) -> Any:
        seen.append(("privacy", context.application, context.round, context.samples))
        return delta + 1

    def then(delta: Any, context: Any, *, factor: float) -> Any:
        seen.append(("compress", context.application, context.round, context.samples))
        return delta * factor

    owner.first, owner.then = first, then  # type: ignore[attr-defined]

    async def work(policies: Policies) -> Any:
        return (await policies.shape(APP, make_manifest(), JOB, result())).delta

    references = {"a": "owners_policies:first", "b": "owners_policies:then:factor=10"}
    delta = run("compress=b,privacy=a", references, work)
    np.testing.assert_array_equal(delta, [10, 20, 30, 40, 50])
    assert seen == [("privacy", "digits", 5, RESULT_SAMPLES), ("compress", "digits", 5, RESULT_SAMPLES)]


def test_what_is_handed_on_is_float32_and_nobody_elses(owner: ModuleType) -> None:
    kept: list[np.ndarray] = []

    def policy(delta: Any, context: Any) -> Any:
        kept.append(delta.astype(np.float64))
        return kept[0]

    delta = shape("privacy", policy, owner)
    kept[0][:] = 99
    assert delta.dtype == np.float32
    assert delta.flags.writeable
    np.testing.assert_array_equal(delta, range(5))


def test_noise_is_not_drawn_from_a_seed_that_others_know(owner: ModuleType) -> None:
    def policy(delta: Any, context: Any) -> Any:
        return context.random.standard_normal(delta.shape)

    assert not np.array_equal(shape("privacy", policy, owner), shape("privacy", policy, owner))


def raises(error: BaseException) -> Callable[..., Any]:
    def policy(*arguments: Any) -> Any:
        raise error

    return policy


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (raises(ValueError("no")), "ValueError"),
        (raises(SystemExit(3)), "SystemExit"),
        (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
        (raises(MemoryError()), "MemoryError"),
        (lambda delta, context: None, "NoneType"),
        (lambda delta, context: delta[:-1], r"\(4,\)"),
        (lambda delta, context: delta.reshape(5, 1), r"\(5, 1\)"),
        (lambda delta, context: delta.astype(np.int64), "int64"),
        (lambda delta, context: delta * np.nan, "not finite"),
        (lambda delta, context: delta.astype(np.float64) * 1e300, "not finite"),
        (lambda delta: delta, "TypeError"),
    ],
)
@pytest.mark.parametrize("hook", ["privacy", "compress"])
def test_whatever_a_policy_does_is_an_error_with_a_name(
    hook: str, policy: Any, complaint: str, owner: ModuleType
) -> None:
    with pytest.raises(PolicyError, match=complaint) as caught:
        shape(hook, policy, owner)
    assert caught.value.hint


def test_a_policy_that_hangs_is_left_behind_and_not_called_again(owner: ModuleType) -> None:
    release, calls = threading.Event(), []

    def policy(delta: Any, context: Any) -> Any:
        calls.append(1)
        release.wait(30)
        return delta

    owner.policy = policy  # type: ignore[attr-defined]

    async def work(policies: Policies) -> None:
        manifest = make_manifest()
        with pytest.raises(PolicyError, match=r"for 0\.05 s"):
            await policies.shape(APP, manifest, JOB, result())
        with pytest.raises(PolicyError, match="earlier call"):
            await policies.shape(APP, manifest, JOB, result())
        release.set()
        while len(calls) < 2:  # as soon as it has come back
            try:
                shaped = await policies.shape(APP, manifest, JOB, result())
            except PolicyError:
                await asyncio.sleep(0.01)
        np.testing.assert_array_equal(shaped.delta, range(5))

    run("privacy=p", {"p": "owners_policies:policy"}, work, call_s=0.05)


def test_the_loop_goes_on_while_a_policy_works(owner: ModuleType) -> None:
    going_on = threading.Event()

    def policy(delta: Any, context: Any) -> Any:
        assert going_on.wait(30)
        return delta

    owner.policy = policy  # type: ignore[attr-defined]

    async def work(policies: Policies) -> None:
        shaping = asyncio.ensure_future(policies.shape(APP, make_manifest(), JOB, result()))
        await asyncio.sleep(0)
        assert not shaping.done()
        going_on.set()
        await shaping

    run("privacy=p", {"p": "owners_policies:policy"}, work)


@pytest.mark.parametrize("answer", [True, False])
def test_select_is_asked_with_the_load_and_the_round(answer: bool, owner: ModuleType) -> None:
    seen: list[Any] = []

    def policy(manifest: Any, facts: Any) -> bool:
        seen.append((manifest.name, facts))
        return answer

    owner.policy = policy  # type: ignore[attr-defined]

    async def work(policies: Policies) -> Any:
        return await policies.selects(APP, make_manifest(), 5)

    assert run("select=p", {"p": "owners_policies:policy"}, work) is answer
    assert seen == [("digits", {"on_mains": False, "round": 5})]


@pytest.mark.parametrize("answer", [None, 1, "yes", np.True_])
def test_select_says_yes_or_no(answer: Any, owner: ModuleType) -> None:
    owner.policy = lambda manifest, facts: answer  # type: ignore[attr-defined]

    async def work(policies: Policies) -> Any:
        return await policies.selects(APP, make_manifest(), 5)

    with pytest.raises(PolicyError, match="neither"):
        run("select=p", {"p": "owners_policies:policy"}, work)


def test_aggregate_keeps_its_state_with_the_model_that_it_made(owner: ModuleType) -> None:
    def policy(model: Any, mean: Any, state: dict[str, Any]) -> Any:
        state["calls"] = state.get("calls", 0) + 1
        if mean[0] < 0:
            raise ValueError("after the state was touched")
        return model + mean * state["calls"]

    owner.policy = policy  # type: ignore[attr-defined]
    made = BlobRef(bytes([1]) * 32, 20)
    model, mean = np.zeros(5, np.float32), np.ones(5, np.float32)

    async def work(policies: Policies) -> None:
        first, state = await policies.step(APP, MODEL, model.tobytes(), mean)
        policies.keep_state(APP, made, state)
        np.testing.assert_array_equal(first, np.ones(5))
        with pytest.raises(PolicyError, match="ValueError"):
            await policies.step(APP, made, first.tobytes(), -mean)
        second, _ = await policies.step(APP, made, first.tobytes(), mean)
        np.testing.assert_array_equal(second, np.full(5, 3.0))  # the failed call has left nothing
        other, _ = await policies.step(APP, MODEL, model.tobytes(), mean)
        np.testing.assert_array_equal(other, np.ones(5))  # another model: a state of its own
        _, before = await policies.step(APP, MODEL, model.tobytes(), mean)
        policies.keep_state(APP, made, before)
        averaged, _ = await policies.step(APP, made, model.tobytes(), mean, trained=2)
        np.testing.assert_array_equal(averaged, [2, 2, 1, 1, 1])  # the running statistics are not the policy's
        with pytest.raises(PolicyError, match="read-only"):
            await writing.step(APP, MODEL, model.tobytes(), mean)

    def write(model: Any, mean: Any, state: Any) -> Any:
        mean += 1
        return mean

    owner.write = write  # type: ignore[attr-defined]
    writing = Policies({"p": "owners_policies:write"}, dict)

    async def both(policies: Policies) -> None:
        await writing.prepare(APP, make_manifest(policies="aggregate=p"))
        await work(policies)

    run("aggregate=p", {"p": "owners_policies:policy"}, both)


def test_a_device_without_the_policy_says_which_one() -> None:
    policies = Policies({"mine": "edgefl.policies:charging_only"}, dict)
    assert policies.missing(make_manifest()) == ""
    assert policies.missing(make_manifest(policies="select=mine")) == ""
    reason = policies.missing(make_manifest(policies="select=mine,privacy=theirs"))
    assert reason == "this device has no policy named 'theirs', which the application wants for privacy"
    with pytest.raises(PolicyError, match="theirs"):
        asyncio.run(policies.prepare(APP, make_manifest(policies="privacy=theirs")))


def test_a_module_that_cannot_be_imported_is_an_error_with_a_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(1)\n")
    (tmp_path / "breaks.py").write_text("1 / 0\n")
    for reference in (
        "leaves:f",
        "breaks:f",
        "not_there:f",
        "edgefl.policies:not_there",
        "edgefl.policies:__doc__",
        "edgefl.policies:clip_and_noise:clip=much",
        "edgefl.policies",
    ):
        with pytest.raises(PolicyError):
            resolve("p", reference)
    assert resolve("p", "edgefl.policies:charging_only")(None, {}) is True


class TestNames:
    @pytest.mark.parametrize(
        "text",
        ["private", "privacy", "privacy=", "privacy=a b", "privacy=1a", "privacy=a,privacy=b", "hide=a", "select=a,",
         "privacy=" + "a" * 33, "select=" + ",".join("a" * 60)],
    )  # fmt: skip
    def test_what_is_no_list_of_policies(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_policies(text)

    def test_a_list_of_policies(self) -> None:
        assert parse_policies("") == {}
        found = parse_policies("privacy=clip_and_noise,select=my.own-one")
        assert found == {"privacy": "clip_and_noise", "select": "my.own-one"}

    @pytest.mark.parametrize("reference", ["", "a", "a:", ":f", "a:f:", "a:f:x", "a:f:x=", "a f:g", "http://x/y:f"])
    def test_what_is_no_reference(self, reference: str) -> None:
        with pytest.raises(UsageError, match="policies"):
            check_references({"p": reference})

    def test_the_table_of_the_configuration(self) -> None:
        table = {"p": "edgefl.policies:clip_and_noise:clip=1.0,noise=0.5", "q": "mine.too:f"}
        read = check_document(Path("edgefl.toml"), {"policies": dict(table)})
        settings = merge(read)
        assert settings.policies == table
        assert merge(from_memory(settings.remembered())).policies == table
        with pytest.raises(ConfigError):
            check_document(Path("edgefl.toml"), {"policies": {"p": 1}})
        with pytest.raises(UsageError):
            merge({"policies": {"p": "nothing"}})
