"""The composition root: builds the parts of one daemon and hands them to each other.

Order of a start: state directory (locked), keys, admission, transport (door and ZeroMQ ports open), overlay and
learning, the applications from before, the control socket; then the way into the fleet (arrival.py).

A stop (SIGTERM, SIGINT) says goodbye to the neighbours and leaves everything on disk; a restart goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.config import Settings, split_address
from edgefl.daemon.addresses import AddressSource, LocalAddresses
from edgefl.daemon.arrival import Arrival
from edgefl.daemon.budget import Budget
from edgefl.daemon.control import ControlServer
from edgefl.daemon.discovery import Discovery
from edgefl.daemon.disk import Disk
from edgefl.daemon.effects import LoopEffects
from edgefl.daemon.policies import Policies
from edgefl.daemon.status import status_document, summary
from edgefl.daemon.supervisor import Supervisor
from edgefl.daemon.training import Training
from edgefl.daemon.verbs import Verbs
from edgefl.daemon.whereabouts import Whereabouts
from edgefl.effects import TimerKey
from edgefl.errors import EdgeflError, StorageError, TryAgainError
from edgefl.identity.admission import Admission, AdmissionState
from edgefl.identity.keys import load_or_create
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.signing import verify_advert
from edgefl.learning.fit import check_fits
from edgefl.learning.node import Decision, Learning, Part
from edgefl.limits import parse_rate
from edgefl.overlay import PROFILES, Overlay, ZoneMethod
from edgefl.overlay.game.rules import Rule
from edgefl.store import Store
from edgefl.telemetry.carriage import Carriage
from edgefl.telemetry.lag import LoopLag
from edgefl.telemetry.load import SAMPLE_S, Load, LoadSensor
from edgefl.telemetry.memory import memory_limit
from edgefl.telemetry.price import price_of
from edgefl.transport import Transport, limits_for
from edgefl.wire import Contact, Message, node_name
from edgefl.wire.application import Advert, Manifest, pack_advert, unpack_advert
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.learning.application import Application  # numpy comes with it: not before there is an application

log = logging.getLogger("edgefl.daemon")

HOUSEKEEPING_S = 5.0

CONTACTS_S, FEW_CONTACTS, FEW_CONTACTS_S = 60.0, 4, 0.5
"""Contacts are written to disk at most every minute; while there are only a few, soon: a device must find back after a
power cut in its first seconds as well."""

GOODBYE_S = 0.3
"""What a stopping daemon waits for its farewells to leave the machine."""

MAX_INTERNAL_ERRORS = 20
"""Tracebacks written to the log; a bug that repeats must not fill the disk."""


class Daemon:
    """One device of a fleet. `run` returns when the daemon was stopped, or raises what made it impossible to go on."""

    def __init__(self, state: Path, socket_path: Path, settings: Callable[[bytes | None], Settings]) -> None:
        """`settings` is given what the state directory remembers, and returns what shall hold now."""
        self.socket_path = socket_path
        self.store = Store(state)
        self._read_settings = settings
        self.settings = settings(self.store.read_setting("settings"))
        self.keys = load_or_create(state)
        self.admission = Admission(self.keys, site=self.settings.site)
        kept = self.store.read_setting("admission")
        if kept is not None:
            self.admission.restore(AdmissionState.decode(kept))
        self.was_member = self.admission.certificate is not None
        """A member, now or once: doors that refuse it are no reason to give up."""
        self.address_source: AddressSource | None = None
        """What tells the addresses of this device; None: the kernel."""
        self.internal_errors: list[str] = []
        self.load: Load | None = None
        self.lag = LoopLag()
        self.carriage = Carriage()
        self.ready = False
        self._zone_task: asyncio.Task[None] | None = None
        self._fatal: EdgeflError | None = None
        self._lookups: dict[int, asyncio.Future[tuple[Contact, int]]] = {}
        self._last_contacts: tuple[Contact, ...] = ()
        self._last_lost: tuple[Contact, ...] = ()
        self._contacts_saved_at = float("-inf")
        self._stopping = asyncio.Event()
        self.joined, self.isolated = asyncio.Event(), asyncio.Event()

    async def run(self, *, first: bool = False, signals: bool = True) -> None:
        """Start, serve until stopped, stop; `signals`: SIGTERM and SIGINT stop, SIGHUP reloads. Raises EdgeflError when
        the daemon cannot start or may not take part."""
        self.loop = asyncio.get_running_loop()
        self.started_at = self.loop.time()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self.loop.add_signal_handler(number, self.stop)
            self.loop.add_signal_handler(signal.SIGHUP, self.guard, self.reload)
        self.supervisor = Supervisor()
        self.disk = Disk(self.store)
        limits = self.settings.device_limits
        self.memory_bytes = limits.memory_bytes or memory_limit()
        self.training = Training(self.store.directory / "tried", provider=self.settings.provider, limits=limits)
        self.policies = Policies(self.settings.policies, lambda: self.load.as_dict() if self.load is not None else {})
        try:
            await self._build()
            try:
                await self._serve(first)
            finally:
                await self._tear_down()
        finally:
            await self.training.close()
            await self.disk.close()
        if self._fatal is not None:
            raise self._fatal

    async def _build(self) -> None:
        self.transport = Transport(
            self.keys,
            self.admission,
            self,
            listen=split_address(self.settings.listen, zero_allowed=True),
            advertise=split_address(self.settings.advertise) if self.settings.advertise else None,
            earlier_port=int.from_bytes(self.store.read_setting("door_port") or b"", "big"),
            executor=self.disk.executor,
            files=self.store.files,
            limits=limits_for(self.memory_bytes),
            uplink_bytes_s=parse_rate(self.settings.uplink),
        )
        self.budget = Budget(self.settings.device_limits, self.training, self.disk, self.transport.counters)
        self.budget.look(None, self.loop.time())
        self.lag.start()
        listening = await self.transport.start()
        self.whereabouts = Whereabouts(self, self.address_source or LocalAddresses(self.settings), listening)
        self.discovery = Discovery(self)
        incarnation = await self.disk.run(lambda store: store.next_incarnation())
        contact = self.whereabouts.begin(incarnation)
        await self.disk.run(self._remember_settings)
        self.transport.set_contact(contact)
        self.effects = LoopEffects(
            self.transport,
            self.disk,
            self.training,
            seed=self.keys.node_id ^ incarnation,
            on_timer=self._on_timer,
            guard=self.guard,
            top_ranked=lambda app, count: self.overlay.top_ranked(app, count),
            policies=self.policies,
            memory_bytes=self.memory_bytes,
        )
        self.effects.data = dict(self.settings.data)
        zoning = ZoneMethod.SITE if self.settings.site else ZoneMethod(self.settings.zones)
        profile = PROFILES[self.settings.profile]
        self.overlay = Overlay(
            contact,
            self.effects,
            self,
            verify=verify_advert,
            profile=profile,
            zones=zoning,
            rule=Rule(self.settings.rule),
        )
        self.learning = Learning(self.overlay, self.effects, self._policy)
        self.effects.learning = self.learning
        self.transport.members_of = self.effects.members_of
        self.transport.may_have = self.effects.may_have
        self.transport.may_subscribe = self.effects.may_subscribe
        self.control = ControlServer(self.socket_path, Verbs(self).table())
        await self.control.start()
        log.info("device %s listens at %s:%d", node_name(self.keys.node_id), *listening)

    def _remember_settings(self, store: Store) -> None:
        store.write_setting("settings", self.settings.remembered())
        store.write_setting("door_port", self.transport.door_port.to_bytes(2, "big"))

    async def _serve(self, first: bool) -> None:
        await self._restore_applications()
        helpers = [
            asyncio.ensure_future(self._telemetry()),
            asyncio.ensure_future(self._housekeeping()),
            asyncio.ensure_future(Arrival(self).run(first)),
            asyncio.ensure_future(self.whereabouts.run()),
            asyncio.ensure_future(self.discovery.run()),
        ]
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({stopped, *helpers}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()  # only an error ends a helper
        finally:
            for task in (stopped, *helpers):
                task.cancel()
            await asyncio.gather(stopped, *helpers, return_exceptions=True)

    async def _tear_down(self) -> None:
        self.supervisor.notify(STOPPING="1")
        log.info("stopping")
        self.lag.stop()
        await self.control.close()
        self.guard(self.overlay.leave, self.effects.now)
        await asyncio.sleep(GOODBYE_S)
        await self.effects.close()
        await self.budget.close()
        with contextlib.suppress(StorageError):
            self._contacts_saved_at = float("-inf")
            await self._save_contacts()
        await self.transport.close()

    async def _restore_applications(self) -> None:
        for stored in await self.disk.run(lambda store: store.applications()):
            progress = stored.progress
            if progress is not None and not await self.effects.restore(stored.app_id, progress):
                progress = None
            self.learning.take_part(
                unpack_advert(stored.advert),
                self.effects.now,
                observer=stored.observer,
                owner=stored.owner,
                progress=progress,
            )

    def guard(self, handler: Callable[..., Any], *arguments: Any) -> None:
        """Call into the core. A bug there is logged and counted; the daemon and its other work go on."""
        try:
            handler(*arguments)
        except Exception as error:
            if len(self.internal_errors) < MAX_INTERNAL_ERRORS:
                self.internal_errors.append(repr(error))
                log.exception("internal error in %s", getattr(handler, "__qualname__", handler))

    def reload(self) -> None:
        """SIGHUP: read data sources and policies again; applications that lacked one here may have it now."""
        kept = self.settings.remembered()
        try:
            read = self._read_settings(kept)
            self.settings = replace(self.settings, data=read.data, policies=read.policies)
        except EdgeflError as error:
            log.error("settings were not read again: %s (next: %s)", error.cause, error.hint)
            return
        self.effects.data = dict(self.settings.data)
        self.policies.references = self.settings.policies
        log.info("data sources: %s", ", ".join(self.effects.data) or "none")
        for advert in self.overlay.adverts():
            self.guard(self.on_advert, advert, self.effects.now)

    def stop(self) -> None:
        """Let `run` say goodbye and return."""
        self._stopping.set()

    def fail(self, error: EdgeflError) -> None:
        """The daemon cannot go on: `run` raises this error."""
        self._fatal = error
        self._stopping.set()

    def add_bootstrap(self, doors: list[tuple[str, int]]) -> None:
        """Doors that a token names; those that were given by hand stay first."""
        known = self.settings.bootstrap
        named = tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in doors)
        self.settings = replace(self.settings, bootstrap=known + tuple(door for door in named if door not in known))

    # The transport's listener

    def on_message(self, sender: Contact, message: Message) -> None:
        self.guard(self._on_message, sender, message)

    def _on_message(self, sender: Contact, message: Message) -> None:
        now = self.effects.now
        if not self.overlay.on_message(sender, message, now):
            self.learning.on_message(sender, message, now)

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None:
        self.guard(self.learning.on_bulk, sender, message, data, self.effects.now)

    def on_link_lost(self, node_id: int) -> None:
        self.guard(self.overlay.on_link_lost, node_id, self.effects.now)

    def on_admission_changed(self) -> None:
        state = self.admission.export().encode()
        self.disk.soon(lambda store: store.write_setting("admission", state))
        if self.admission.revoked_self:
            self.fail(RefusedError(Reason.REVOKED))

    def _on_timer(self, key: TimerKey, now: float) -> None:
        if not self.learning.on_timer(key, now):
            self.overlay.on_timer(key, now)

    # The overlay's listener

    def on_joined(self, now: float) -> None:
        log.info("joined the fleet")
        self.was_member = True
        self.joined.set()
        self.whereabouts.wake.set()
        self.isolated.clear()
        if not self.ready:
            self.ready = True
            self.supervisor.notify(READY="1", STATUS="joined")

    def on_isolated(self, now: float) -> None:
        log.warning("lost all contacts; knocking again")
        self.joined.clear()
        self.isolated.set()

    def on_root(self, app: int, now: float) -> None:
        self.learning.on_root(app, now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        self.learning.on_parent(app, parent, now)

    def on_orphaned(self, app: int, now: float) -> None:
        self.learning.on_orphaned(app, now)

    def on_dismissed(self, app: int, now: float) -> None:
        self.learning.on_dismissed(app, now)
        if app not in self.learning.applications:
            self.disk.soon(lambda store: store.forget_application(app))

    def on_help_wanted(self, app: int, scope: Scope, now: float) -> None:
        self.learning.on_help_wanted(app, now)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        self.learning.on_child(app, child, observer, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        self.learning.on_child_gone(app, child, now)

    def on_lookup(self, request: int, owner: Contact | None, hops: int, now: float) -> None:
        waiting = self._lookups.pop(request, None)
        if waiting is not None and not waiting.done():
            if owner is None:
                waiting.set_exception(TryAgainError("nobody answered", hint="the ring may be repairing itself"))
            else:
                waiting.set_result((owner, hops))

    def on_zone(self, zone: int, now: float) -> None:
        """Another zone fits this device better: it gets a new contact, with the next incarnation on disk."""
        self._zone_task = self.loop.create_task(self.whereabouts.change(zone=zone))

    def on_advert(self, advert: Advert, now: float) -> None:
        """A new application, or a new wish of its owner."""
        before = set(self.learning.applications)
        self.learning.on_advert(advert, now)
        app_id = advert.decode_manifest().app_id
        app = self.learning.applications.get(app_id)
        if app is not None and not app.helper and (app_id not in before or app.advert is advert):
            self._remember_soon(app)  # of what a device helps with nothing is kept over a restart

    def _policy(self, manifest: Manifest) -> Decision:
        """This device takes part wherever it has the data, the policies that are wanted, and memory for the model."""
        if manifest.data not in self.effects.data:
            return Decision(Part.IGNORE, f"this device has no data source named {manifest.data!r}")
        missing = self.policies.missing(manifest)
        if missing:
            return Decision(Part.IGNORE, missing)
        try:
            check_fits(manifest, self.memory_bytes, trains=True)
        except EdgeflError as error:
            return Decision(Part.IGNORE, error.cause)
        return Decision(Part.JOIN)

    # What verbs ask for

    def announce(self, advert: Advert) -> None:
        """Publish an advert of one's own, and act on it here as well."""
        now = self.effects.now
        self.guard(self.overlay.publish, advert, now)
        self.guard(self.learning.on_advert, advert, now)

    def _remember_soon(self, app: Application) -> None:
        packed = pack_advert(app.advert)
        self.disk.soon(lambda store: store.save_application(app.id, packed, observer=app.observer, owner=app.owner))

    async def remember_application(self, app: Application) -> None:
        """Make an application's newest advert durable. Raises StorageError."""
        packed = pack_advert(app.advert)
        await self.disk.run(
            lambda store: store.save_application(app.id, packed, observer=app.observer, owner=app.owner)
        )

    async def lookup(self, key: int, timeout_s: float) -> tuple[Contact, int]:
        """(nearest device, hops). Raises TryAgainError."""
        future: asyncio.Future[tuple[Contact, int]] = self.loop.create_future()
        request = self.overlay.lookup(key, self.effects.now)
        self._lookups[request] = future
        try:
            return await asyncio.wait_for(future, timeout_s)
        except asyncio.TimeoutError:
            raise TryAgainError("nobody answered in time", hint="the ring may be repairing itself") from None
        finally:
            self._lookups.pop(request, None)

    def status(self) -> dict[str, Any]:
        """Everything that `edgefl status` shows."""
        return status_document(self)

    # Regular work

    async def _telemetry(self) -> None:
        sensor = LoadSensor(self.effects.now)
        feed_s = min(SAMPLE_S, self.supervisor.watchdog_s or SAMPLE_S)
        sampled_at = self.effects.now
        while True:
            await asyncio.sleep(feed_s)
            if self.supervisor.watchdog_s is not None:
                self.supervisor.notify(WATCHDOG="1")
            if self.effects.now - sampled_at >= SAMPLE_S - 0.1:
                sampled_at = self.effects.now
                self.load = sensor.sample(sampled_at)
                self.budget.look(self.load, sampled_at)
                known = self.transport.serving_rate() or self.transport.uplink.limit_bytes_s
                site = parse_rate(self.settings.site_uplink) if self.settings.site else 0.0
                moved = self.transport.counters["bytes_sent"] + self.transport.counters["bytes_received"]
                self.carriage.sample(sampled_at, moved)
                self.overlay.set_price(price_of(self.load, known, self.carriage.s_per_byte, site_bytes_s=site))
                self.supervisor.notify(STATUS=summary(self))

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S if len(self._last_contacts) >= FEW_CONTACTS else FEW_CONTACTS_S)
            with contextlib.suppress(StorageError):  # remembered and shown by the disk
                await self._save_contacts()

    async def _save_contacts(self) -> None:
        contacts, lost = self.overlay.contacts(), self.overlay.lost()
        due = self.effects.now - self._contacts_saved_at >= CONTACTS_S or len(self._last_contacts) < FEW_CONTACTS
        if contacts and due and (contacts, lost) != (self._last_contacts, self._last_lost):
            await self.disk.run(lambda store: store.save_contacts(contacts, lost))
            self._last_contacts, self._last_lost, self._contacts_saved_at = contacts, lost, self.effects.now
