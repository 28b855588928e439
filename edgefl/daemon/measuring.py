"""What `edgefl rtt NODE`, `edgefl members` and `edgefl tree APP` look at: one device, measured now; the devices next to
this one; all of a tree."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from edgefl.daemon.report import contact_document, epsilon_document
from edgefl.errors import TryAgainError, UnreachableError, UsageError
from edgefl.median import median
from edgefl.overlay.game.equilibrium import of_player, total
from edgefl.wire import Contact, node_name, parse_node_name

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon
    from edgefl.overlay import Overlay
    from edgefl.overlay.tree_walk import Seen

PINGS = 5
"""Of one measurement: the minimum is the way itself, what is above it are queues."""

PAUSE_S = 0.05
"""Between pings: one late packet does not delay the next."""

MOST_PINGS = 100

ANSWER_S = 30.0
"""Every ping of the overlay ends before that, answered or not."""

LOOKUP_S = 30.0
WALK_S = 45.0
"""A walk ends by itself before that (edgefl/overlay/tree_walk.py)."""

SHORTEST_PREFIX = 4


async def find_device(daemon: Daemon, name: str) -> Contact:
    """The device whose id begins like this: one in our tables, or (with the whole id) any of the fleet.

    Raises UsageError for what is no id or means several devices, UnreachableError if no such device is alive.
    """
    known = [contact for contact in daemon.overlay.contacts() if node_name(contact.node_id).startswith(name.lower())]
    if len(name) >= SHORTEST_PREFIX and len(known) == 1:
        return known[0]
    if len(known) > 1:
        raise UsageError(f"{name!r} means {len(known)} devices", hint="give more of the id: `edgefl peers` shows them")
    try:
        node_id = parse_node_name(name)
    except ValueError:
        raise UsageError(
            f"{name!r} is no device that is known here",
            hint="give the beginning of an id of `edgefl peers`, or all 16 hexadecimal digits of any device",
        ) from None
    if node_id == daemon.overlay.contact.node_id:
        raise UsageError(f"{name} is this device", hint="ask for another one: `edgefl peers` shows some")
    owner, _ = await daemon.lookup(node_id, LOOKUP_S)
    if owner.node_id != node_id:
        raise UnreachableError(
            f"no device {name} is joined now", hint="see `edgefl status` on that device; a leaf is in nobody's table"
        )
    return owner


async def measure(daemon: Daemon, name: str, count: int = PINGS) -> dict[str, Any]:
    """Ping a device `count` times, one after the other. Milliseconds; `samples_ms` has None for each that was lost.

    Raises as `find_device`, and UnreachableError when no ping was answered.
    """
    if not 1 <= count <= MOST_PINGS:
        raise UsageError(f"{count} pings", hint=f"1 to {MOST_PINGS} are possible")
    contact = await find_device(daemon, name)
    samples = [await _ping(daemon, contact)]
    for _ in range(count - 1):
        await asyncio.sleep(PAUSE_S)
        samples.append(await _ping(daemon, contact))
    answered = [sample for sample in samples if sample is not None]
    if not answered:
        raise UnreachableError(
            f"{contact} answered none of {count} pings", hint="it is down or cut off: `edgefl doctor` there says more"
        )
    overlay = daemon.overlay
    return {
        **contact_document(contact, overlay.rtt_s(contact.node_id)),
        "samples_ms": [_ms(sample) for sample in samples],
        "min_ms": _ms(min(answered)),
        "median_ms": _ms(median(answered)),
        "max_ms": _ms(max(answered)),
        "lost": len(samples) - len(answered),
        "estimate_ms": _ms(overlay.estimate_s(contact.node_id)),
    }


async def _ping(daemon: Daemon, contact: Contact) -> float | None:
    answer: asyncio.Future[float | None] = daemon.loop.create_future()

    def answered(rtt_s: float | None) -> None:
        if not answer.done():
            answer.set_result(rtt_s)

    daemon.guard(daemon.overlay.ping, contact, daemon.effects.now, answered)
    try:
        return await asyncio.wait_for(answer, ANSWER_S)
    except asyncio.TimeoutError:
        return None


async def whole_tree(daemon: Daemon, app: int) -> list[dict[str, Any]]:
    """Every device of the tree that answers, or is named by its parent, as rows with their parents (None: a root).

    Raises TryAgainError when too many such walks go on, or it does not end.
    """
    outcome: asyncio.Future[tuple[Seen, ...]] = daemon.loop.create_future()

    def seen(devices: tuple[Seen, ...]) -> None:
        if not outcome.done():
            outcome.set_result(devices)

    if not daemon.overlay.walk_tree(app, daemon.effects.now, seen):
        raise TryAgainError("other trees are being looked at", hint="try again in half a minute")
    try:
        return [_row(one) for one in await asyncio.wait_for(outcome, WALK_S)]
    except asyncio.TimeoutError:
        raise TryAgainError("the tree was not seen in time", hint="is this device still in it?") from None


def epsilon_of_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all devices that answered and have compared parents, whichever device has asked them."""
    players = [row for row in rows if row["answered"] and row["parent"] is not None and row["cost_s"] > 0]
    return epsilon_document(total(of_player(row["gain_s"], row["cost_s"], row["size_bytes"]) for row in players))


def _row(seen: Seen) -> dict[str, Any]:
    """One device of a tree. Costs are by its own reckoning; None if it did not answer."""
    told = seen.told
    return {
        "node": node_name(seen.contact.node_id),
        "zone": seen.contact.zone,
        "capacity": seen.contact.capacity.name.lower(),
        "parent": None if seen.parent is None else node_name(seen.parent),
        "answered": told is not None,
        "observer": None if told is None else told.observer,
        "cost_s": None if told is None else round(told.cost_s, 6),
        "gain_s": None if told is None else round(told.gain_s, 6),
        "delay_s": None if told is None else round(told.delay_s, 6),
        "size_bytes": None if told is None else told.size_bytes,
        "load_bytes": None if told is None else told.load_bytes,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def members_document(overlay: Overlay) -> list[dict[str, Any]]:
    """This device and its neighbours in both rings: whom it watches, and how they are."""
    zone = {contact.node_id: contact for contact in overlay.zone_leaves()}
    fleet = {contact.node_id: contact for contact in overlay.global_leaves()}
    return [
        {**contact_document(overlay.contact), "rings": ["zone", "global"], "state": "this device"},
        *(
            {
                **contact_document(contact, overlay.rtt_s(node_id)),
                "rings": [name for name, ring in (("zone", zone), ("global", fleet)) if node_id in ring],
                "state": "suspect" if overlay.is_suspect(node_id) else "alive",
            }
            for node_id, contact in sorted((zone | fleet).items())
        ),
    ]
