"""The cost of a parent, and the potential that every worthwhile move lowers (overlay study, 2.1).

    c_i(p) = r_ip + b_p + a_p L_p + A_g L_g + lambda D_p            in seconds
    Phi    = 1/2 sum_p a_p (L_p^2 + sum_{i on p} s_i^2) + (the same over sites) + sum_i s_i (r_i + b_p + lambda D_p)

r: RTT to the parent. b: its penalty. a: its seconds per byte. L: the bytes promised at it per round, over all
applications, our own s_i included. A_g, L_g: the same of its site's uplink, which devices of one site share. D: its
advertised delay to the root. An affine weighted congestion game: while a, b, D stand still, a move of player i changes
Phi by exactly s_i times the change of its cost (Rosenthal 1973; weighted affine: Fotakis, Kontogiannis, Spirakis 2005).
So every sequence of moves that each gain more than eta ends, and ends where nobody gains more than eta.

All functions take floats or NumPy arrays (that broadcast) alike, which is why their types say Any.
"""

from __future__ import annotations

from typing import Any


def seconds_per_byte(serving_bytes_s: Any, aggregation_s_per_byte: Any, background: Any) -> Any:
    """a_p: one byte through the uplink as measured, and through the aggregation on the share of the processor that
    other work leaves. `background` is below 1."""
    return 1.0 / serving_bytes_s + aggregation_s_per_byte / (1.0 - background)


def cost_s(
    *,
    rtt_s: Any,
    penalty_s: Any,
    s_per_byte: Any,
    load_bytes: Any,
    delay_s: Any,
    delay_weight: float,
    site_s: Any = 0.0,
) -> Any:
    """c_i(p). `load_bytes` includes the player's own; `site_s` is A_g L_g."""
    return rtt_s + penalty_s + s_per_byte * load_bytes + site_s + delay_weight * delay_s


def site_s(*, s_per_byte: Any, load_bytes: Any, size_bytes: Any, counted: Any) -> Any:
    """A_g L_g for a stream from outside the site. `counted`: `load_bytes` has the player's own already, since its
    present parent is at that site too."""
    return s_per_byte * (load_bytes + size_bytes * (1 - counted))


def margin_s(now_s: Any, eta_s: float, eta_share: float) -> Any:
    """What a move has to gain: the larger of `eta_s` and the share of the present cost."""
    share_s = eta_share * now_s
    return share_s + (eta_s - share_s) * (share_s < eta_s)


def potential(*, s_per_byte: Any, load_bytes: Any, squared_sizes: Any, size_bytes: Any, constant_s: Any) -> float:
    """Phi in byte-seconds. Over resources (arrays): seconds per byte, load, sum of the squared sizes of the players on
    it; over players: size, and the part of the cost that depends on no load (r + b + lambda D)."""
    shared = 0.5 * (s_per_byte * (load_bytes * load_bytes + squared_sizes)).sum()
    return float(shared + (size_bytes * constant_s).sum())
