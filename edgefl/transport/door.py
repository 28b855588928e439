"""The door: the one port of a device that strangers may talk to.

libzmq cannot bound what an unknown peer makes it hold, so strangers never reach it. They reach this: a small asyncio
TCP service with fixed-size frames (door_exchange.py), few places and a deadline. Whoever passes has its CURVE key put
on the allow list by the admission policy (identity/admission.py), and learns where the ZeroMQ ports are.

The visitor's side is here too: `knock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from edgefl.errors import ConfigError, EdgeflError, TryAgainError, UnreachableError, WireError
from edgefl.identity.admission import Admission
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.revocation import pack_revocations
from edgefl.transport.counters import Counters, Notices
from edgefl.transport.door_exchange import (
    FRAME_BYTES,
    KNOCK_BYTES,
    Answer,
    HostExchange,
    Introduction,
    VisitorExchange,
    refusal,
    revocation_frame_bytes,
)
from edgefl.transport.rate import RateLimit
from edgefl.transport.timing import Timing
from edgefl.wire.contact import Contact, node_name

log = logging.getLogger(__name__)

MAX_VISITORS = 64
"""Exchanges at a time; each takes a few milliseconds. When all places are taken, the longest waiting one must go: that
is a slow or silent one."""

MAX_VISITORS_PER_HOST = 32
"""From one address, which may be a whole site behind one router, or a demonstration on one machine."""

MAX_TURNED_AWAY = 16
"""Visitors that are told "busy" at a time; more are cut off without a word."""

KNOCKS_PER_S = 32.0
KNOCKS_AT_ONCE = 128.0
"""From one address; four times that from all. An exchange costs 0.4 ms of processor time here and 4 ms on a small
device: without a limit a stranger could take all of it. A demonstration of a hundred devices still starts at once."""

BACKLOG = 128
"""Connections that the kernel keeps for us while the loop is busy."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a device's door tells about it: the CURVE key and ports that belong to a contact. `host` is where we met
    it, which is where its ports are, whatever it believes about itself."""

    contact: Contact
    host: str
    curve: bytes
    link_port: int
    broadcast_port: int


@dataclass(frozen=True, slots=True)
class Knocked:
    """What a visitor has learnt. `seen` is its own address as the host saw it; `local` the one that it used itself;
    `reachable` whether the host could dial it back (None: not tried)."""

    card: Card
    seen: str
    local: str
    reachable: bool | None


class Door:
    """Both sides of the exchange for one device.

    `own_card` says where this device is now; `on_visitor` hears of everybody who was admitted.
    """

    def __init__(
        self,
        admission: Admission,
        own_card: Callable[[], Card],
        on_visitor: Callable[[Card], None],
        timing: Timing,
        counters: Counters,
        executor: Executor,
    ) -> None:
        self._admission = admission
        self._own_card = own_card
        self._on_visitor = on_visitor
        self._timing = timing
        self._counters = counters
        self._executor = executor
        self._notices = Notices(log)
        self._server: asyncio.Server | None = None
        self._visitors: dict[asyncio.Task[None], str] = {}
        self._turned_away = 0
        self._rate = RateLimit(KNOCKS_PER_S, KNOCKS_AT_ONCE, overall=4.0)

    # Host

    async def open(self, host: str, port: int) -> int:
        """Listen; the port in use. Raises ConfigError."""
        try:
            self._server = await asyncio.start_server(
                self._host, host, port, limit=2 * FRAME_BYTES, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host} port {port}: {error.strerror or error}",
                hint="is another edgefl daemon running here? choose another --listen address",
            ) from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and send everybody away."""
        if self._server is not None:
            self._server.close()
            self._server = None
        visitors = list(self._visitors)
        for task in visitors:
            task.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)

    async def _host(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("asyncio runs this as a task")
        peer = writer.get_extra_info("peername")
        seen = _plain(peer[0]) if peer else "unknown"
        try:
            crowded = list(self._visitors.values()).count(seen) >= MAX_VISITORS_PER_HOST
            if crowded or not self._rate.allow(seen, asyncio.get_running_loop().time()):
                self._refused(Reason.BUSY.slug, seen)
                await self._turn_away(reader, writer)
                return
            if len(self._visitors) >= MAX_VISITORS:
                self._refused(Reason.BUSY.slug, seen)
                next(iter(self._visitors)).cancel()
            self._visitors[task] = seen
            await asyncio.wait_for(self._receive(reader, writer, seen), self._timing.door)
        except (WireError, RefusedError) as error:
            self._refused(error.reason.slug if isinstance(error, RefusedError) else "garbage", seen, error.cause)
        except asyncio.IncompleteReadError as error:
            self._refused("garbage" if error.partial else "gone", seen)
        except asyncio.TimeoutError:
            self._refused("slow", seen)
        except OSError:
            self._refused("gone", seen)
        except asyncio.CancelledError:
            pass  # its place was needed, or the door closes
        except Exception:  # nothing that a stranger sends may end in a stack trace per knock
            self._counters["errors"] += 1
            log.exception("unexpected error at the door")
        finally:
            self._visitors.pop(task, None)
            with contextlib.suppress(OSError):
                writer.close()

    async def _turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._turned_away < MAX_TURNED_AWAY:
            self._turned_away += 1
            try:
                # Unread bytes would turn our close into a reset, which throws the answer away.
                await asyncio.wait_for(reader.readexactly(KNOCK_BYTES), self._timing.door / 5)
                writer.write(refusal(Reason.BUSY))
            finally:
                self._turned_away -= 1

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: str) -> None:
        admission = self._admission
        exchange = HostExchange(admission.keys)
        # The first frame is due at once: a connection that stays silent must not hold its place for the whole deadline.
        knock = await asyncio.wait_for(reader.readexactly(KNOCK_BYTES), self._timing.door / 2)
        try:
            exchange.read_knock(knock)
        except RefusedError as error:
            writer.write(refusal(error.reason))
            await writer.drain()
            raise
        writer.write(exchange.welcome(admission.certificate))
        introduction = exchange.read_introduction(await reader.readexactly(FRAME_BYTES))
        if introduction.goes_away is not Reason.ADMITTED:
            raise RefusedError(introduction.goes_away, "says the visitor")
        verdict = admission.decide(introduction.claim(), introduction.certificate, host=seen)
        answer, revocations = Answer(verdict.reason, seen, approval=verdict.approval), b""
        if verdict.reason is Reason.ADMITTED:
            card = _card_of(introduction, seen)
            own = self._own_card()
            answer = replace(
                answer,
                contact=own.contact,
                link_port=own.link_port,
                broadcast_port=own.broadcast_port,
                reachable=await self._dial_back(card, seen) if introduction.dial_back else 0,
            )
        if verdict.reason in (Reason.ADMITTED, Reason.REVOKED):  # a revoked device gets the proof: the signed list
            known = admission.revocations
            if known is not None and known.version > introduction.revocations:
                revocations = pack_revocations(known)
                answer = replace(answer, revocations=len(revocations))
        writer.write(exchange.answer(answer))
        if revocations:
            writer.write(exchange.revocations(revocations))
        await writer.drain()
        if verdict.reason is Reason.ADMITTED:
            self._counters["knocked"] += 1
            self._on_visitor(card)
        else:
            name = node_name(introduction.claim().node_id)
            self._refused(verdict.reason.slug, seen, f"{verdict.reason.text}: {name}")

    async def _dial_back(self, card: Card, seen: str) -> int:
        """Whether the visitor's own door answers at the address that it was seen from: 1 yes, 2 no.

        Only for admitted visitors, only at the address of the open connection: nobody can aim this at others.
        """
        try:
            await self._exchange(seen, card.contact.port, card.contact.node_id, dial_back=False, part=0.4)
        except (EdgeflError, OSError):
            return 2
        return 1

    def _refused(self, kind: str, seen: str, cause: str = "") -> None:
        self._counters[f"refused.{kind}"] += 1
        now = asyncio.get_running_loop().time()
        self._notices.say(kind, now, "the door stayed shut for %s: %s", seen, cause or kind)

    # Visitor

    async def knock(self, host: str, port: int, *, expect: int | None = None, dial_back: bool = False) -> Knocked:
        """Knock at a door and take over what it tells: the host's card, newer revocations, our own approval.

        `expect` is the node id that must answer. Raises UnreachableError (nobody there, or too slow), TryAgainError
        (too many at once), WireError (no edgefl device), RefusedError (not admitted, with the reason).
        """
        self._counters["knocks"] += 1
        try:
            return await self._exchange(host, port, expect, dial_back=dial_back, part=1.0)
        except RefusedError as error:
            if error.reason is Reason.BUSY:
                raise TryAgainError(error.cause, hint=error.hint) from None
            raise

    async def _exchange(self, host: str, port: int, expect: int | None, *, dial_back: bool, part: float) -> Knocked:
        where = f"{host} port {port}"
        deadline = self._timing.door * part
        try:
            return await asyncio.wait_for(self._visit(host, port, expect, dial_back=dial_back), deadline)
        except asyncio.TimeoutError:
            raise UnreachableError(
                f"{where} does not answer within {deadline:g} s", hint="is the address right, and no firewall between?"
            ) from None
        except asyncio.IncompleteReadError:
            raise UnreachableError(
                f"{where} closed the connection", hint="is that an edgefl device, and not overloaded?"
            ) from None
        except (OSError, ValueError, OverflowError) as error:  # the last two: impossible host names and ports
            cause = getattr(error, "strerror", None) or error
            raise UnreachableError(f"cannot reach {where}: {cause}", hint="is edgefl running there?") from None

    async def _visit(self, host: str, port: int, expect: int | None, *, dial_back: bool) -> Knocked:
        reader, writer = await self._connect(host, port)
        try:
            return await self._introduce_ourselves(reader, writer, expect, dial_back=dial_back)
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address of `host` that answers. Raises OSError."""
        try:
            addresses = [str(ipaddress.ip_address(host))]
        except ValueError:
            # asyncio would start threads of its own for this.
            lookup = asyncio.get_running_loop().run_in_executor(
                self._executor, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            addresses = [str(entry[4][0]) for entry in await lookup]
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(address, port, limit=2 * FRAME_BYTES)
        return await asyncio.open_connection(addresses[-1], port, limit=2 * FRAME_BYTES)

    async def _introduce_ourselves(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, expect: int | None, *, dial_back: bool
    ) -> Knocked:
        admission = self._admission
        exchange = VisitorExchange(admission.keys)
        writer.write(exchange.knock())
        welcome = exchange.read_welcome(await reader.readexactly(FRAME_BYTES), expect=expect)
        own = self._own_card()
        keys = admission.keys
        introduction = Introduction(
            device=keys.public,
            curve=keys.curve_public,
            binding=keys.binding,
            contact=own.contact,
            link_port=own.link_port,
            broadcast_port=own.broadcast_port,
            certificate=admission.certificate,
            site=admission.site,
            revocations=0 if admission.revocations is None else admission.revocations.version,
            dial_back=dial_back,
        )
        try:
            if welcome.certificate is None:
                raise RefusedError(Reason.NO_FLEET)
            admission.check(welcome.certificate)
        except RefusedError as error:
            # The host should know why nobody comes in: it may be the one with the wrong token.
            writer.write(exchange.introduce(replace(introduction, certificate=None, goes_away=error.reason)))
            await writer.drain()
            raise
        writer.write(exchange.introduce(introduction))
        answer = exchange.read_answer(await reader.readexactly(FRAME_BYTES))
        revocations = b""
        if answer.revocations:
            frame = await reader.readexactly(revocation_frame_bytes(answer.revocations))
            revocations = exchange.read_revocations(frame)
        if answer.reason is not Reason.ADMITTED:
            if revocations and admission.fleet is not None:
                admission.merge_revocations(revocations)
            raise RefusedError(answer.reason)
        if answer.contact is None or answer.contact.node_id != welcome.certificate.node_id:
            raise WireError("the door's answer names another device")
        seen = _plain(answer.seen)
        if answer.approval is not None and admission.certificate is None:
            if answer.approval.fleet != welcome.certificate.fleet:
                raise RefusedError(Reason.WRONG_FLEET, "the approval is another fleet's")
            admission.adopt(answer.approval)
        if revocations:
            admission.merge_revocations(revocations)
        admission.admit(welcome.certificate)
        host = _plain(writer.get_extra_info("peername")[0])
        card = Card(
            _at(answer.contact, host),
            host,
            welcome.certificate.curve,
            answer.link_port,
            answer.broadcast_port,
        )
        local = writer.get_extra_info("sockname")
        reachable = {1: True, 2: False}.get(answer.reachable)
        return Knocked(card, seen, _plain(local[0]) if local else "", reachable)


def _card_of(introduction: Introduction, seen: str) -> Card:
    contact = _at(introduction.contact, seen)
    return Card(contact, contact.host, introduction.curve, introduction.link_port, introduction.broadcast_port)


def _at(contact: Contact, met: str) -> Contact:
    """The contact; a device that does not know its own address yet (0.0.0.0) is where it was met."""
    return replace(contact, host=met) if ipaddress.ip_address(contact.host).is_unspecified else contact


def _plain(host: str) -> str:
    """An address without a scope, and IPv4 as IPv4 even on a socket that serves both. Raises WireError."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise WireError("not an address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
