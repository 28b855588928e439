"""A sampled application on one device: what MoDeST leaves open, by means of the application's tree.

    who is there   neighbours in the tree exchange their views when they meet, what has changed every `VIEWS_S` while
                   it is about members, and all else every `SYNC_S`: an epidemic along the tree
    the beginning  the root of the tree draws the first sample, once enough members are there and known
    news           whoever makes a model says so to its neighbours in the tree, and they pass it on: every member and
                   observer knows how far the application is, its history, and who holds the newest model
    the end        the final model goes down and up the tree from neighbour to neighbour, so everybody has it

The tree carries no model until the end, and no round waits for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from edgefl.learning.application import Application, Forest
from edgefl.learning.effects import LearningEffects, Progress, TrainResult
from edgefl.learning.options import parse_options
from edgefl.learning.sampled.device import SampledDevice
from edgefl.learning.sampled.options import SampledOptions
from edgefl.learning.sampled.record import epoch_of
from edgefl.learning.sampled.registry import Registry
from edgefl.wire import Contact, Message
from edgefl.wire.application import Advert, AppState
from edgefl.wire.blob import BlobRef
from edgefl.wire.sampled import SampleNews, View, ViewGet, ViewPart

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag, Token

GATHER_S = 0.25
"""How often the root looks at the number of members, before the first round."""

SETTLE_S = 1.0
"""The first round starts when the number of members has not changed for this long."""

KNOWN_BY_S = 10.0
"""... and all of them are in the root's view, or this has passed: a member may be silent."""

VIEWS_S = 0.5
"""Changes of membership wait this long for others to travel with them."""

SYNC_S = 60.0
"""Neighbours compare their views this often, and say who is still active."""

NEWS_RECORDS = 2
FETCH_AGAIN_S = 5.0


class SampledApplication(Application):
    """The topology `sampled`. Implements `Around` for its machine."""

    TIMERS: ClassVar[tuple[str, ...]] = (*SampledDevice.TIMERS, "gather", "views", "sync", "final")

    def __init__(
        self,
        advert: Advert,
        forest: Forest,
        effects: LearningEffects,
        *,
        observer: bool,
        owner: bool,
        helper: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(advert, forest, effects, observer=observer, owner=owner, helper=helper, progress=progress)
        options = parse_options(SampledOptions, self.manifest.topology_options, "sampled")
        registry = Registry(self.me, options.window)
        self.machine = SampledDevice(self.id, self.manifest, options, registry, self.effects, self, self.ledger.history)
        self.machine.counters = self.counters
        self.news: SampleNews | None = None
        """The newest that is known here."""
        self._members_seen = (0, 0.0)
        self._problem = ""
        self._told = registry.digest
        self._compare_from = 0.0

    @property
    def state(self) -> AppState:
        return self.advert.state

    @property
    def phase(self) -> str:
        machine = self.machine
        if self.ledger.finished:
            return "finished"
        if machine.session is not None:
            return "aggregating"
        if machine.own is not None and not machine.own.done:
            return "training" if machine.own.update is None else "delivering"
        return "waiting" if machine.newest == (0, 0) else "idle"

    @property
    def problem(self) -> str:
        if self.state is AppState.PAUSED:
            return "paused by its owner"
        machine = self.machine
        if machine.too_few is not None and not self.ledger.finished:
            return f"waiting for members: {machine.too_few} of {machine.quorum}"
        return self._problem

    @property
    def round(self) -> int:
        return max(self.ledger.round, self.news.round if self.news is not None else 0)

    # Life

    def on_ready(self, now: float) -> None:
        ledger, machine = self.ledger, self.machine
        if ledger.finished:
            machine.finished, machine.holds, machine.model = True, ledger.round, ledger.model
            self._tell_news(self._own_news())
        elif self.trains and ledger.model is not None and machine.model is None:
            machine.start(ledger.model, now, holds=ledger.round, attempt=ledger.epoch >> 16)
            self.set_timer("sync", now + SYNC_S)
            tree = self.tree
            if tree is not None and tree.is_root:
                self.on_rooted(now)

    def on_rooted(self, now: float) -> None:
        if self.machine.newest == (0, 0) and not self.ledger.finished:
            self._members_seen = (0, now)
            self.set_timer("gather", now)

    def on_state(self, now: float) -> None:
        self.machine.on_state(now)

    def stop(self, now: float) -> None:
        if self.machine.model is not None and not self.ledger.finished:
            self.machine.leave(now)
        super().stop(now)

    def on_attached(self, now: float) -> None:
        if self.parent is not None:
            self._greet(self.parent)

    def on_child(self, child: Contact, observer: bool, now: float) -> None:
        self._greet(child)

    def _greet(self, neighbour: Contact) -> None:
        """A new neighbour: exchange what both know."""
        known = [news for news in (self._own_news(), self.news) if news is not None]
        if known:
            self.effects.send(neighbour, max(known, key=_age))
        if self.trains:
            self.machine.registry.forget_peer(neighbour.node_id)
            self.effects.send(neighbour, ViewGet(self.id, 0))

    # What the machine tells

    def on_held(self) -> None:
        machine, ledger = self.machine, self.ledger
        ledger.epoch, ledger.round, ledger.model = epoch_of(machine.newest[0]), machine.holds, machine.model
        if machine.finished:
            ledger.finished = True
            self.effects.save(self.id, ledger.progress())

    def on_made(self) -> None:
        """A model that survives a power cut here, and that everybody shall hear of."""
        if not self.ledger.finished:
            self.effects.save(self.id, self.ledger.progress())
        self._tell_news(self._own_news())

    # The first round

    def _gather(self, now: float) -> None:
        tree, registry = self.tree, self.machine.registry
        if tree is None or not tree.is_root or self.machine.newest != (0, 0):
            self._problem = ""
            return
        members, wanted = tree.members, self.manifest.min_members
        count, since = self._members_seen
        if members != count:
            self._members_seen = (members, now)
            since = now
        if members < wanted and self.state is not AppState.STOPPED:
            self._problem = f"waiting for members: {members} of {wanted}"
        elif self.state is not AppState.PAUSED and now - since >= SETTLE_S:
            self._problem = ""
            if len(registry) >= members or now - since >= KNOWN_BY_S:
                self.machine.launch(now)
                self._tell_news(self._own_news())
                return
        self.set_timer("gather", now + GATHER_S)

    # Views and news

    def on_admitted(self, sender: Contact, message: Message, now: float) -> None:
        if isinstance(message, SampleNews):
            self._on_news(sender, message, now)
        elif self.trains and self.machine.model is not None:
            self.machine.on_message(sender, message, now)
            if isinstance(message, ViewPart):
                self._compare(sender, message.view, now)
            if self.machine.registry.digest != self._told:
                self._told = self.machine.registry.digest
                self.set_timer("views", now + VIEWS_S)

    def on_bulk(self, sender: Contact, message: Message, data: Any, now: float) -> None:
        if self.effects.admits(sender) and self.trains and self.machine.model is not None:
            self.machine.on_bulk(sender, message, data, now)

    def _on_news(self, sender: Contact, message: SampleNews, now: float) -> None:
        if message.model.size != 4 * self.manifest.parameters or message.round > self.manifest.rounds:
            self.count("news_invalid")
            return
        self.ledger.history.merge(message.records)
        known = self.news
        if known is not None and _age(message) <= _age(known):
            return
        if self.trains and self.machine.model is not None:
            self.machine.on_news((message.attempt, message.round + 1), message.model, message.holder, now)
            if self.machine.newest[0] < message.attempt:
                self.count("news_invalid")  # a leap that nobody makes
                return
        self.news = message
        if not message.finished:
            self._tell_news(message, besides=sender)
        elif not self.ledger.finished:
            self._fetch_final(sender)

    def _fetch_final(self, sender: Contact | None = None) -> None:
        news, parent = self.news, self.parent
        if news is not None:
            sources = [contact for contact in (sender, news.holder, parent) if contact is not None]
            self.effects.fetch(self.id, ("final", news.attempt, news.round), news.model, tuple(dict.fromkeys(sources)))

    def _on_final(self, blob: BlobRef, data: Any, now: float) -> None:
        news = self.news
        if news is None or news.model != blob or self.ledger.finished:
            return
        if data is None:
            self.set_timer("final", now + FETCH_AGAIN_S)
            return
        old = self.ledger.model
        self.ledger.epoch, self.ledger.round, self.ledger.model = epoch_of(news.attempt), news.round, blob
        self.ledger.finished = True
        self.machine.finished = True
        self.machine.holds, self.machine.model = news.round, blob
        self.machine.cancel(*SampledDevice.TIMERS)
        if old is not None and old != blob:
            self.effects.discard(self.id, old)
        self.effects.save(self.id, self.ledger.progress())
        self._tell_news(self._own_news())

    def _own_news(self) -> SampleNews | None:
        """What this device holds, if it is worth telling: not model 0 before anything has begun."""
        ledger = self.ledger
        if ledger.model is None or (self.machine.newest == (0, 0) and not ledger.finished):
            return None
        return SampleNews(
            self.id,
            ledger.round,
            ledger.epoch >> 16,
            ledger.model,
            self.me,
            ledger.finished,
            ledger.history.tail(NEWS_RECORDS),
        )

    def _tell_news(self, news: SampleNews | None, *, besides: Contact | None = None) -> None:
        if news is None:
            return
        if self.news is None or _age(news) > _age(self.news):
            self.news = news
        for neighbour in self._neighbours():
            if besides is None or neighbour.node_id != besides.node_id:
                self.effects.send(neighbour, news)

    def _neighbours(self) -> tuple[Contact, ...]:
        parent = (self.parent,) if self.parent is not None else ()
        return (*parent, *(child.contact for child in self.children()))

    def _compare(self, sender: Contact, view: View, now: float) -> None:
        """A neighbour's view is another one, and no change is under way any more: a part of it was lost."""
        if view.digest != self.machine.registry.digest and now >= self._compare_from:
            self._compare_from = now + SYNC_S / 2
            self.effects.send(sender, ViewGet(self.id, 0))

    def _spread_views(self, *, always: bool = False) -> None:
        registry = self.machine.registry
        for neighbour in self._neighbours():
            view: View = registry.delta(neighbour.node_id)
            if always or view.entries:
                self.effects.send(neighbour, ViewPart(self.id, view, False))

    def _sync(self, now: float) -> None:
        """Say who is still there; and what of this device has changed."""
        registry, machine = self.machine.registry, self.machine
        me, rate = registry.me, self.effects.uplink_bytes_s()
        uplink = int(math.log2(rate)) if rate is not None and rate >= 1 else me.uplink
        if me.contact != self.me or uplink != me.uplink:
            registry.declare(left=False, contact=self.me, uplink=uplink)
        if me.active < machine.newest[1] - registry.window // 2:
            registry.touch(me.contact.node_id, machine.newest[1])
        self._spread_views(always=True)
        self.set_timer("sync", now + SYNC_S)

    # Timers and answers

    def on_alarm(self, name: str, now: float) -> None:
        if name == "gather":
            self._gather(now)
        elif name == "views":
            self._spread_views()
        elif name == "sync":
            if not self.ledger.finished:
                self._sync(now)
        elif name == "final":
            if not self.ledger.finished:
                self._fetch_final()
        else:
            self.machine.on_timer(name, now)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        self.machine.on_trained(tag, result, now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "final":
            self._on_final(blob, data, now)
        else:
            self.machine.on_fetched(token, blob, data, now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        self.machine.on_kept(token, blob, now)


def _age(news: SampleNews) -> tuple[bool, int, int]:
    """The larger one is the newer one; nothing is newer than the end."""
    return news.finished, news.attempt, news.round
