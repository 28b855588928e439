"""What the control socket can ask of a running daemon: one method a verb."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.daemon.control import Verb
from edgefl.daemon.create import create_application
from edgefl.daemon.examination import examination
from edgefl.daemon.measuring import PINGS, epsilon_of_rows, measure, members_document, whole_tree
from edgefl.daemon.report import (
    app_name,
    application_document,
    contact_document,
    list_document,
    record_document,
    zones_document,
)
from edgefl.daemon.workplace import export_model
from edgefl.errors import TryAgainError, UsageError
from edgefl.identity.certificate import DeviceCertificate
from edgefl.identity.revocation import pack_revocations
from edgefl.identity.signing import sign_advert
from edgefl.learning.forest.kept import KEPT
from edgefl.wire import decode_record, encode_record, node_name, parse_node_name
from edgefl.wire.application import Advert, AppState, pack_advert

if TYPE_CHECKING:
    from edgefl.daemon.daemon import Daemon
    from edgefl.learning.application import Application

POLL_S = 0.1
"""How often a watching command looks for news: well below what a person sees, and free when nobody watches."""

LOOKUP_TIMEOUT_S = 30.0

PULL_CHUNK_BYTES = 256 * 1024


class Verbs:
    """Bound to one daemon. Results are JSON documents."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def table(self) -> dict[str, Verb]:
        """Verb name -> method, for the control server."""
        return {
            "status": self.status,
            "doctor": self.doctor,
            "peers": self.peers,
            "members": self.members,
            "zones": self.zones,
            "rtt": self.rtt,
            "lookup": self.lookup,
            "tree": self.tree,
            "wait": self.wait,
            "fleet.pending": self.pending,
            "fleet.approve": self.approve,
            "fleet.revocations": self.revocations,
            "fleet.revoke": self.revoke,
            "app.create": self.create,
            "app.list": self.list_applications,
            "app.show": self.show,
            "app.watch": self.watch,
            "app.state": self.set_state,
            "app.history": self.history,
            "app.pull": self.pull,
        }

    async def status(self) -> dict[str, Any]:
        return self._daemon.status()

    async def doctor(self, serial: str = "") -> dict[str, Any]:
        """What `edgefl doctor` asks a running daemon; `serial` is that of a token."""
        return await examination(self._daemon, serial)

    async def peers(self) -> list[dict[str, Any]]:
        overlay = self._daemon.overlay
        return [contact_document(contact, overlay.rtt_s(contact.node_id)) for contact in overlay.contacts()]

    async def members(self) -> dict[str, Any]:
        """Our neighbours in both rings, and how many devices the fleet has, about."""
        overlay = self._daemon.overlay
        estimate = overlay.zones(self._daemon.effects.now).fleet
        return {"fleet_estimate": estimate, "members": members_document(overlay)}

    async def rtt(self, node: str, count: int = PINGS) -> dict[str, Any]:
        """Measure the round-trip time to a device, by the beginning of its id."""
        return await measure(self._daemon, node, count)

    async def zones(self) -> dict[str, Any]:
        """Our zone, and the zones known here."""
        return zones_document(self._daemon.overlay.zones(self._daemon.effects.now))

    async def lookup(self, key: str) -> dict[str, Any]:
        """Who is nearest to a key of 16 hexadecimal digits?"""
        try:
            number = parse_node_name(key)
        except ValueError:
            raise UsageError(f"{key!r} is no key", hint="a key has 16 hexadecimal digits, like a node id") from None
        owner, hops = await self._daemon.lookup(number, LOOKUP_TIMEOUT_S)
        return {"key": key, "owner": contact_document(owner), "hops": hops}

    async def tree(self, app: str, whole: bool = False) -> dict[str, Any]:
        """This device's surroundings in an application's tree; `whole`: and all of the tree, as far as it answers."""
        found = self._application(app)
        view = self._daemon.overlay.tree(found.id)
        document = application_document(found, self._daemon.overlay)
        children = view.children if view is not None else ()
        document["branches"] = [
            {
                **contact_document(child.contact, self._daemon.overlay.rtt_s(child.contact.node_id)),
                "observer": child.observer,
                "height": child.height,
                "members": child.members,
            }
            for child in children
        ]
        if whole:
            document["devices"] = rows = await whole_tree(self._daemon, found.id)
            document["epsilon_of_all"] = epsilon_of_rows(rows)
            document["edges"] = [
                {"child": row["node"], **{name: row[name] for name in ("parent", "cost_s", "gain_s", "size_bytes")}}
                for row in rows
                if row["parent"] is not None
            ]
        return document

    async def wait(self, until: str, app: str | None = None, round: int = 0, timeout_s: float = 60.0) -> dict[str, Any]:
        """Return when the daemon is ready, or an application has reached a round or its end."""

        def reached() -> bool:
            if until == "ready":
                return self._daemon.ready
            if app is None:
                chosen = list(self._daemon.learning.applications.values())
            else:
                chosen = self._matches(app)
            if until == "done":
                return bool(chosen) and all(one.ledger.finished for one in chosen)
            return bool(chosen) and all(one.round >= round or one.ledger.finished for one in chosen)

        deadline = asyncio.get_running_loop().time() + timeout_s
        while not reached():
            if asyncio.get_running_loop().time() >= deadline:
                raise TryAgainError(f"not {until} after {timeout_s:g} s", hint="`edgefl status` shows how far it is")
            await asyncio.sleep(POLL_S)
        return self._daemon.status()

    async def pending(self) -> list[dict[str, Any]]:
        """Devices that wait for the fleet owner's approval."""
        return [
            {
                "node": node_name(one.node_id),
                "host": one.host,
                "site": one.site,
                "request": base64.b64encode(encode_record(one)).decode(),
            }
            for one in self._daemon.admission.pending
        ]

    async def approve(self, certificate: str) -> dict[str, Any]:
        """Hand out a certificate (base64 of its record) at the device's next knock."""
        self._daemon.admission.approve(decode_record(DeviceCertificate, base64.b64decode(certificate)))
        return {}

    async def revocations(self) -> dict[str, Any]:
        """The newest list of revocations known here (base64), for the fleet's owner to add to."""
        known = self._daemon.admission.revocations
        return {"revocations": base64.b64encode(pack_revocations(known) if known is not None else b"").decode()}

    async def revoke(self, revocations: str) -> dict[str, Any]:
        """Take over a newer list, and pass it on."""
        self._daemon.admission.merge_revocations(base64.b64decode(revocations))
        return {}

    async def create(self, directory: str, **options: Any) -> dict[str, Any]:
        """Make an application of an artifact directory, and announce it."""
        advert = await create_application(self._daemon, Path(directory), options)
        return {"id": app_name(advert.decode_manifest().app_id), "name": advert.decode_manifest().name}

    async def list_applications(self) -> list[dict[str, Any]]:
        return list_document(self._daemon.learning, self._daemon.overlay)

    async def show(self, app: str) -> dict[str, Any]:
        found = self._application(app)
        document = application_document(found, self._daemon.overlay)
        document["history"] = [record_document(record) for record in found.ledger.history.all()]
        return document

    async def history(self, app: str) -> list[dict[str, Any]]:
        return [record_document(record) for record in self._application(app).ledger.history.all()]

    async def watch(self, app: str) -> AsyncIterator[dict[str, Any]]:
        """An event at every change of an application, until it has finished."""
        found = await self._observed(app)
        shown = None
        while True:
            document = application_document(found, self._daemon.overlay)
            document["history"] = [record_document(record) for record in found.ledger.history.tail(4)]
            if document != shown:
                shown = document
                yield document
            if found.ledger.finished:
                return
            await asyncio.sleep(POLL_S)

    async def set_state(self, app: str, state: str) -> dict[str, Any]:
        """Pause, resume or stop an application of one's own."""
        found = self._application(app)
        daemon = self._daemon
        if found.manifest.owner != daemon.keys.public:
            raise UsageError(
                f"application {found.manifest.name!r} belongs to another device",
                hint="only the device that created it can pause, resume or stop it",
            )
        advert = sign_advert(
            daemon.keys, found.manifest, found.advert.version + 1, AppState[state.upper()], daemon.overlay.contact
        )
        daemon.announce(advert)
        await daemon.remember_application(found)
        return application_document(found, daemon.overlay)

    async def pull(self, app: str, best: bool = False) -> AsyncIterator[dict[str, Any]]:
        """The application's newest (or best) model as a plain ONNX file, in pieces of base64."""
        found = await self._observed(app)
        daemon = self._daemon
        if found.ledger.model is None:
            raise TryAgainError(
                f"application {found.manifest.name!r} has no model here yet", hint="wait for its first round"
            )
        if found.observer and not found.ledger.finished:
            raise TryAgainError(
                f"application {found.manifest.name!r} is still training, and this device only watches it",
                hint="pull it from a device that trains, or wait: edgefl wait done",
            )
        chosen, number = found.ledger.model, found.ledger.round
        if best:
            if found.ledger.best is None:
                raise TryAgainError(
                    f"this device does not hold the best model of {found.manifest.name!r}",
                    hint="until the end the root and its runners-up hold it, see `edgefl app show`, and all devices "
                    "afterwards; the application must have been created with --keep-best or --patience",
                )
            chosen, number = found.ledger.best.model, found.ledger.best.round
        model = await daemon.transport.fetch(chosen, (), max_bytes=chosen.size)
        directory = daemon.disk.store.artifact_path(found.id)
        content = await daemon.disk.run(
            lambda store: export_model(directory, found.manifest, model, store.read_memory(found.id, KEPT))
        )
        yield {"size": len(content), "round": number, "finished": found.ledger.finished}
        for at in range(0, len(content), PULL_CHUNK_BYTES):
            yield {"data": base64.b64encode(content[at : at + PULL_CHUNK_BYTES]).decode()}

    def _matches(self, name: str) -> list[Application]:
        return [
            app
            for app in self._daemon.learning.applications.values()
            if name == app.manifest.name or (len(name) >= 4 and app_name(app.id).startswith(name))
        ]

    def _application(self, name: str) -> Application:
        """The application with this name, id, or beginning of an id. Raises UsageError."""
        found = self._matches(name)
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(app_name(app.id) for app in found)
            raise UsageError(f"{name!r} means several applications: {ids}", hint="give more of the id")
        raise UsageError(f"this device takes part in no application {name!r}", hint="see `edgefl app list`")

    async def _observed(self, name: str) -> Application:
        """As `_application`; an application that this device does not take part in is watched from now on."""
        if not self._matches(name):
            for advert in self._daemon.overlay.adverts():
                manifest = advert.decode_manifest()
                if name == manifest.name or app_name(manifest.app_id).startswith(name):
                    await self._observe(advert)
        return self._application(name)

    async def _observe(self, advert: Advert) -> None:
        daemon = self._daemon
        app = daemon.learning.take_part(advert, daemon.effects.now, observer=True)
        if app is not None:
            await daemon.disk.run(
                lambda store: store.save_application(app.id, pack_advert(advert), observer=True, owner=False)
            )
