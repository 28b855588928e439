"""Weights and graphs: rows sum to 1, edges are symmetric where they must be, averages are what theory says."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.learning.consensus.graph import Fixed, Gossip, OnePeerExponential, circulant, erdos_renyi, regular
from edgefl.learning.consensus.mixing import PUSH_SUM, RULES, weights


@given(
    st.sampled_from([rule for rule in RULES if rule != PUSH_SUM]),
    st.integers(1, 1000),
    st.integers(0, 10),
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10)), max_size=8),
)
def test_every_rule_is_an_average(rule: str, samples: int, degree: int, heard: list[tuple[int, int]]) -> None:
    own, others = weights(rule, samples, degree, [one for one, _ in heard], [two for _, two in heard])
    assert own + sum(others) == pytest.approx(1)
    assert own > 0
    assert min(others, default=0) >= 0


def settle(graph: Fixed, rule: str, values: list[float], samples: list[int]) -> list[float]:
    """Two hundred consensus steps without training."""
    for _ in range(200):
        after = []
        for device, near in enumerate(graph.neighbours):
            own, others = weights(
                rule,
                samples[device],
                len(near),
                [samples[other] for other in near],
                [len(graph.neighbours[other]) for other in near],
            )
            mixed = sum(share * values[other] for share, other in zip(others, near, strict=True))
            after.append(own * values[device] + mixed)
        values = after
    return values


def test_metropolis_keeps_the_mean_and_sample_weights_go_to_the_perron_mean() -> None:
    graph = Fixed(((1, 2, 3), (0,), (0,), (0,)))
    samples, values = [10, 20, 30, 40], [1.0, 2.0, 3.0, 4.0]
    assert settle(graph, "metropolis", values, samples) == pytest.approx([2.5] * 4)
    reach = [
        samples[device] * (samples[device] + sum(samples[other] for other in near))
        for device, near in enumerate(graph.neighbours)
    ]
    perron = float(np.average(values, weights=reach))
    assert settle(graph, "samples", values, samples) == pytest.approx([perron] * 4)


@pytest.mark.parametrize("graph", [circulant(20, 4), regular(20, 10, Random(1)), erdos_renyi(20, 4, Random(1))])
def test_fixed_graphs_are_undirected_without_loops(graph: Fixed) -> None:
    for device, near in enumerate(graph.neighbours):
        assert device not in near
        assert all(device in graph.neighbours[other] for other in near)


def test_regular_graphs_are_regular_and_impossible_ones_refused() -> None:
    assert {len(near) for near in regular(21, 10, Random(2)).neighbours} == {10}
    with pytest.raises(ValueError, match="regular"):
        circulant(4, 4)


@pytest.mark.parametrize("devices", [2, 5, 8, 13])
def test_one_peer_edges_fit_together_and_reach_everybody(devices: int) -> None:
    graph = OnePeerExponential(devices)
    known = [{device} for device in range(devices)]
    for round_ in range((devices - 1).bit_length()):
        before = [set(one) for one in known]
        for device in range(devices):
            (sender,) = graph.incoming(device, round_)
            assert graph.outgoing(sender, round_) == (device,)
            known[device] |= before[sender]
    assert all(len(one) == devices for one in known)


def test_gossip_never_picks_itself() -> None:
    graph = Gossip(5, 1)
    picks = {(device, other) for device in range(5) for round_ in range(60) for other in graph.outgoing(device, round_)}
    assert picks == {(a, b) for a in range(5) for b in range(5) if a != b}
