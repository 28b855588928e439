"""The next model at the root: the strategy's step, and what the strategy remembers, as blobs that outlive the root.

    make     the mean delta of a round becomes the next model and the next memory; both are given names (blobs)
    on_kept  all of them have one: the round can be replicated
    is_ready a root that took over, or was restarted, reads the memory that belongs to its model

The memory is replicated and saved with the model it belongs to, so a successor takes exactly the step that the lost
root would have taken. Only where no device that is left holds it does the strategy begin afresh, which is counted
(`strategy_restarted`).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.declared import dataclass
from edgefl.learning.aggregate import is_finite
from edgefl.learning.metrics import means
from edgefl.learning.strategies.server import Facts, State, step_with_buffers, strategy_of

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.round import OpenRound
    from edgefl.wire.blob import BlobRef


@dataclass(slots=True)
class _Making:
    """The result of the round `tag`: its model's name and its memory's, as far as they have one."""

    tag: Tag
    state: State
    names: dict[int, BlobRef] = field(default_factory=dict)


class NextModel:
    """One application's models in the making, and the strategy's memory as of the newest, as float32 vectors."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self._strategy = strategy_of(app.manifest.strategy)
        self._memory: tuple[BlobRef, State] | None = None
        self._loading: dict[int, Any] = {}
        self._making: _Making | None = None

    def make(self, round_: OpenRound, share: float) -> bool:
        """Take the step of a closed round, in which `share` (0..1) of the members took part. Asks for names of what
        comes out; the answers come to `on_kept`. False, and nothing is asked, when the step leads to values that are
        not finite (or far too large): no device could train from there."""
        app, delta = self.app, round_.sum.total
        if delta is None:
            raise ValueError("nobody took part")
        model = np.frombuffer(round_.model_data, dtype="<f4")
        state = self._remembered()
        buffers = slice(app.trained or app.manifest.parameters, app.manifest.parameters)
        facts = Facts(share, means(round_.sum.metrics))
        with np.errstate(over="ignore", invalid="ignore"):
            new, after = step_with_buffers(self._strategy, model, delta, state, facts, buffers)
        if not all(is_finite(vector) for vector in (new, *after)):
            return False
        if after and not state and app.ledger.round:
            app.count("strategy_restarted")
        self._forget_making()
        self._making = _Making(round_.tag, after)
        for index, vector in enumerate((new, *after)):
            app.effects.keep(app.id, ("made", round_.tag, index), vector)
        return True

    def ask_for(self, round_: OpenRound) -> None:
        """Let the device owner's policy make it, in place of the strategy. The answer comes to `on_kept` as well, or
        `give_up` is called."""
        if round_.sum.total is None:
            raise ValueError("nobody took part")
        self._forget_making()
        self._making = _Making(round_.tag, ())
        token = ("made", round_.tag, 0)
        self.app.effects.renew(self.app.id, token, round_.model, round_.model_data, round_.sum.total)

    def give_up(self) -> None:
        """What was being made will not be."""
        self._forget_making()

    def on_kept(self, token: Token, blob: BlobRef) -> tuple[BlobRef, ...] | None:
        """One of the results has a name. The model and the memory when all have one, else None."""
        making, index = self._making, token[2]
        if making is None or token[1] != making.tag or not isinstance(index, int):
            self._discard(blob)
            return None
        making.names[index] = blob
        if len(making.names) <= len(making.state):
            return None
        return tuple(making.names[at] for at in range(len(making.names)))

    def commit(self) -> None:
        """The model that was made is the newest now (the ledger names it)."""
        if self._making is not None:
            self._memory = (self._making.names[0], self._making.state)
            self._making = None

    def drop(self) -> None:
        """This device is the root no more: forget what was being made, and the memory."""
        self._forget_making()
        self._memory = None
        self._loading.clear()

    def is_ready(self) -> bool:
        """Whether the next step can be taken: the memory is here, or there is none to be had. If not, what the ledger
        names is read, and the answers come to `on_loaded`."""
        app, ledger = self.app, self.app.ledger
        if len(ledger.state) != self._strategy.vectors:
            self._lose()
        if not ledger.state or (self._memory is not None and self._memory[0] == ledger.model):
            return True
        self._loading.clear()
        for index, blob in enumerate(ledger.state):
            app.effects.fetch(app.id, ("recover", "state", index), blob, ())
        return False

    def on_loaded(self, token: Token, blob: BlobRef, data: Any) -> bool:
        """A vector of the memory is here, or cannot be read (None). Whether that settles it."""
        ledger, index = self.app.ledger, token[2]
        if not isinstance(index, int) or index >= len(ledger.state) or ledger.state[index] != blob:
            return False
        vector = None if data is None else np.frombuffer(data, "<f4")
        if vector is None or not is_finite(vector):
            self._lose()
            return True
        self._loading[index] = vector
        if len(self._loading) < len(ledger.state) or ledger.model is None:
            return False
        self._memory = (ledger.model, tuple(self._loading[at] for at in range(len(self._loading))))
        self._loading.clear()
        return True

    def _remembered(self) -> State:
        """The memory, if it belongs to the model that the step starts from."""
        if self._memory is not None and self._memory[0] == self.app.ledger.model:
            return self._memory[1]
        return ()

    def _lose(self) -> None:
        """The memory that the ledger names is of no use."""
        ledger = self.app.ledger
        if ledger.model is not None:
            self.app.advance(ledger.round, ledger.model, finished=ledger.finished, state=())

    def _forget_making(self) -> None:
        if self._making is not None:
            for blob in self._making.names.values():
                self._discard(blob)
        self._making = None

    def _discard(self, blob: BlobRef) -> None:
        if blob not in self.app.ledger.blobs():
            self.app.effects.discard(self.app.id, blob)
