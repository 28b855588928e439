"""The policy that aggregates at the root: in place of the strategy, and a round is tried again when it fails."""

from __future__ import annotations

import numpy as np
import pytest
from support.learning_world import World, make_manifest

from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.wire.application import Topology

PARENTS = {2: 1, 3: 1, 4: 2}


def world(rounds: int = 3) -> World:
    return World(4, manifest=make_manifest(rounds=rounds, policies="aggregate=mine"))


def test_the_policy_makes_every_model() -> None:
    fleet = world()
    for device in fleet.devices.values():
        device.aggregate = lambda model, mean: model + mean / 2
    fleet.start(PARENTS)
    fleet.run(fleet.finished)
    samples = [device.samples for device in fleet.devices.values()]
    target = np.average([device.target for device in fleet.devices.values()], axis=0, weights=samples)
    for number in fleet.devices:  # each round goes half of half of the way
        np.testing.assert_allclose(fleet.model_of(number), (1 - 0.75**3) * target, rtol=1e-4)


def test_a_round_without_a_model_is_tried_again_and_counts_as_failed() -> None:
    fleet = world(rounds=2)
    failures = [True, False, True, False]
    fleet.devices[1].aggregate = lambda model, mean: None if failures.pop(0) else model + mean
    fleet.start(PARENTS)
    fleet.run(lambda: "the policy failed" in fleet.devices[1].app.coordinator.problem)
    fleet.run(fleet.finished)
    assert fleet.devices[1].app.counters["training_failed"] == 2
    np.testing.assert_allclose(fleet.model_of(3), fleet.expected_model(2), rtol=1e-4)
    assert [record.attempts for record in fleet.devices[1].app.ledger.history.all()][1:] == [2, 2]


def test_a_root_that_always_fails_goes_no_further_and_its_successor_does() -> None:
    fleet = world(rounds=2)
    for number in (2, 3, 4):
        fleet.devices[number].aggregate = lambda model, mean: model + mean
    fleet.start(PARENTS)
    fleet.run_for(30.0)
    assert fleet.devices[1].app.ledger.round == 0
    fleet.kill(1)
    fleet.crown(2)
    fleet.attach(3, 2)
    fleet.run(lambda: fleet.finished(2, 3, 4))
    np.testing.assert_allclose(fleet.model_of(4), fleet.expected_model(2, (2, 3, 4)), rtol=1e-4)


def test_a_late_answer_of_the_policy_belongs_to_no_round() -> None:
    fleet = world(rounds=1)
    fleet.devices[1].aggregate = lambda model, mean: model + mean
    fleet.start(PARENTS)
    fleet.run(lambda: fleet.devices[1].app.coordinator.phase is Phase.KEEPING)
    root = fleet.devices[1]
    root.learning.on_not_kept(fleet.app_id, ("model", (0, 0, 0)), "of an earlier attempt", fleet.now)
    assert root.app.coordinator.phase is Phase.KEEPING
    fleet.run(fleet.finished)
    root.learning.on_not_kept(fleet.app_id, ("model", (0, 0, 0)), "after the end", fleet.now)
    root.learning.on_not_kept(12345, ("model", (0, 0, 0)), "of an application that was left", fleet.now)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"policies": "aggregate"}, "policies"),
        ({"policies": "aggregate=a", "strategy": "fedadam"}, "strategy"),
        ({"policies": "aggregate=a", "strategy": "fedavg:lr=0.5"}, "strategy"),
        ({"policies": "aggregate=a", "topology": Topology.SAMPLED}, "policies"),
        ({"policies": "aggregate=a", "topology": Topology.CONSENSUS}, "policies"),
    ],
)
def test_manifests_that_no_device_could_follow(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ManifestError, match=field):
        check_manifest(make_manifest(**changes))


def test_manifests_that_name_policies() -> None:
    check_manifest(make_manifest(policies="aggregate=a,select=b,privacy=c,compress=d", strategy="fedprox:mu=0.1"))
    check_manifest(make_manifest(policies="privacy=c,compress=d,select=e", topology=Topology.SAMPLED))
