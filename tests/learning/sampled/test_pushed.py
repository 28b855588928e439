"""Models that are pushed with the word about them: nobody has to ask, nothing depends on it, and it is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.learning_world import World, make_contact, make_manifest

from edgefl.learning.sampled.application import SampledApplication
from edgefl.learning.sampled.order import handed_out
from edgefl.learning.sampled.pushed import (
    MAX_EXPECTED,
    MAX_PUSHED_BYTES,
    MAX_PUSHED_MODEL,
    Place,
    PushedModels,
    patience_s,
)
from edgefl.wire import Contact
from edgefl.wire.application import Topology
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, ref_of
from edgefl.wire.sampled import SampledModel, SampleTrain, SampleUpdate

SIZE = 40
A, B = 1, 2


def model(number: int) -> bytes:
    return np.full(SIZE // 4, number, "<f4").tobytes()


def refs(*numbers: int) -> list[BlobRef]:
    return [ref_of(model(number)) for number in numbers]


def test_a_model_that_came_before_the_word_about_it_is_there() -> None:
    pushed, (one,) = PushedModels(SIZE), refs(1)
    assert pushed.arrived(A, one, model(1)) == ()
    assert pushed.take(A, one) == model(1)
    assert pushed.take(A, one) is None, "handed over once"


def test_who_waits_for_a_model_gets_it_when_it_comes() -> None:
    pushed, (one, two) = PushedModels(SIZE), refs(1, 2)
    pushed.expect(Place(("collect", A), one, make_contact(A), 5.0))
    pushed.expect(Place(("collect", B), two, make_contact(B), 4.0))
    assert pushed.next_due == 4.0
    assert pushed.arrived(B, one, model(1)) == (), "it was promised by another one"
    (place,) = pushed.arrived(A, one, model(1))
    assert (place.token, place.blob) == (("collect", A), one)
    assert pushed.take(A, one) is None
    assert [place.token for place in pushed.overdue(4.5)] == [("collect", B)]
    assert pushed.next_due is None


def test_two_who_wait_for_one_model_of_one_device_both_get_it() -> None:
    pushed, (one,) = PushedModels(SIZE), refs(1)
    pushed.expect(Place(("task", 1), one, make_contact(A), 5.0))
    pushed.expect(Place(("task", 2), one, make_contact(A), 6.0))
    assert [place.token for place in pushed.arrived(A, one, model(1))] == [("task", 1), ("task", 2)]


@pytest.mark.parametrize(
    "data", [model(2), model(1)[:-4], b"", model(1) + model(1)], ids=["another", "short", "empty", "long"]
)
def test_what_is_not_the_model_that_it_is_called_is_refused(data: bytes) -> None:
    pushed, (one,) = PushedModels(SIZE), refs(1)
    pushed.expect(Place(("task", 1), one, make_contact(A), 5.0))
    with pytest.raises(ValueError, match="not the model"):
        pushed.arrived(A, one, data)
    assert pushed.next_due == 5.0


def test_each_device_has_one_place_and_all_together_so_many_bytes() -> None:
    pushed = PushedModels(SIZE)
    first, second = refs(1, 2)
    pushed.arrived(A, first, model(1))
    pushed.arrived(A, second, model(2))
    assert pushed.take(A, first) is None
    assert pushed.take(A, second) == model(2)
    large = np.zeros(MAX_PUSHED_MODEL // 4, "<f4").tobytes()
    pushed, ref = PushedModels(MAX_PUSHED_MODEL), ref_of(large)
    senders = range(2 * MAX_PUSHED_BYTES // MAX_PUSHED_MODEL)
    for sender in senders:
        pushed.arrived(sender, ref, large)
    held = [sender for sender in senders if pushed.take(sender, ref) is not None]
    assert held == list(senders)[len(senders) // 2 :], "the newest ones"


def test_what_is_waited_for_is_bounded_too() -> None:
    pushed, (one,) = PushedModels(SIZE), refs(1)
    taken = [pushed.expect(Place(("task", number), one, make_contact(A), 5.0)) for number in range(2000)]
    assert taken.count(True) == taken.index(False) == MAX_EXPECTED


def test_patience_follows_what_the_senders_uplink_has_to_carry() -> None:
    assert patience_s(100_000, models=1, uplink=0) == patience_s(0, models=1, uplink=20)
    assert patience_s(100_000, models=13, uplink=17) > patience_s(100_000, models=1, uplink=17) + 10


OPTIONS = "sample=3,success=1,by_uplink=no,timeout_s=20"


class Watched:
    """A world of sampled devices, and what goes between them."""

    def __init__(self, devices: int = 7, parameters: int = 5, options: str = OPTIONS, rounds: int = 4) -> None:
        manifest = make_manifest(
            topology=Topology.SAMPLED, topology_options=options, rounds=rounds, parameters=parameters, deadline_s=60.0
        )
        self.world = World(devices, seed=1, manifest=manifest)
        self.said: list[tuple[int, int, Any]] = []
        self.fetched: list[tuple[int, tuple[Any, ...]]] = []
        self.lost = False
        self.world.tap = self._tap
        for number, device in self.world.devices.items():
            device.fetch = self._watch(number, device.fetch)  # type: ignore[method-assign]
        self.world.start({number: number // 2 for number in range(2, devices + 1)})

    def _watch(self, number: int, fetch: Any) -> Any:
        def watched(app: int, token: Any, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False) -> None:
            others = [source for source in sources if source.node_id != number]
            if others and token[0] != "final":
                self.fetched.append((number, token))
            fetch(app, token, blob, sources, pushed=pushed)

        return watched

    def _tap(self, sender: int, to: int, message: Any) -> bool:
        self.said.append((sender, to, message))
        return not (self.lost and isinstance(message, SampledModel))

    def finish(self, limit_s: float = 400) -> None:
        devices = self.world.devices.values()
        self.world.run(lambda: all(device.any_app.ledger.finished for device in devices), limit_s)

    def of(self, kind: type) -> list[Any]:
        return [message for _, _, message in self.said if isinstance(message, kind)]


def test_small_models_go_with_the_word_and_nobody_asks_for_them() -> None:
    watched = Watched()
    watched.finish()
    first = min(message.round for message in watched.of(SampleTrain))
    asked = {token[1][1] for _, token in watched.fetched if token[0] == "task"}
    assert asked <= {first, 6}, "only the start and the end: who hands these out has not made them"
    assert not [token for _, token in watched.fetched if token[0] == "collect" and token[1][1] <= 4]
    assert {message.model for message in watched.of(SampledModel)} >= {m.model for m in watched.of(SampleUpdate)[:9]}


def test_a_model_larger_than_a_chunk_is_asked_for() -> None:
    watched = Watched(parameters=CHUNK_BYTES // 4 + 1)
    watched.finish()
    assert not watched.of(SampledModel)
    assert any(token[0] == "collect" for _, token in watched.fetched)


def test_with_several_aggregators_only_updates_are_pushed() -> None:
    watched = Watched(options="sample=3,success=1,by_uplink=no,timeout_s=20,aggregators=2")
    watched.finish()
    assert not any(message.pushed for message in watched.of(SampleTrain))
    assert any(message.pushed for message in watched.of(SampleUpdate))


def test_what_was_pushed_and_lost_is_asked_for() -> None:
    watched = Watched()
    watched.lost = True
    watched.finish(1000)
    assert any(token[0] == "task" and token[1][1] > 1 for _, token in watched.fetched)
    assert any(token[0] == "collect" for _, token in watched.fetched)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_order_they_come_in_the_result_is_the_same(seed: int) -> None:
    results = []
    for jitter_s in (0.0, 2.0):
        watched = Watched()
        watched.world.random.seed(seed)
        watched.world.jitter_s = jitter_s
        watched.finish(1000)
        results.append({device.any_app.ledger.model for device in watched.world.devices.values()})
    assert all(len(result) == 1 for result in results)


def test_a_liar_pushes_in_vain() -> None:
    watched = Watched()
    world = watched.world
    world.run(lambda: world.devices[1].any_app.round >= 2)
    victim, liar = world.devices[2], world.devices[5]
    app = victim.any_app
    assert isinstance(app, SampledApplication)
    held = len(victim.blobs)
    true = np.ones(5, "<f4").tobytes()
    for data, name in ((true, ref_of(b"x" * 20)), (true[:-4], ref_of(true[:-4])), (true + true, ref_of(true + true))):
        world.devices[2].learning.on_bulk(liar.contact, SampledModel(app.id, name), memoryview(data), world.now)
    assert app.counters["implausible"] == 3
    stranger = Contact(999, "10.9.9.9", 4000)
    victim.learning.on_bulk(stranger, SampledModel(app.id, ref_of(true)), memoryview(true), world.now)
    assert app.counters["not_a_member"] == 1
    assert len(victim.blobs) == held
    watched.finish(1000)


def test_the_model_leaves_in_the_order_that_ends_the_round_soonest() -> None:
    watched = Watched(options="sample=5,success=0.6,by_uplink=no,timeout_s=20", rounds=24)
    for number, device in watched.world.devices.items():
        device.train_s = float(number)
    watched.finish(1000)
    served: dict[tuple[int, int], list[int]] = {}
    for sender, to, message in watched.said:
        if isinstance(message, SampleTrain) and 16 <= message.round <= 24:
            assert message.sampled == 5
            served.setdefault((message.round, sender), []).append(to)
    assert len(served) >= 9
    for (_, sender), receivers in served.items():
        everybody = receivers if len(receivers) == 5 else [*receivers, sender]
        wanted = handed_out(everybody, {number: float(number) for number in everybody}, 3)
        assert receivers == [number for number in wanted if number != sender]
