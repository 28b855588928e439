"""One player: this device in one tree, choosing among its candidate parents.

An epoch is a round of the application. Whatever is decided is carried out between two of them, so that a round never
has two parents: at once while the next one has not begun here, else when it is over.

    IDLE     a round is over: ask the candidates and the parent for their prices                            --> ASKING
    ASKING   all have answered or the time is over; the best is worth a move, and with probability rho (more for who
             gains much) this is our turn: ask it whether we may come                                       --> MOVING
             nothing is worth a move, or it is not our turn                                                 --> IDLE
    MOVING   it re-checks with its load of this moment. Yes, and no round is open here: attach there, then leave the
             old parent (make before break)                                                                 --> IDLE
             yes, but the next round has begun                                                              --> GRANTED
             no, or silence                                                                                 --> IDLE
    GRANTED  the round is over: move                                                                        --> IDLE

A parent that tells its own child that it takes nobody is unwell (an empty battery, a full memory, heat): the child goes
to whoever takes it, now and at any cost.

Candidates: the nearest three and two at random of those that outrank us; every ten epochs the worst makes room for
another. Rank rises along every edge whatever is chosen, so no move can close a cycle (rank.py).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from edgefl.overlay.game.equilibrium import Epsilon, of_player
from edgefl.overlay.game.experience import Experience
from edgefl.overlay.game.model import cost_s, margin_s, site_s
from edgefl.overlay.game.rules import CANDIDATES, NEAREST_CANDIDATES, Parameters, Rule
from edgefl.wire.game import MoveAsk, MoveTold, PriceAsk, PriceTold

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgefl.overlay.device import Device
    from edgefl.overlay.game.bandits import OnePlayer
    from edgefl.overlay.game.residuals import Residuals
    from edgefl.overlay.liveness import Liveness
    from edgefl.overlay.requests import Requests
    from edgefl.wire.contact import Contact

LEAST_ASKED_S = 1.0
"""How long prices are waited for; a candidate that takes longer is none."""

UNKNOWN_RTT_S = 0.05
"""Of a candidate that was never measured: middling, so that it is neither shunned nor sought."""

LEAST_PAUSE_S = 5.0
"""Between two looks at prices: sensors sample as often (telemetry/load.py). Rounds of a tiny model are shorter, and six
questions in each would be a good part of its traffic."""

NO_LIMIT_S = 1e9
"""What any other parent may cost when ours is unwell: what is told must be finite."""

BANDITS = (Rule.KLUCB, Rule.EXP3)


class Stage(Enum):
    IDLE = "idle"
    ASKING = "asking"
    MOVING = "moving"
    GRANTED = "granted"


class Seat(Protocol):
    """The tree as its player sees it."""

    @property
    def app(self) -> int: ...
    @property
    def parent(self) -> Contact | None: ...
    def options(self, now: float) -> list[Contact]:
        """Live devices of the right zone that outrank us."""
        ...

    def switch(self, to: Contact, now: float) -> None:
        """Attach there, then leave the present parent."""
        ...


class Player:
    """`size_bytes`: what this device sends to its parent in a round."""

    __slots__ = (
        "_asked_at",
        "_bandit",
        "_candidates",
        "_device",
        "_epoch",
        "_experience",
        "_in_round",
        "_liveness",
        "_parameters",
        "_requests",
        "_rule",
        "_seat",
        "_target",
        "_told",
        "_waiting",
        "_zones",
        "cost_s",
        "delay_s",
        "epsilon",
        "size_bytes",
        "stage",
    )

    def __init__(
        self,
        seat: Seat,
        device: Device,
        requests: Requests,
        liveness: Liveness,
        residuals: Residuals,
        rule: Rule,
        parameters: Parameters,
    ) -> None:
        self._seat = seat
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._rule = rule
        self._parameters = parameters
        self._candidates: list[int] = []
        self._told: dict[int, PriceTold] = {}
        self._zones: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._target: Contact | None = None
        self._epoch = 0
        self._in_round = False
        self._asked_at = float("-inf")
        self._experience = Experience(residuals)
        self._bandit: OnePlayer | None = None
        if rule in BANDITS:
            from edgefl.overlay.game.bandits import OnePlayer  # NumPy: an idle device does without

            self._bandit = OnePlayer(rule, CANDIDATES)
        self.stage = Stage.IDLE
        self.size_bytes = 0
        self.epsilon = Epsilon()
        self.cost_s = 0.0
        """Of our parent, when we last compared it with others."""
        self.delay_s = 0.0
        """To the root, as of the last round: what we advertise ourselves. It is looked at in every round, or those who
        choose by it would follow adverts of trees that are no more."""

    # Rounds

    def on_round_open(self) -> None:
        self._in_round = True

    def on_round_over(self, size_bytes: int, waited_s: float, now: float) -> None:
        """Our update is with the parent; `waited_s` is how long it was ready and not taken."""
        self.size_bytes, self._in_round = size_bytes, False
        parent, target = self._seat.parent, self._target
        if parent is None:
            self.reset()
            return
        self._epoch += 1
        told = self._told.get(parent.node_id)
        of_site_s = 0.0 if told is None else self._site_s(parent.node_id, told)
        self._experience.on_round_over(parent.node_id, told, of_site_s, waited_s)
        if self.stage is Stage.GRANTED and target is not None:
            self._experience.learn(self._told)
            self._move(target, now)
            return
        self._refresh_candidates(now)
        if self._bandit is not None:
            self._play(self._bandit, parent, waited_s, now)
        if self.stage is Stage.IDLE and now - self._asked_at >= LEAST_PAUSE_S:
            self._ask(parent, now)
        if self.stage is not Stage.ASKING:
            self._experience.learn(self._told)

    def _move(self, target: Contact, now: float) -> None:
        self.stage, self._target = Stage.IDLE, None
        self._device.counters["game_moves"] += 1
        self._set_delay(target.node_id)
        self._seat.switch(target, now)

    def reset(self) -> None:
        """The parent is lost: what was going on has no meaning any more."""
        for node_id in self._waiting:
            self._requests.cancel(self._question(node_id))
        if self._target is not None:
            self._requests.cancel(self._question(self._target.node_id))
        self._waiting.clear()
        self._experience.forget_round()
        self.stage, self._target = Stage.IDLE, None

    # Candidates

    def _refresh_candidates(self, now: float) -> None:
        options = {contact.node_id: contact for contact in self._seat.options(now)}
        known = [node_id for node_id in self._candidates if node_id in options]
        if self._epoch % self._parameters.window == 0 and len(known) == CANDIDATES:
            known.remove(max(known, key=lambda node_id: self._expected_s(node_id)))
        others = [node_id for node_id in options if node_id not in known]
        self._device.random.shuffle(others)
        if not known:
            others = sorted(others, key=self._rtt_s)[:NEAREST_CANDIDATES] + others
            others = list(dict.fromkeys(others))
        self._candidates = known + others[: CANDIDATES - len(known)]
        parent = self._seat.parent
        self._told = {
            node_id: told
            for node_id, told in self._told.items()
            if node_id in self._candidates or (parent is not None and node_id == parent.node_id)
        }
        self._zones = {node_id: zone for node_id, zone in self._zones.items() if node_id in self._told}

    def _site_s(self, node_id: int, told: PriceTold) -> float:
        """What the uplink of its site costs us. Our stream is counted there if our parent is at the same site."""
        if not told.site_s_per_byte:
            return 0.0
        parent = self._seat.parent
        counted = parent is not None and parent.zone == self._zones.get(node_id, parent.zone)
        price_s: float = site_s(
            s_per_byte=told.site_s_per_byte,
            load_bytes=told.site_load_bytes,
            size_bytes=self.size_bytes,
            counted=counted,
        )
        return price_s

    def _rtt_s(self, node_id: int) -> float:
        measured = self._liveness.rtt_s(node_id)
        return UNKNOWN_RTT_S if measured is None else measured

    # Prices

    def _ask(self, parent: Contact, now: float) -> None:
        options = {contact.node_id: contact for contact in self._seat.options(now)}
        asked = [options[node_id] for node_id in self._candidates if node_id in options]
        if all(contact.node_id != parent.node_id for contact in asked):
            asked.append(parent)
        self.stage, self._asked_at = Stage.ASKING, now
        self._waiting = {contact.node_id for contact in asked}
        for contact in asked:
            timeout_s = max(LEAST_ASKED_S, self._liveness.timeout_s(contact.node_id, now))
            if self._requests.open(
                self._question(contact.node_id), contact.node_id, now, timeout_s, self._no_price(contact.node_id)
            ):
                self._device.send(contact, PriceAsk(self._seat.app))
            else:
                self._waiting.discard(contact.node_id)
        if not self._waiting:
            self.stage = Stage.IDLE

    def _no_price(self, node_id: int) -> Callable[[float], None]:
        def silent(now: float) -> None:
            self._told.pop(node_id, None)
            self._answered(node_id, now)

        return silent

    def on_price(self, sender: Contact, message: PriceTold, now: float) -> None:
        """A candidate's price; unasked ones are ignored."""
        node_id = sender.node_id
        asked_at = self._requests.close(self._question(node_id), node_id)
        if asked_at is None or node_id not in self._waiting:
            return
        self._liveness.measured(node_id, now - asked_at)
        if min(message.s_per_byte, message.penalty_s, message.delay_s, message.site_s_per_byte) < 0:
            self._device.counters["game_nonsense"] += 1
            self._told.pop(node_id, None)
        else:
            self._told[node_id] = message
            self._zones[node_id] = sender.zone
        self._answered(node_id, now)

    def _answered(self, node_id: int, now: float) -> None:
        self._waiting.discard(node_id)
        if not self._waiting and self.stage is Stage.ASKING:
            self.stage = Stage.IDLE
            self._experience.learn(self._told)
            self._decide(now)

    def _expected_s(self, node_id: int) -> float:
        """What it would cost us, by its word and what we have learnt of it; infinite if it takes nobody."""
        told, parent = self._told.get(node_id), self._seat.parent
        is_parent = parent is not None and parent.node_id == node_id
        if told is None or (told.closed and not is_parent):
            return float("inf")
        expected: float = cost_s(
            rtt_s=self._rtt_s(node_id) + self._experience.surprise_s(node_id),
            penalty_s=told.penalty_s,
            s_per_byte=told.s_per_byte,
            load_bytes=told.load_bytes + (0 if is_parent else self.size_bytes),
            delay_s=told.delay_s,
            delay_weight=self._parameters.delay_weight,
            site_s=self._site_s(node_id, told),
        )
        return expected

    def _set_delay(self, parent: int) -> None:
        """Ours to the root through this parent. Chunks flow, so the slower of our own link and the parent decides."""
        told = self._told.get(parent)
        if told is not None:
            here_s = self._expected_s(parent) - self._parameters.delay_weight * told.delay_s
            self.delay_s = told.delay_s + max(here_s if here_s < float("inf") else 0.0, self._experience.own_s or 0.0)

    # Decisions

    def _decide(self, now: float) -> None:
        parent = self._seat.parent
        if parent is None or parent.node_id not in self._told:
            return
        here_s = self._expected_s(parent.node_id)
        self._set_delay(parent.node_id)
        others = [node_id for node_id in self._candidates if node_id != parent.node_id]
        best = min(others, key=self._expected_s, default=None)
        there_s = float("inf") if best is None else self._expected_s(best)
        self.cost_s = here_s
        self.epsilon = of_player(here_s - there_s, here_s, self.size_bytes)
        gain_share = max(0.0, 1 - there_s / here_s) if here_s > 0 else 0.0
        unwell = self._told[parent.node_id].closed  # it takes nobody: anybody else is better for both
        margin = margin_s(here_s, self._parameters.eta_s, self._parameters.eta_share)
        worth_s = NO_LIMIT_S if unwell else here_s - margin
        if best is None or self._rule in (Rule.RTT, *BANDITS) or there_s >= worth_s:
            return
        if not unwell and self._device.random.random() >= self._parameters.revise + self._parameters.urge * gain_share:
            return
        target = next((contact for contact in self._seat.options(now) if contact.node_id == best), None)
        if target is None:
            return
        self._target = target
        if self._rule is Rule.SMOOTH:
            if self._device.random.random() < self._parameters.alpha * gain_share:
                self.stage = Stage.GRANTED
            else:
                self._target = None
            return
        told = self._told[best]
        own_part_s = self._rtt_s(best) + self._experience.surprise_s(best) + self._site_s(best, told)
        budget_s = worth_s - own_part_s - self._parameters.delay_weight * told.delay_s
        timeout_s = max(LEAST_ASKED_S, self._liveness.timeout_s(best, now))
        if self._requests.open(self._question(best), best, now, timeout_s, self._no_grant):
            self.stage = Stage.MOVING
            self._device.send(target, MoveAsk(self._seat.app, self.size_bytes, budget_s))
        else:
            self._target = None

    def on_move_told(self, sender: Contact, message: MoveTold, now: float) -> None:
        target = self._target
        if self.stage is not Stage.MOVING or target is None or sender.node_id != target.node_id:
            return
        if self._requests.close(self._question(sender.node_id), sender.node_id) is None:
            return
        if message.granted and not self._in_round:
            self._move(target, now)
        elif message.granted:
            self.stage = Stage.GRANTED
        else:
            self._device.counters["game_refused"] += 1
            self.stage, self._target = Stage.IDLE, None

    def _no_grant(self, now: float) -> None:
        self.stage, self._target = Stage.IDLE, None

    def _question(self, node_id: int) -> tuple[str, int, int]:
        return ("game", self._seat.app, node_id)

    # Baselines that ask nobody

    def _play(self, bandit: OnePlayer, parent: Contact, waited_s: float, now: float) -> None:
        """Learn what the parent in use has cost, and go where the index or the dice say."""
        if parent.node_id not in self._candidates:
            self._candidates = [*self._candidates[: CANDIDATES - 1], parent.node_id]
        delays_s = [told.delay_s if (told := self._told.get(i)) is not None else 0.0 for i in self._candidates]
        column, delay_s = bandit.choose(
            self._candidates.index(parent.node_id),
            self._rtt_s(parent.node_id) + waited_s,
            min(self._rtt_s(node_id) for node_id in self._candidates),
            delays_s,
            self._epoch,
            self._device.random.random(),
        )
        self.delay_s = self.delay_s if delay_s is None else delay_s
        chosen = self._candidates[column]
        target = next((contact for contact in self._seat.options(now) if contact.node_id == chosen), None)
        if target is not None and chosen != parent.node_id:
            self._device.counters["game_moves"] += 1
            self._seat.switch(target, now)
