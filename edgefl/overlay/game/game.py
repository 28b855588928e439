"""The routing game as one device takes part in it: a player in each tree, and one ledger as everybody's parent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from edgefl.overlay.game.equilibrium import Epsilon, total
from edgefl.overlay.game.ledger import Ledger, Price
from edgefl.overlay.game.player import Player, Seat
from edgefl.overlay.game.residuals import Residuals
from edgefl.overlay.game.rules import DEVICE, Parameters, Rule
from edgefl.overlay.game.site import Site
from edgefl.wire.game import EpsilonSum, MoveAsk, MoveTold, PriceAsk, PriceTold

if TYPE_CHECKING:
    from edgefl.overlay.device import Device
    from edgefl.overlay.liveness import Liveness
    from edgefl.overlay.requests import Requests
    from edgefl.overlay.routing import Router
    from edgefl.wire.contact import Contact
    from edgefl.wire.tree_walk import TreeTold


class Host(Seat, Protocol):
    """A tree in which this device may be a parent."""

    @property
    def observer(self) -> bool: ...
    def has_room_for(self, contact: Contact) -> bool:
        """It is lower in rank, and a place of its kind is free (or its own already)."""
        ...


class Game:
    """All players of a device, by application."""

    __slots__ = (
        "_below",
        "_device",
        "_liveness",
        "_parameters",
        "_players",
        "_requests",
        "_residuals",
        "_rule",
        "ledger",
        "site",
    )

    def __init__(
        self,
        device: Device,
        requests: Requests,
        liveness: Liveness,
        router: Router,
        rule: Rule = Rule.ACBR,
        parameters: Parameters = DEVICE,
    ) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._rule = rule
        self._parameters = parameters
        self._residuals = Residuals(parameters)
        self._players: dict[int, Player] = {}
        self._below: dict[int, dict[int, Epsilon]] = {}
        self.ledger = Ledger()
        self.site = Site(device, router, self.ledger)

    # Trees come and go

    def join(self, tree: Host) -> None:
        self._players[tree.app] = Player(
            tree, self._device, self._requests, self._liveness, self._residuals, self._rule, self._parameters
        )

    def leave(self, app: int, now: float) -> None:
        player = self._players.pop(app, None)
        if player is not None:
            player.reset()
        self._below.pop(app, None)
        self.ledger.release_app(app)
        self.site.on_change(now)

    def sizes(self) -> dict[str, int]:
        return {"promises": len(self.ledger), **self.site.sizes()}

    def player(self, app: int) -> Player | None:
        return self._players.get(app)

    def set_price(self, price: Price) -> None:
        """What this device costs others, from its sensors."""
        self.ledger.price = price

    def on_round_open(self, app: int) -> None:
        player = self._players.get(app)
        if player is not None:
            player.on_round_open()

    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None:
        player = self._players.get(app)
        if player is None or size_bytes <= 0:
            return
        if size_bytes != player.size_bytes:
            self.ledger.resize(app, size_bytes)
            self.site.on_change(now)
        player.on_round_over(size_bytes, waited_s, now)

    def on_parent_lost(self, app: int) -> None:
        player = self._players.get(app)
        if player is not None:
            player.reset()

    # Children

    def on_child(self, app: int, child: Contact, now: float) -> None:
        """A child has come, or has changed its zone: it sends what we send ourselves in a round."""
        player = self._players.get(app)
        self.ledger.promise(app, child.node_id, 0 if player is None else player.size_bytes, zone=child.zone)
        self.site.on_change(now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        self.ledger.release(app, child)
        self._below.get(app, {}).pop(child, None)
        self.site.on_change(now)

    # Epsilon

    def on_epsilon(self, app: int, child: int, said: EpsilonSum) -> None:
        """A child's subtree. Nonsense counts as nothing."""
        if min(said.max_s, said.gain_byte_s, said.cost_byte_s) < 0 or len(said.bins) != len(Epsilon().bins):
            self._device.counters["game_nonsense"] += 1
            return
        epsilon = Epsilon(said.max_s, said.gain_byte_s, said.cost_byte_s, said.players, said.bins)
        self._below.setdefault(app, {})[child] = epsilon

    def epsilon(self, app: int) -> Epsilon:
        """Of our subtree with ourselves; at the root, of the application."""
        player = self._players.get(app)
        own = [player.epsilon] if player is not None else []
        return total([*own, *self._below.get(app, {}).values()])

    def epsilon_sum(self, app: int) -> EpsilonSum | None:
        """The same for the parent; None while nobody has looked at prices yet."""
        epsilon, most = self.epsilon(app), 0xFFFFFFFF
        if not epsilon.players:
            return None
        return EpsilonSum(
            epsilon.max_s,
            epsilon.gain_byte_s,
            epsilon.cost_byte_s,
            min(most, epsilon.players),
            tuple(min(most, count) for count in epsilon.bins),
        )

    def place(self, told: TreeTold) -> TreeTold:
        """The same with what our parent costs us, and what we carry."""
        player = self._players.get(told.app)
        if player is None:
            return told
        return replace(
            told,
            cost_s=player.cost_s if told.parent is not None else 0.0,
            gain_s=player.epsilon.max_s if told.parent is not None else 0.0,
            size_bytes=player.size_bytes,
            load_bytes=self.ledger.load_bytes,
            delay_s=player.delay_s if told.parent is not None else 0.0,
        )

    # Messages

    def on_price_ask(self, tree: Host | None, sender: Contact, message: PriceAsk, now: float) -> None:
        """`tree`: ours of that application, if we are in it."""
        price, player = self.ledger.price, self._players.get(message.app)
        if tree is None or player is None or tree.observer:
            self._device.send(sender, PriceTold(message.app, closed=True))
            return
        self.ledger.expire(now)
        self.site.on_change(now)
        site_s_per_byte, site_load_bytes = self.site.advert(sender.zone, now)
        self._device.send(
            sender,
            PriceTold(
                message.app,
                price.s_per_byte,
                price.penalty_s,
                self.ledger.load_bytes,
                self._delay_s(tree),
                price.closed or not tree.has_room_for(sender),
                site_s_per_byte,
                site_load_bytes,
            ),
        )

    def _delay_s(self, tree: Host) -> float:
        player = self._players.get(tree.app)
        return 0.0 if tree.parent is None or player is None else player.delay_s

    def on_price_told(self, sender: Contact, message: PriceTold, now: float) -> None:
        player = self._players.get(message.app)
        if player is not None:
            player.on_price(sender, message, now)

    def on_move_ask(self, tree: Host | None, sender: Contact, message: MoveAsk, now: float) -> None:
        fits = tree is not None and not tree.observer and tree.has_room_for(sender)
        granted = fits and self.ledger.admit(
            message.app, sender.node_id, message.size_bytes, message.budget_s, now, zone=sender.zone
        )
        self.site.on_change(now)
        self._device.send(sender, MoveTold(message.app, granted, self.ledger.load_bytes))

    def on_move_told(self, sender: Contact, message: MoveTold, now: float) -> None:
        player = self._players.get(message.app)
        if player is not None:
            player.on_move_told(sender, message, now)
