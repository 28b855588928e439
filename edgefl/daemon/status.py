"""What a daemon says of itself: the document of `edgefl status`, and the line of `systemctl status`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from edgefl import __version__
from edgefl.daemon.report import application_document, plane_document
from edgefl.identity.token import fingerprint
from edgefl.telemetry.price import why_closed
from edgefl.wire import node_name
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon


def status_document(daemon: Daemon) -> dict[str, Any]:
    """Everything that `edgefl status` shows."""
    overlay, fleet = daemon.overlay, daemon.admission.fleet
    contact = overlay.contact
    problems = [f"{error}" for error in daemon.internal_errors]
    if daemon.disk.problem is not None:
        problems.append(f"{daemon.disk.problem.cause} (next: {daemon.disk.problem.hint})")
    problems += [
        f"application {app.manifest.name} is of another zone than this device is in now: it has left it"
        for app in daemon.learning.applications.values()
        if app.manifest.scope is Scope.ZONE and app.manifest.zone != contact.zone
    ]
    problems += [error.cause for error in daemon.training.last_error.values()]
    problems += daemon.whereabouts.problems()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "node": node_name(contact.node_id),
        "address": str(contact).partition("@")[2],
        "fleet": fingerprint(fleet) if fleet is not None else None,
        "state": "joined" if overlay.joined else "joining" if fleet is not None else "waiting for approval",
        "ready": daemon.ready,
        "site": daemon.settings.site,
        "zone": contact.zone,
        "zone_chosen": overlay.zones(daemon.effects.now).chosen,
        "incarnation": contact.incarnation,
        "role": contact.role.name.lower(),
        "profile": daemon.settings.profile,
        "capacity": daemon.whereabouts.capacity_document(),
        "reachability": daemon.whereabouts.document(),
        "uptime_s": round(daemon.loop.time() - daemon.started_at, 1),
        "contacts": len(overlay.contacts()),
        "zone_ring": [node_name(peer.node_id) for peer in overlay.zone_leaves()],
        "global_ring": [node_name(peer.node_id) for peer in overlay.global_leaves()],
        "data": dict(daemon.effects.data),
        "applications": [application_document(app, overlay) for app in daemon.learning.applications.values()],
        "pending": len(daemon.admission.pending),
        "load": daemon.load.as_dict() if daemon.load is not None else None,
        "limits": daemon.budget.document(daemon.effects.now),
        "routing": _routing(daemon),
        "traffic": dict(daemon.transport.counters),
        "plane": plane_document(daemon.transport, daemon.lag),
        "counters": dict(overlay.counters),
        "problems": problems,
    }


def _routing(daemon: Daemon) -> dict[str, Any]:
    """This device as a parent in the routing game: what it costs, and what it has promised."""
    price, carrying = daemon.overlay.price, daemon.carriage.s_per_byte
    return {
        "rule": daemon.settings.rule,
        "seconds_per_mb": round(price.s_per_byte * 1e6, 6),
        "processor_seconds_per_mb": None if carrying is None else round(carrying * 1e6, 6),
        "penalty_s": round(price.penalty_s, 3),
        "takes_children": not price.closed,
        "why_not": why_closed(daemon.load) if daemon.load is not None else None,
        "promised_bytes": daemon.overlay.promised_bytes,
        "site_seconds_per_mb": round(price.site_s_per_byte * 1e6, 6),
        "site_promised_bytes": daemon.overlay.site_load_bytes,
    }


def summary(daemon: Daemon) -> str:
    """One line for `systemctl status`."""
    if not daemon.overlay.joined:
        waiting = daemon.admission.fleet is None
        return "waiting for approval by the fleet's owner" if waiting else "looking for the fleet"
    rounds = [
        f"{a.manifest.name} round {a.round} of {a.manifest.rounds}" for a in daemon.learning.applications.values()
    ]
    return f"{len(daemon.overlay.contacts())} peers; {', '.join(rounds) or 'no applications'}"
