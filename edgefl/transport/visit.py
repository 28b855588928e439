"""Knocking at other devices' doors: the visitor's side of the exchange on a real connection (door.py is the host's)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

from edgefl.declared import dataclass
from edgefl.errors import TryAgainError, UnreachableError, WireError
from edgefl.identity.admission import Admission
from edgefl.identity.reason import HostRevokedError, Reason, RefusedError
from edgefl.transport.counters import Counters
from edgefl.transport.door_exchange import (
    FRAME_BYTES,
    DialBack,
    Introduction,
    VisitorExchange,
    revocation_frame_bytes,
)
from edgefl.transport.timing import Timing
from edgefl.wire.contact import Contact


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
    """What a visitor has learnt. `seen` is its own address as the host saw it; `dial_back` what came of the host's
    dialling it back there; `clock` the host's wall clock in seconds since 1970, 0 if it did not tell."""

    card: Card
    seen: str
    dial_back: DialBack
    clock: int = 0


class Visitor:
    """One device as a visitor at others' doors. `own_card` says where this device is now."""

    def __init__(
        self,
        admission: Admission,
        own_card: Callable[[], Card],
        timing: Timing,
        counters: Counters,
        executor: Executor,
    ) -> None:
        self._admission = admission
        self._own_card = own_card
        self._timing = timing
        self._counters = counters
        self._executor = executor

    async def knock(self, host: str, port: int, *, expect: int | None = None, dial_back: bool = False) -> Knocked:
        """Knock at a door and take over what it tells: the host's card, newer revocations, our own approval.

        `expect` is the node id that must answer. Raises UnreachableError (nobody there, or too slow), TryAgainError
        (too many at once), WireError (no edgefl device), RefusedError (not admitted, with the reason).
        """
        self._counters["knocks"] += 1
        try:
            return await self._exchange(host, port, expect, dial_back=dial_back)
        except RefusedError as error:
            if error.reason is Reason.BUSY:
                raise TryAgainError(error.cause, hint=error.hint) from None
            raise

    async def _exchange(self, host: str, port: int, expect: int | None, *, dial_back: bool) -> Knocked:
        where = f"{host} port {port}"
        deadline = self._timing.door
        try:
            return await asyncio.wait_for(self.visit(host, port, expect, dial_back=dial_back), deadline)
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

    async def visit(self, host: str, port: int, expect: int | None, *, dial_back: bool) -> Knocked:
        """The exchange alone: no time limit, and the errors of sockets as they are."""
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
            if error.reason is Reason.REVOKED:
                raise HostRevokedError from None
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
        seen = plain(answer.seen)
        if answer.approval is not None and admission.certificate is None:
            if answer.approval.fleet != welcome.certificate.fleet:
                raise RefusedError(Reason.WRONG_FLEET, "the approval is another fleet's")
            admission.adopt(answer.approval)
        if revocations:
            admission.merge_revocations(revocations)
        admission.admit(welcome.certificate)
        host = plain(writer.get_extra_info("peername")[0])
        card = Card(
            at_met(answer.contact, host),
            host,
            welcome.certificate.curve,
            answer.link_port,
            answer.broadcast_port,
        )
        return Knocked(card, seen, answer.dial_back, answer.clock)


def at_met(contact: Contact, met: str) -> Contact:
    """The contact; a device that does not know its own address yet (0.0.0.0) is where it was met."""
    return replace(contact, host=met) if ipaddress.ip_address(contact.host).is_unspecified else contact


def plain(host: str) -> str:
    """An address without a scope, and IPv4 as IPv4 even on a socket that serves both. Raises WireError."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise WireError("not an address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
