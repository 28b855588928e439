"""What `edgefl status` and the application commands show: the daemon's state as plain documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.learning.forest.epoch import epoch_number
from edgefl.learning.metrics import means
from edgefl.learning.node import Learning
from edgefl.overlay.game.equilibrium import BINS_S, Epsilon
from edgefl.wire import Contact, node_name
from edgefl.wire.application import AppState
from edgefl.wire.learning import RoundRecord

if TYPE_CHECKING:
    from edgefl.learning.application import Application
    from edgefl.overlay import Overlay, ZoneReport
    from edgefl.telemetry.lag import LoopLag
    from edgefl.transport import Transport


def app_name(app_id: int) -> str:
    """An application id as people read it: 16 hexadecimal digits."""
    return f"{app_id:016x}"


def contact_document(contact: Contact, rtt_s: float | None = None) -> dict[str, Any]:
    """A device as it is known here."""
    return {
        "node": node_name(contact.node_id),
        "address": str(contact).partition("@")[2],
        "zone": contact.zone,
        "incarnation": contact.incarnation,
        "capacity": contact.capacity.name.lower(),
        "role": contact.role.name.lower(),
        "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 3),
    }


def zones_document(report: ZoneReport) -> dict[str, Any]:
    """What `edgefl zones` shows. Members, anchors and RTT are as of this device's last look at the zone, if any."""
    return {
        "zone": report.zone,
        "method": report.method.value,
        "chosen": report.chosen,
        "fleet_estimate": report.fleet,
        "zones": [
            {
                "zone": zone.label,
                "own": zone.label == report.zone,
                "members": None if zone.view is None else zone.view.members,
                "anchors": [node_name(anchor.node_id) for anchor in zone.anchors],
                "rtt_ms": None if zone.view is None or zone.view.rtt_s is None else round(zone.view.rtt_s * 1000, 3),
            }
            for zone in report.known
        ],
    }


def record_document(record: RoundRecord) -> dict[str, Any]:
    """One row of the history. Metrics are weighted means: `loss` and `accuracy` of the round's model on held-back data,
    `train_loss` of the training that led to it. `budget_s`: the time that the round was given; `stalest`: the age of
    its oldest delta, in rounds; `epsilon`: what devices could still have gained by other parents, as a share of what
    their uplinks cost."""
    found = {name: round(value, 6) for name, value in means(record.metrics).items()}
    return {
        "round": record.round,
        "epoch": epoch_number(record.epoch),
        "participants": record.participants,
        "samples": record.samples,
        "seconds": round(record.seconds, 3),
        "bytes": record.bytes,
        "attempts": record.attempts,
        "members": record.members,
        "budget_s": round(record.budget_s, 3),
        "stalest": record.stalest,
        "dropped": record.dropped,
        **found,
        **({"epsilon": found["train_epsilon"]} if "train_epsilon" in found else {}),
    }


def epsilon_document(epsilon: Epsilon) -> dict[str, Any]:
    """What the devices below (at the root: all of the application) could still gain by other parents; an estimate."""
    return {
        "share": round(epsilon.share, 6),
        "max_s": round(epsilon.max_s, 4),
        "devices": epsilon.players,
        "histogram": {"upto_s": list(BINS_S), "devices": list(epsilon.bins)},
        "meaning": epsilon.sentence(),
    }


def application_document(app: Application, overlay: Overlay) -> dict[str, Any]:
    """One application as this device takes part in it."""
    tree = overlay.tree(app.id)
    history = app.ledger.history.all()
    return {
        "id": app_name(app.id),
        "name": app.manifest.name,
        "owner": app.manifest.owner.hex(),
        "data": app.manifest.data,
        "policies": app.manifest.policies,
        "together": app.manifest.together,
        "wanted": app.advert.state.name.lower(),
        "stage": app.stage.value,
        "phase": app.phase,
        "problem": app.refusal or app.problem,
        "topology": app.manifest.topology.name.lower(),
        "round": app.round,
        "rounds": app.manifest.rounds,
        "epoch": epoch_number(app.ledger.epoch),
        "finished": app.ledger.finished,
        "best": None if app.ledger.best is None else {"round": app.ledger.best.round, "value": app.ledger.best.value},
        "is_root": tree is not None and tree.is_root,
        "root": node_name(tree.root) if tree is not None and tree.root else None,
        "parent": node_name(tree.parent.node_id) if tree is not None and tree.parent is not None else None,
        "children": [node_name(child.contact.node_id) for child in tree.children] if tree is not None else [],
        "partners": [node_name(contact.node_id) for contact in app.partners],
        "members": tree.members if tree is not None else 0,
        "height": tree.height if tree is not None else 0,
        "depth": tree.depth if tree is not None else 0,
        "epsilon": epsilon_document(overlay.epsilon(app.id)),
        "newest": record_document(history[-1]) if history else None,
        "metrics": _newest_metrics(history),
        "counters": dict(app.counters),
    }


def plane_document(transport: Transport, lag: LoopLag) -> dict[str, Any]:
    """How models move through this device: bytes a second that its uplink delivered while something waited (None: not
    measured yet), the rate that was set (0: none), what it may hold, the loop's lag, and who sent wrong data."""
    rate = transport.serving_rate()
    return {
        "serving_rate_bytes_s": None if rate is None else round(rate),
        "uplink_limit_bytes_s": round(transport.uplink.limit_bytes_s),
        "memory_limit_bytes": transport.limits.total_bytes,
        "loop_lag": lag.document(),
        "wrong_data": transport.wrong_data(),
    }


def _newest_metrics(history: tuple[RoundRecord, ...]) -> dict[str, float]:
    """The metrics of the newest model that has been evaluated."""
    for record in reversed(history):
        found = {name: value for name, value in means(record.metrics).items() if not name.startswith("train_")}
        if found:
            return {"round": record.round, **found}
    return {}


def list_document(learning: Learning, overlay: Overlay) -> list[dict[str, Any]]:
    """Every application that this device has heard of, with why it does not take part where it does not."""
    rows = [application_document(app, overlay) for app in learning.applications.values()]
    known = set(learning.applications)
    for advert in overlay.adverts():
        manifest = advert.decode_manifest()
        if manifest.app_id not in known:
            rows.append(
                {
                    "id": app_name(manifest.app_id),
                    "name": manifest.name,
                    "owner": manifest.owner.hex(),
                    "data": manifest.data,
                    "policies": manifest.policies,
                    "wanted": AppState(advert.state).name.lower(),
                    "stage": "ignored",
                    "problem": learning.ignored.get(manifest.app_id, ""),
                    "rounds": manifest.rounds,
                }
            )
    return rows
