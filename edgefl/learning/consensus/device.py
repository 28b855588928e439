"""One device of a consensus application. Theory of operation:

    WAITING  has not begun. Asks its neighbours how far they are: copies the model of one that is (who starts late must
             not bring an untrained model in), or goes to SYNC with them when they begin
    SYNC     `sync_slots` exchanges of (norm, seed) with the neighbours: see start.py
    TRAIN    local steps from the own model; in the last `settle` rounds it is only evaluated
    MIX      `steps` times: tell the neighbours of this round of the own model, wait for theirs, at most `slot_s`,
             average with weights over those that were heard, the last time with momentum (momentum.py); then TRAIN of
             the next round
    PAUSED   between two rounds, for as long as the owner wants
    DONE     after the last round; whoever asks gets the model

    with push-sum, MIX also waits until the neighbours have taken their shares: see push_sum.py

A device never waits longer than a slot for anybody, and not at all for a neighbour that was silent for a whole slot, as
long as most of the others are heard. Long before a slot is over it repeats its own word to those for whom it waits, and
they repeat theirs: a word may be lost, a model that could not be fetched is asked for again. A neighbour that is new in
the middle of a step is told at once. It takes models that are at most MAX_AGE rounds old, from neighbours alone. When
most of its neighbours are further ahead than that, it goes on from the average in their round.

Source: Pranav and Moura, Peer-to-Peer Deep Learning (P2PL), arXiv 2310.18861; D-PSGD: Lian et al., 2017; gossip
learning: Hegedus et al., 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.consensus.averaging import Averaging
from edgefl.learning.consensus.beginning import MAX_AGE, Beginning
from edgefl.learning.consensus.claims import Claims
from edgefl.learning.consensus.heard import Announced, Heard, HeardModels, Key, read_model
from edgefl.learning.consensus.mixing import PUSH_SUM, weighted
from edgefl.learning.consensus.momentum import Momentum
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.learning.consensus.patience import Patience
from edgefl.learning.consensus.push_sum import Mass
from edgefl.learning.consensus.shown import ShownModels
from edgefl.learning.consensus.surroundings import Listener, Neighbours, Stage
from edgefl.learning.effects import LearningEffects, TrainJob, TrainResult
from edgefl.wire import Contact, Message
from edgefl.wire.application import Manifest
from edgefl.wire.blob import FLOAT_BYTES, BlobRef
from edgefl.wire.consensus import Mass as MassMessage
from edgefl.wire.consensus import NeighbourModel, NormShare
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.effects import Tag, Token

    Vector = NDArray[np.float32]


LONELY_S = 5.0
"""A step of a device that has lost all its neighbours: soon it finds them, or they it."""

AGAIN_S, AGAIN_MAX_S = 3.0, 60.0
"""A neighbour that is waited for is asked after so long, then after twice as long each time: one that only trains for
long is hardly disturbed."""


class ConsensusDevice:
    """The state machine. `initial` makes a start (float32 [parameters]) from a seed, `seed` makes this device's own."""

    TIMERS = (*Beginning.TIMERS, "slot", "average", "pace", "again")

    def __init__(
        self,
        manifest: Manifest,
        options: ConsensusOptions,
        effects: LearningEffects,
        neighbours: Neighbours,
        initial: Callable[[int], Vector],
        seed: int,
        listener: Listener | None = None,
        *,
        trains: bool = True,
    ) -> None:
        """One that does not train (it has no data) mixes all the same, as one sample."""
        self.app, self.manifest, self.options, self.effects = manifest.app_id, manifest, options, effects
        self.stage = Stage.WAITING
        self.round = self.step = self.fetched_bytes = 0
        self.vector: Vector | None = None
        self.samples = 1
        self.counters: dict[str, int] = {}
        self.mass = Mass()
        self.momentum = Momentum(options.momentum)
        self.trains = trains
        self.paused = False
        self.last_round = manifest.rounds
        self.neighbours, self._seed = neighbours, seed
        self._listener = listener if listener is not None else Listener()
        self.beginning = Beginning(self, initial, seed)
        self._heard = HeardModels(FLOAT_BYTES * manifest.parameters)
        self.patience = Patience()
        self._claims = Claims(self.app, effects, self.mass)
        self._averaging: Averaging | None = None
        self._mixed_rounds: list[int] = []
        self.shown = ShownModels(self.app, effects)
        self._round_began = 0.0
        self._shared: Key = (0, 0)
        """(round, step) of the newest model that the neighbours were told of: mixing comes after that."""
        self._told: set[int] = set()
        """Those who were told of it."""
        self._again_s = AGAIN_S

    # Beginning

    def begin(self, now: float) -> None:
        self.beginning.sync(now)

    def wait(self, now: float) -> None:
        """Begin when the neighbours do, or as one of them that has begun."""
        self.stage, self.vector = Stage.WAITING, None
        self.beginning.ask(now)

    def resume(self, round_: int, vector: Vector, now: float) -> None:
        """Go on after `round_` rounds, from the own model of then."""
        self.vector, self.round = vector, round_
        self.momentum.forget()
        self.train(now)

    # Ending

    def pause(self) -> None:
        """Stop after this round."""
        self.paused = True

    def unpause(self, now: float) -> None:
        self.paused = False
        if self.stage is Stage.PAUSED:
            self.train(now)

    def finish(self, now: float) -> None:
        """The application ends now: this device's model is its last one."""
        if self.stage is Stage.DONE:
            return
        if self.vector is None:
            self.stage = Stage.DONE
            self._cancel_timers()
            return
        self.last_round = max(0, self.round - (self.stage is Stage.TRAIN))
        self._end()

    def _end(self) -> None:
        self._cancel_timers()
        self.round = self.last_round
        self.stage, self._averaging = Stage.DONE, None
        self.shown.name(("end", self.round), self.vector)

    # Events

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        if isinstance(message, NormShare):
            if self.is_neighbour(sender.node_id, 0):
                self.beginning.on_norm(sender, message, now)
        elif isinstance(message, NeighbourModel):
            self._on_model(Announced(sender, message), now)
        elif isinstance(message, MassMessage) and self.options.mixing == PUSH_SUM:
            self._on_mass(sender, message, now)

    def _on_model(self, announced: Announced, now: float) -> None:
        sender, message = announced.sender.node_id, announced.message
        fits = message.model.size == FLOAT_BYTES * self.manifest.parameters and message.samples > 0
        if not fits or message.round > self.manifest.rounds or message.step >= self.options.steps:
            self.count("implausible")
        elif not self.is_neighbour(sender, message.round):
            self.count("not_a_neighbour")
        elif message.waiting and not self.neighbours.expects(sender, message.round):
            self._answer(announced)  # in a directed graph: it waits for us, and gives us nothing
        elif self.stage is Stage.WAITING or (self.stage is Stage.SYNC and message.round > MAX_AGE):
            self.beginning.on_offer(announced, now)
        elif self.stage is Stage.DONE:
            self._answer(announced)
        else:
            self._answer(announced)
            self.patience.on_word(sender)
            if message.round < self.round - MAX_AGE and self.options.mixing != PUSH_SUM:
                return  # with push-sum, what a giver can still give is its model of now, whatever its round
            if self._claims.newest(sender) < announced.key:
                self._fetch([announced])

    def _answer(self, announced: Announced) -> None:
        """A neighbour waits for this device, which may have told it already: then that was lost."""
        sender, latest = announced.sender, self.shown.latest
        if not announced.message.waiting:
            return
        if latest is not None and latest[:2] >= announced.key:
            self.tell((sender,))
        self._claims.repeat_to(sender)

    def _ask_again(self, now: float) -> None:
        """Nothing has come of some neighbours: a word may have been lost, of theirs or of ours."""
        missing, latest = self._missing(), self.shown.latest
        if latest is not None:
            known = (*self.neighbours.incoming(self.round), *self.neighbours.outgoing(self.round))
            contacts = {contact.node_id: contact for contact in known}
            self.tell([contacts[node_id] for node_id in sorted(missing & contacts.keys())], waiting=True)
        self._claims.repeat()
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)
        self.set_timer("again", now + self._again_s)

    def on_timer(self, name: str, now: float) -> None:
        if name in Beginning.TIMERS:
            self.beginning.on_timer(name, now)
        elif name == "slot" and self.stage is Stage.MIX:
            self.patience.on_slot_over(self._missing())
            self._mix(now)
        elif name == "average":
            self._average(now)
        elif name == "again" and self._waits:
            self._ask_again(now)
        elif name == "pace" and self.stage is Stage.MIX:
            self.train(now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        what, sender, message = token
        if not isinstance(sender, Contact) or not isinstance(message, NeighbourModel):
            return
        vector, key = self._checked(blob, data), (message.round, message.step)
        if what == "copy":
            self.beginning.on_copied(message.round, vector, now)
            return
        claims = self.options.mixing == PUSH_SUM
        samples = min(message.samples, self.manifest.max_samples)
        heard = None if vector is None or claims else Heard(vector, samples, message.degree)
        self._heard.arrived(sender.node_id, key, heard)
        if vector is not None and claims:
            self._claims.open(sender, key, vector)
        self._fetch(self._heard.waiting())
        self._mix_if_complete(now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        self.shown.on_named()
        if token == ("base", self.round) and self.stage is Stage.TRAIN:
            self.shown.show(self.round - 1, self.options.steps - 1, blob, base=True)
            self._listener.on_model(self.round - 1, blob, now)
            if not self.trains:
                self.mass.gain(self.samples)
                self._share(0)
                return
            seed = (self._seed * 0x9E3779B97F4A7C15 ^ self.round) & (2**63 - 1)
            kind = RoundKind.TRAIN
            if self.round > self.manifest.rounds - self.options.settle:
                kind = RoundKind.EVALUATE
                self.mass.gain(self.samples)
            self.effects.train(self.app, TrainJob((0, self.round, 0), kind, blob, seed))
        elif token == ("end", self.round) and self.stage is Stage.DONE:
            self.shown.show(self.round, self.options.steps - 1, blob, base=True)
            self._listener.on_model(self.round, blob, now)
            self._listener.on_done(now)
        elif token == ("mix", self.round, self.step) and self.stage is Stage.MIX:
            self.shown.show(self.round, self.step, blob, base=False)
            self._shared = (self.round, self.step)
            self._told.clear()
            self.patience.on_step()
            self._tell_new()
            self._again_s = AGAIN_S
            self.set_timer("again", now + self._again_s)
            patience_s = LONELY_S if self.neighbours.lost else self.options.slot_s
            self.set_timer("slot", now + min(patience_s, self.options.slot_s))
            self._claims.repeat()
            self._mix_if_complete(now)
        else:
            self.shown.outlive(blob)  # it was made for a step that is over

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        if self.stage is not Stage.TRAIN or tag[1] != self.round or self.vector is None:
            return
        if result is not None and result.delta is not None and not result.diverged:
            self.samples = max(1, min(result.samples, self.manifest.max_samples))
            gain = self.mass.gain(self.samples) if self.options.mixing == PUSH_SUM else 1.0
            self.vector = self.vector + np.float32(gain) * result.delta
        elif result is None or result.diverged:
            self.count("diverged")
        elif result.declined:
            self.count("training_declined")
        if result is not None:
            self._listener.on_round(self.round, result, now)
        self._share(0)

    def _share(self, step: int) -> None:
        self.stage, self.step = Stage.MIX, step
        self.shown.name(("mix", self.round, step), self.vector)

    def on_neighbours(self, now: float) -> None:
        """They may be others now: nobody waits for those that are gone."""
        self._claims.forget_strangers(lambda giver: self.is_neighbour(giver, self.round))
        self.patience.forget_all_but({contact.node_id for contact in self.neighbours.incoming(self.round)})
        if self._waits or self.stage is Stage.DONE:
            self._tell_new()
        self._mix_if_complete(now)

    # Push-sum

    def _on_mass(self, sender: Contact, message: MassMessage, now: float) -> None:
        key = (message.round, message.step)
        if message.mass is None:
            here = None
            if self.stage is Stage.MIX and self._shared == (self.round, self.step):
                receivers = {contact.node_id for contact in self.neighbours.outgoing(self.round)}
                here = self._shared if sender.node_id in receivers else None
            mass = self.mass.on_claim(sender.node_id, key, here)
            if self.is_neighbour(sender.node_id, self.round):
                self.patience.on_word(sender.node_id)
            self.effects.send(sender, MassMessage(self.app, *key, mass))
        elif not 0 <= message.mass <= self.manifest.max_samples:
            self.count("implausible")
            return
        elif self._claims.on_grant(sender.node_id, key, message.mass):
            self._fetch(self._heard.waiting())
        self._mix_if_complete(now)

    # A round

    def train(self, now: float) -> None:
        if self.round >= self.last_round:
            self._end()
        elif self.paused:
            self.stage = Stage.PAUSED
        else:
            self.stage = Stage.TRAIN
            self.round += 1
            self.momentum.on_start(self.vector)
            self._round_began = now
            self.shown.name(("base", self.round), self.vector)

    def _tell_new(self) -> None:
        """Tell the neighbours of the newest model, those who have not been told yet; each may have a share of what mass
        is left."""
        receivers = self.neighbours.outgoing(self.round)
        self.mass.offer(sum(not self.mass.has_given(contact.node_id, self._shared) for contact in receivers))
        new = [contact for contact in receivers if contact.node_id not in self._told]
        self._told.update(contact.node_id for contact in new)
        self.tell(new)

    def tell(self, receivers: Iterable[Contact], *, waiting: bool = False) -> None:
        """Let them know of the newest model, if there is one."""
        if self.shown.latest is None:
            return
        round_, step, blob = self.shown.latest
        degree = len(self.neighbours.outgoing(round_))
        message = NeighbourModel(self.app, round_, step, blob, self.samples, degree, waiting)
        for contact in receivers:
            self.effects.send(contact, message)

    def _fetch(self, models: list[Announced]) -> None:
        """Fetch those for which there is a place."""
        neighbours = len(self.neighbours.incoming(self.round))
        for announced in models:
            sender, message = announced.sender, announced.message
            if sender.node_id not in self._claims and self._heard.announce(announced, neighbours):
                self.effects.fetch(self.app, ("neighbour", sender, message), message.model, (sender,))

    def _missing(self) -> set[int]:
        """Neighbours that this step still waits for."""
        here = (self.round, self.step)
        wanted = {contact.node_id for contact in self.neighbours.incoming(self.round)}
        if self.options.mixing == PUSH_SUM:
            receivers = {contact.node_id for contact in self.neighbours.outgoing(self.round)}
            missing = wanted - self._claims.taken_since(here)
            missing |= {receiver for receiver in receivers if not self.mass.has_given(receiver, here)}
            wanted |= receivers
        else:
            missing = wanted - self._heard.heard_from(here)
        return self.patience.waits_for(missing, wanted)

    @property
    def _waits(self) -> bool:
        """Whether this device has told the neighbours of its model, and not yet averaged it with theirs."""
        return self.stage is Stage.MIX and self._shared == (self.round, self.step) and self._averaging is None

    def _mix_if_complete(self, now: float) -> None:
        if self._waits and not self._missing() and not self.neighbours.lost:
            self._mix(now)

    def _mix(self, now: float) -> None:
        """Average with those that were heard, and forget what was used."""
        self.cancel_timer("slot")
        self.cancel_timer("again")
        if self.vector is None or self._averaging is not None:
            return
        if self.options.mixing == PUSH_SUM:
            self._mixed_rounds = self._claims.rounds()
            shares = self.mass.shares(self.vector)
        else:
            wanted = {contact.node_id for contact in self.neighbours.incoming(self.round)}
            taken = self._heard.take((self.round, self.step), self.round - MAX_AGE, wanted)
            self._mixed_rounds = [key[0] for key, _ in taken.values()]
            degree, used = len(self.neighbours.outgoing(self.round)), [heard for _, heard in taken.values()]
            shares = weighted(self.options.mixing, Heard(self.vector, self.samples, degree), used)
            if used:
                self.momentum.on_heard()
            if self.step == self.options.steps - 1:
                shares += self.momentum.terms()
        self._fetch(self._heard.waiting())
        self._averaging = Averaging(shares)
        self._average(now)

    def _average(self, now: float) -> None:
        """Go on with the average; other things come in between."""
        averaging = self._averaging
        if averaging is None:
            return
        if not averaging.go_on():
            self.set_timer("average", now)
            return
        self.vector, self._averaging = averaging.result, None
        self.step += 1
        if self.step < self.options.steps:
            self._share(self.step)
            return
        self._catch_up(self._mixed_rounds)
        if self.options.pace_s > 0:
            self.set_timer("pace", max(now, self._round_began + self.options.pace_s))
        else:
            self.train(now)

    def _catch_up(self, rounds: list[int]) -> None:
        """Go on in the neighbours' round when more than half of those heard are far ahead."""
        middle = sorted(rounds)[(len(rounds) - 1) // 2] if rounds else 0
        if middle > self.round + MAX_AGE:
            self.count("caught_up")
            self.round = middle
            self.momentum.forget()

    def is_neighbour(self, node_id: int, round_: int) -> bool:
        """Whether models of that round may come from this device."""
        sent_to = (contact.node_id for contact in self.neighbours.outgoing(round_))
        return self.neighbours.expects(node_id, round_) or node_id in sent_to

    def _checked(self, blob: BlobRef, data: Any) -> Vector | None:
        """The vector in a blob that was fetched; None for one that could not be had, or is no model."""
        if data is None:
            return None
        self.fetched_bytes += blob.size
        self.shown.let_go([blob])
        vector = read_model(data, self.manifest.parameters)
        if vector is None:
            self.count("implausible")
        return vector

    def set_timer(self, name: str, at: float) -> None:
        self.effects.set_timer(("learning", self.app, name), at)

    def _cancel_timers(self) -> None:
        for name in self.TIMERS:
            self.cancel_timer(name)

    def cancel_timer(self, name: str) -> None:
        self.effects.cancel_timer(("learning", self.app, name))

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
