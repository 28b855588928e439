"""Landmark binning, and that the vectorised model bins alike."""

from __future__ import annotations

import numpy as np

from edgefl.overlay.landmarks import LANDMARKS, landmark_bin, landmark_key, zone_of_bin
from edgefl.sim.scale.world import generator, make_devices
from edgefl.sim.scale.zones import Pings, landmark_bins, pairs_kept


def test_a_bin_is_the_order_and_a_level_of_each() -> None:
    assert landmark_bin([0.150, 0.020, 0.300, 0.100]) == (1, 3, 0, 2, 1, 0, 2, 1)
    assert landmark_bin([0.02, 0.02]) == (0, 1, 0, 0)


def test_labels_and_keys() -> None:
    labels = {zone_of_bin((a, b)) for a in range(50) for b in range(50)}
    assert len(labels) > 2400
    assert min(labels) >= 1
    assert max(labels) < 1 << 16
    assert len({landmark_key(index) for index in range(LANDMARKS)}) == LANDMARKS


def test_the_model_puts_the_same_devices_together() -> None:
    devices = make_devices(200, 3)
    landmarks = np.array([3, 50, 100, 150])
    model = landmark_bins(devices, landmarks, generator(3))
    measured = Pings(devices, generator(3)).rtt_s(np.arange(200)[:, None], landmarks)
    shipped = np.array([zone_of_bin(landmark_bin(row)) for row in measured.tolist()])
    assert pairs_kept(model, shipped.astype(np.int64)) == 1.0
