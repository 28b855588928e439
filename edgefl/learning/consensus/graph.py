"""Who exchanges with whom: devices are 0 to n - 1, a round has its own edges.

`outgoing(device, round)` are those to whom it sends, `incoming(device, round)` those from whom it waits for a model.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from edgefl.declared import dataclass

if TYPE_CHECKING:
    from random import Random


class Graph(Protocol):
    """Edges of each round."""

    def outgoing(self, device: int, round_: int) -> tuple[int, ...]: ...
    def incoming(self, device: int, round_: int) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """An undirected graph, the same in every round."""

    neighbours: tuple[tuple[int, ...], ...]

    def outgoing(self, device: int, round_: int) -> tuple[int, ...]:
        return self.neighbours[device]

    def incoming(self, device: int, round_: int) -> tuple[int, ...]:
        return self.neighbours[device]


@dataclass(frozen=True, slots=True)
class OnePeerExponential:
    """Each device sends to the one 1, 2, 4 … places on, in turn; after log2(n) rounds all know of all.

    Source: Ying et al., Exponential Graph is Provably Efficient for Decentralized Deep Training, 2021.
    """

    devices: int

    def _hop(self, round_: int) -> int:
        return 1 << round_ % max(1, (self.devices - 1).bit_length())

    def outgoing(self, device: int, round_: int) -> tuple[int, ...]:
        return ((device + self._hop(round_)) % self.devices,) if self.devices > 1 else ()

    def incoming(self, device: int, round_: int) -> tuple[int, ...]:
        return ((device - self._hop(round_)) % self.devices,) if self.devices > 1 else ()


@dataclass(frozen=True, slots=True)
class Gossip:
    """Each device sends to one at random, and waits for nobody."""

    devices: int
    seed: int

    def outgoing(self, device: int, round_: int) -> tuple[int, ...]:
        if self.devices < 2:
            return ()
        digest = hashlib.blake2b(f"{self.seed} {device} {round_}".encode(), digest_size=8).digest()
        other = int.from_bytes(digest, "big") % (self.devices - 1)
        return (other + (other >= device),)

    def incoming(self, device: int, round_: int) -> tuple[int, ...]:
        return ()


def circulant(devices: int, degree: int) -> Fixed:
    """A ring for degree 2; a regular graph of chords 1 … degree / 2 in general. Raises ValueError."""
    if degree < 2 or degree % 2 or degree >= devices:
        raise ValueError(f"no {degree}-regular ring of chords of {devices} devices: even, at least 2, below devices")
    steps = [step for half in range(1, degree // 2 + 1) for step in (half, -half)]
    return Fixed(tuple(tuple(sorted({(device + step) % devices for step in steps})) for device in range(devices)))


def regular(devices: int, degree: int, random: Random) -> Fixed:
    """A random regular graph: the ring of chords under a random order of the devices."""
    order = list(range(devices))
    random.shuffle(order)
    ring = circulant(devices, degree).neighbours
    neighbours: list[tuple[int, ...]] = [()] * devices
    for place, device in enumerate(order):
        neighbours[device] = tuple(sorted(order[other] for other in ring[place]))
    return Fixed(tuple(neighbours))


def erdos_renyi(devices: int, mean_degree: float, random: Random) -> Fixed:
    """Every pair with the same probability; a ring keeps it connected."""
    edges = set()
    probability = mean_degree / max(1, devices - 1)
    for a in range(devices):
        edges.add((a, (a + 1) % devices))
        edges.update((a, b) for b in range(a + 1, devices) if random.random() < probability)
    sets: list[set[int]] = [set() for _ in range(devices)]
    for a, b in edges:
        if a != b:
            sets[a].add(b)
            sets[b].add(a)
    return Fixed(tuple(tuple(sorted(one)) for one in sets))
