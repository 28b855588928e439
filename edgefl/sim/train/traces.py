"""What simulated devices are like. Synthetic by default, or one row for each device from a CSV file."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random

from edgefl.errors import ConfigError
from edgefl.wire.contact import Capacity

MEDIAN_STEP_S, STEP_SPREAD = 0.1, 0.7
"""Seconds of one local step (lognormal): a factor of 10 between the 5th and the 95th percentile."""

MEDIAN_LINK_BYTES_S, LINK_SPREAD = 1.25e6, 0.8
"""10 Mbit/s in the median; a factor of 14 between the 5th and the 95th percentile."""

MEDIAN_DELAY_S, DELAY_SPREAD = 0.02, 0.6
"""One way from a device to the middle of the network; a packet takes the sum of two."""

CONSTRAINED_BYTES_S, STRONG_BYTES_S = 0.4e6, 4e6
"""Uplinks that make a device's class, which weights its rank: below the first, from the second on."""

COLUMNS = ("step_s", "uplink_bytes_s", "downlink_bytes_s", "delay_s")


@dataclass(frozen=True, slots=True)
class Trace:
    """One device: seconds of a local step, bytes per second, seconds to the middle of the network."""

    step_s: float
    uplink_bytes_s: float
    downlink_bytes_s: float
    delay_s: float


def capacity_of(trace: Trace) -> Capacity:
    """The class that an operator would give such a device."""
    if trace.uplink_bytes_s < CONSTRAINED_BYTES_S:
        return Capacity.CONSTRAINED
    return Capacity.STRONG if trace.uplink_bytes_s >= STRONG_BYTES_S else Capacity.NORMAL


def synthetic(devices: int, seed: int) -> list[Trace]:
    """Lognormal devices. The downlink is four times the uplink, as access networks are."""
    random = Random(f"traces {seed}")

    def draw(median: float, spread: float) -> float:
        return median * math.exp(random.gauss(0, spread))

    traces = []
    for _ in range(devices):
        uplink = draw(MEDIAN_LINK_BYTES_S, LINK_SPREAD)
        step, delay = draw(MEDIAN_STEP_S, STEP_SPREAD), draw(MEDIAN_DELAY_S, DELAY_SPREAD)
        traces.append(Trace(step, uplink, 4 * uplink, delay))
    return traces


def read_csv(path: Path, devices: int) -> list[Trace]:
    """Rows with the columns COLUMNS, used in turn when there are fewer than devices. Raises ConfigError."""
    try:
        with path.open(newline="") as file:
            rows = [Trace(*(float(row[name]) for name in COLUMNS)) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"cannot read traces from {path}: {error}", hint=f"a CSV file with the columns {', '.join(COLUMNS)}"
        ) from None
    if not rows or any(min(row.step_s, row.uplink_bytes_s, row.downlink_bytes_s) <= 0 for row in rows):
        raise ConfigError(f"{path} holds no devices, or values that are not above 0", hint="check the file")
    return [rows[index % len(rows)] for index in range(devices)]
