"""Network coordinates: an estimate of the RTT to a device that was never measured (Vivaldi, 3D and a height).

Every measured RTT pulls a device's coordinate towards or away from that of the measured one, weighted by how sure both
are. Estimates are off by 17 % in the median (overlay study 1.4), so they only sort whom to ping first: no zone and no
place in a table is ever decided by them.

A liar can claim any coordinate, so nothing it says moves us far: a claim is clamped by its packing to +-3.3 s, a step
to 50 ms, and a single measurement to the estimate's own order of magnitude. (Dabek et al., SIGCOMM 2004.)
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from random import Random

COORDINATE_BYTES = 8
"""Three axes in 0.1 ms (16 bits each), height in ms, error in 1/255."""

GAIN = 0.25
"""How much one measurement weighs at most; c_e and c_c of the paper."""

MAX_STEP_S = 0.05
"""What one measurement moves at most: a liar needs as many answers as an honest device has neighbours to be felt."""

MAX_RTT_S = 2.0
"""A longer one measures a busy device, not the way to it."""

_PACKED = struct.Struct(">hhhBB")
_AXIS_S, _HEIGHT_S, _ERROR = 1e-4, 1e-3, 1 / 255
_BOUNDS = (*[(-0x8000, 0x7FFF)] * 3, (0, 255), (0, 255))
_COARSE = struct.Struct(">bbb")
_COARSE_BOUNDS = ((-128, 127),) * 3
_COARSE_S = 2e-3
COARSE_BYTES = 3


class Coordinate(NamedTuple):
    """A place in the model: seconds on each axis, the height of the device's own access leg, and how wrong it is."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    height: float = 0.0
    error: float = 1.0

    def rtt_s(self, other: Coordinate) -> float:
        """The estimated RTT between two coordinates, in seconds."""
        flat = math.dist((self.x, self.y, self.z), (other.x, other.y, other.z))
        return flat + self.height + other.height

    def pack(self) -> bytes:
        """8 bytes; what does not fit is clamped."""
        x_s, y_s, z_s, height_s, error = self
        return _pack(
            _PACKED, _BOUNDS, (x_s / _AXIS_S, y_s / _AXIS_S, z_s / _AXIS_S, height_s / _HEIGHT_S, error / _ERROR)
        )

    def coarse(self) -> bytes:
        """3 bytes: the axes in steps of 2 ms, up to a quarter of a second; enough to sort by."""
        return _pack(_COARSE, _COARSE_BOUNDS, (self.x / _COARSE_S, self.y / _COARSE_S, self.z / _COARSE_S))


def unpack_coordinate(data: bytes) -> Coordinate:
    """The coordinate in 8 bytes; any 8 bytes are one."""
    x, y, z, height, error = _PACKED.unpack(data)
    return Coordinate(x * _AXIS_S, y * _AXIS_S, z * _AXIS_S, height * _HEIGHT_S, error * _ERROR)


def coarse_of(packed: bytes | None) -> bytes:
    """The 3 bytes for a coordinate in 8 (or for none)."""
    return bytes(COARSE_BYTES) if packed is None else unpack_coordinate(packed).coarse()


def unpack_coarse(data: bytes) -> Coordinate:
    """The coordinate in 3 bytes; its height is not known."""
    x, y, z = _COARSE.unpack(data)
    return Coordinate(x * _COARSE_S, y * _COARSE_S, z * _COARSE_S)


def moved(own: Coordinate, other: Coordinate, rtt_s: float, random: Random) -> Coordinate:
    """Our coordinate after measuring `rtt_s` to a device that says it is at `other`."""
    if not 0.0 < rtt_s <= MAX_RTT_S:
        return own
    weight = own.error / max(1e-9, own.error + other.error)
    estimate_s = own.rtt_s(other)
    wrong = min(1.0, abs(estimate_s - rtt_s) / rtt_s)
    error = min(1.0, max(0.01, own.error + GAIN * weight * (wrong - own.error)))
    step_s = max(-MAX_STEP_S, min(MAX_STEP_S, GAIN * weight * (rtt_s - estimate_s)))
    away = [own.x - other.x, own.y - other.y, own.z - other.z]
    length = math.hypot(*away)
    if length < 1e-6:
        away = [random.gauss(0.0, 1.0) for _ in range(3)]
        length = math.hypot(*away)
    heights = own.height + other.height
    rise = step_s * heights / estimate_s if estimate_s > 0 else step_s * 0.1
    x, y, z = (axis + step_s * part / length for axis, part in zip((own.x, own.y, own.z), away, strict=True))
    return Coordinate(x, y, z, max(1e-4, own.height + rise), error)


def _pack(form: struct.Struct, bounds: tuple[tuple[int, int], ...], values: tuple[float, ...]) -> bytes:
    try:
        return form.pack(*map(round, values))
    except struct.error:
        return form.pack(
            *[min(max(round(value), low), high) for value, (low, high) in zip(values, bounds, strict=True)]
        )
