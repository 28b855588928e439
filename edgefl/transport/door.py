"""The door: the one port of a device that strangers may talk to.

libzmq cannot bound what an unknown peer makes it hold, so strangers never reach it. They reach this: a small asyncio
TCP service with fixed-size frames (door_exchange.py), few places and a deadline. Whoever passes has its CURVE key put
on the allow list by the admission policy (identity/admission.py), and learns where the ZeroMQ ports are.

The visitor's side is visit.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from edgefl.errors import ConfigError, WireError
from edgefl.identity.admission import Admission
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.revocation import pack_revocations
from edgefl.transport.counters import Counters, Notices
from edgefl.transport.door_exchange import (
    FRAME_BYTES,
    KNOCK_BYTES,
    Answer,
    DialBack,
    HostExchange,
    Introduction,
    refusal,
)
from edgefl.transport.rate import RateLimit
from edgefl.transport.timing import Timing
from edgefl.transport.visit import Card, Visitor, at_met, plain
from edgefl.wire.contact import node_name

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

DIAL_BACKS_PER_S = 1 / 15
DIAL_BACKS_AT_ONCE = 8.0
"""For one visitor, by node id; sixteen times that for all. A device asks when it arrives and when its address changes;
more than that would use us to search its host for open ports."""

DIAL_BACK_PART = 0.4
"""Share of the door's deadline for dialling back: a lost SYN is repeated once within it, and the answer still arrives
in time."""

BACKLOG = 128
"""Connections that the kernel keeps for us while the loop is busy."""


class Door:
    """The door of one device.

    `own_card` says where this device is now; `on_visitor` hears of everybody who was admitted; `visitor` dials back.
    """

    def __init__(
        self,
        admission: Admission,
        own_card: Callable[[], Card],
        on_visitor: Callable[[Card], None],
        timing: Timing,
        counters: Counters,
        visitor: Visitor,
    ) -> None:
        self._admission = admission
        self._own_card = own_card
        self._on_visitor = on_visitor
        self._timing = timing
        self._counters = counters
        self._visitor = visitor
        self._notices = Notices(log)
        self._server: asyncio.Server | None = None
        self._visitors: dict[asyncio.Task[None], str] = {}
        self._turned_away = 0
        self._rate = RateLimit(KNOCKS_PER_S, KNOCKS_AT_ONCE, overall=4.0)
        self._dial_backs = RateLimit(DIAL_BACKS_PER_S, DIAL_BACKS_AT_ONCE, overall=16.0)

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
        seen = plain(peer[0]) if peer else "unknown"
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
                clock=int(time.time()),
                reachable=await self._dial_back(card, seen) if introduction.dial_back else DialBack.NOT_TRIED,
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

    async def _dial_back(self, card: Card, seen: str) -> DialBack:
        """Whether the visitor's own door answers at the address that it was seen from, through a connection of ours.

        Only for admitted visitors, only at the address of the open connection, and not often: nobody can aim this at
        others. That it is the visitor who answers is proved by the exchange itself: its ephemeral key is fresh, and
        whoever answers signs it with the key that the node id is the hash of.
        """
        now = asyncio.get_running_loop().time()
        if not self._dial_backs.allow(node_name(card.contact.node_id), now):
            self._counters["refused.dial-back"] += 1
            return DialBack.NOT_TRIED
        self._counters["dial_backs"] += 1
        visit = self._visitor.visit(seen, card.contact.port, card.contact.node_id, dial_back=False)
        try:
            await asyncio.wait_for(visit, self._timing.door * DIAL_BACK_PART)
        except RefusedError as error:
            # At the right door, but it has no time, or another opinion of us: nothing is known.
            return DialBack.OTHER if error.reason is Reason.OTHER_DEVICE else DialBack.NOT_TRIED
        except ConnectionRefusedError:
            return DialBack.REFUSED
        except (WireError, asyncio.IncompleteReadError):
            return DialBack.OTHER
        except (asyncio.TimeoutError, OSError):
            return DialBack.SILENT
        return DialBack.REACHED

    def _refused(self, kind: str, seen: str, cause: str = "") -> None:
        self._counters[f"refused.{kind}"] += 1
        now = asyncio.get_running_loop().time()
        self._notices.say(kind, now, "the door stayed shut for %s: %s", seen, cause or kind)


def _card_of(introduction: Introduction, seen: str) -> Card:
    contact = at_met(introduction.contact, seen)
    return Card(contact, contact.host, introduction.curve, introduction.link_port, introduction.broadcast_port)
