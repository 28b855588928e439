"""What this device costs those who send through it: the two numbers and the refusal that it advertises in the game.

Seconds per byte from the measured serving rate and the background load; a penalty in seconds for memory pressure, for
heat and for running on battery; and a hard refusal where more work would do harm. Rates are quantised to an eighth of
an octave, so that an advert changes only when it is worth a message (overlay study, 2.3 and 2.6).
"""

from __future__ import annotations

import math

from edgefl.overlay.game.ledger import Price
from edgefl.overlay.game.model import seconds_per_byte
from edgefl.telemetry.load import Load

UNMEASURED_BYTES_S = 2e6
"""A device that has served nobody yet: 16 Mbit/s, the uplink of a household."""

UNMEASURED_S_PER_BYTE = 2e-9
"""Decrypting and adding a byte on one idle core, until this device has measured what it takes (carriage.py)."""

MOST_BACKGROUND = 0.95
"""A processor that is always busy still gets to us now and then."""

BUSY = 0.7
"""Below this use of the processor a low frequency is thrift, not throttling."""

LOW_BATTERY, FULL_MEMORY, OVERHEATED_C, WARM_C = 0.15, 0.92, 85.0, 75.0
"""No children below or above these; a Raspberry Pi slows down from 80 degrees on."""

BATTERY_S, PRESSURE_S, HEAT_S = 0.5, 2.0, 0.5
"""Penalties: on battery; with every process waiting for memory; at the edge of overheating."""

STEPS = 8
"""Per octave."""


def quantised(value: float) -> float:
    """The nearest power of two in eighths; 0 stays 0."""
    return 2.0 ** (round(STEPS * math.log2(value)) / STEPS) if value > 0 else 0.0


def price_of(
    load: Load, serving_bytes_s: float | None, carrying_s_per_byte: float | None = None, *, site_bytes_s: float = 0.0
) -> Price:
    """From the last sample, the bytes a second that this device's uplink has really delivered and the processor time
    that a byte takes (None: not measured yet), and the rate of the line that its site shares (0: none)."""
    rate = max(serving_bytes_s or UNMEASURED_BYTES_S, 1.0)
    kappa = UNMEASURED_S_PER_BYTE if carrying_s_per_byte is None else carrying_s_per_byte
    busy = load.cpu > BUSY
    throttled = min(1.0, load.frequency_share) if load.frequency_share and busy else 1.0
    idle_share = max(1 - MOST_BACKGROUND, (1 - load.background_cpu) * throttled)
    penalty_s = PRESSURE_S * (load.memory_pressure or 0.0)
    if load.on_mains is False:
        penalty_s += BATTERY_S
    if load.temperature_c is not None and load.temperature_c > WARM_C:
        penalty_s += HEAT_S * min(1.0, (load.temperature_c - WARM_C) / (OVERHEATED_C - WARM_C))
    return Price(
        quantised(seconds_per_byte(rate, kappa, 1 - idle_share)),
        quantised(penalty_s),
        why_closed(load) is not None,
        quantised(1.0 / site_bytes_s) if site_bytes_s > 0 else 0.0,
    )


def why_closed(load: Load) -> str | None:
    """The reason why this device takes no children, for people; None if it does."""
    if load.battery is not None and load.battery < LOW_BATTERY and load.on_mains is False:
        return f"the battery is at {load.battery:.0%}"
    if load.memory > FULL_MEMORY:
        return f"{load.memory:.0%} of the memory is in use"
    if load.temperature_c is not None and load.temperature_c >= OVERHEATED_C:
        return f"it is at {load.temperature_c:.0f} °C"
    return None
