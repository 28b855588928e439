"""A device's own part of the rounds: whether it trains, when its delta is added, and what it says of its own pace.

    event                                sync, quantile                     buffered
    round opens, lot not drawn           no part                            no part (what it has is added)
    round opens, idle                    train; waited for                  train; waited for if it will be in time
    round opens, still training          training starts anew               goes on; waited for if it will be in time
    round opens, delta finished          (cannot be)                        added at once; trains again, not waited for
    trained, its round is collecting     added                              added, to whatever round is collecting
    trained, no round is collecting      dropped                            kept for the next round
    declined: may not train in time      no longer waited for               no longer waited for
    its time is over                     dropped (quantile)                 no longer waited for
    too stale                            (cannot be)                        dropped and counted
    final evaluation                     evaluates                          evaluates; what is unfinished is dropped
    works for another application        (cannot be)                        no part (edgefl/learning/together.py)

A delta is handed over once: to the sum of one round, whatever becomes of that sum. So it never counts twice, neither
after a change of the root nor after a retry; what a round loses is lost.

In a buffered application weights are counted in 1 / WEIGHT_UNIT samples: a delta counts for n * (1 + staleness)^-e
samples, which is no whole number. Staleness is the difference of two round numbers: that of the round it enters and of
the one it was trained in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.learning.effects import Tag, TrainJob, TrainResult
from edgefl.learning.forest.durations import merge_reports, one_duration
from edgefl.learning.forest.need import SQUARES_METRIC
from edgefl.learning.forest.round import OpenRound, RoundState
from edgefl.learning.forest.selection import is_selected
from edgefl.learning.metrics import TRAIN_PREFIX
from edgefl.learning.pace import Pace, parse_pace
from edgefl.wire.learning import Metric, PaceReport, RoundKind

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

WEIGHT_UNIT = 64
"""Parts of a sample that weights are counted in where they are discounted: right to 1 % even for a single sample."""

STALENESS_METRIC = "train_staleness"

UNFINISHED = 2.0
"""Training that has not finished is expected to take this many times what it has taken so far."""


@dataclass(frozen=True, slots=True)
class Running:
    """A job that was handed to the trainer. `since`: when its round opened here, or its turn came."""

    job: TrainJob
    since: float


class LocalTraining:
    """What this device trains, has trained and not yet handed over, and how long that takes."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self.pace: Pace = parse_pace(app.manifest.pace)
        self.unit = WEIGHT_UNIT if self.pace.buffered else 1
        self.running: Running | None = None
        self.finished: tuple[Running, TrainResult] | None = None
        self._trained_s = self._sent_s = 0.0  # the last time; 0 before the first
        self._begun: Tag = (0, 0, 0)
        self._turn_since = 0.0

    # A round

    def open(self, round_: OpenRound, now: float) -> None:
        """A round opens here: what this device does for it. Called before anything is added to its sum."""
        app = self._app
        self._turn_since = round_.started
        if round_.kind is not RoundKind.TRAIN:
            if self.finished is not None:
                app.count("delta_unused")
            self.running = self.finished = None
            if app.together is not None:
                app.together.free(app.id)
            round_.own_pending = round_.own_to_come = app.trains and round_.kind is RoundKind.EVALUATE
            return
        if not app.trains:
            return
        if self.pace.buffered:
            self._forget_stale(round_, now)
        else:
            self.running = None
        selected = self._selected(round_)
        if not selected and self.finished is None and self.running is None:
            return
        self._expect_own(round_, now)
        if self.finished is not None:
            round_.own_to_come = selected
            self._hand_over(round_)
            return
        round_.own_to_come = self.running is None
        self._wait_for_own(round_, now)
        if app.together is not None and round_.own_to_come and not round_.own_pending:
            round_.own_to_come = False
            app.together.free(app.id)  # until the model is here

    def _expect_own(self, round_: OpenRound, now: float) -> None:
        """This device may have a part in the round's sum, and so long."""
        round_.sum.expect(self._app.me.node_id)
        round_.own_until = min(round_.closes, now + round_.own_s) if round_.own_s > 0 else round_.closes

    def _wait_for_own(self, round_: OpenRound, now: float) -> None:
        """The round waits for this device's own part, if that should be in time."""
        round_.own_pending = not self.pace.buffered or self._in_time(round_, now)
        if round_.own_pending and round_.own_until is not None and self.pace.measured:
            self._app.set_timer("own", round_.own_until)

    def _selected(self, round_: OpenRound) -> bool:
        """Whether this device works for the round: its lot, or its turn among the applications that share it."""
        app, together = self._app, self._app.together
        if together is None:
            return is_selected(app.manifest.salt, round_.tag, app.me.node_id, round_.threshold)
        app.need.heard(round_.need)
        together.tell(app.id, app.need.value)
        return self.finished is None and together.claims(app.id)

    def may_begin(self, round_: OpenRound) -> bool:
        """Whether the open round has a model here that this device has not begun to train, and could. A root or a
        runner-up that holds the next model already has given up this one, and its round is about to begin."""
        idle = self.running is None and self.finished is None and not round_.own_to_come
        new = round_.kind is RoundKind.TRAIN and round_.tag != self._begun
        held = round_.model_data is not None and round_.model == self._app.ledger.model
        return new and idle and held and not round_.kept_pending

    def begin(self, round_: OpenRound, now: float) -> None:
        """The turn of this application has come while its round is open."""
        self._turn_since = now
        round_.own_to_come = True
        if round_.state is RoundState.COLLECTING and not round_.sum.sealed and not round_.own_in:
            self._expect_own(round_, now)
            self._wait_for_own(round_, now)
        self.on_ready(round_, now)

    def on_ready(self, round_: OpenRound, now: float) -> None:
        """The round's model is here, or what the last round left: training begins when both are."""
        together = self._app.together
        if together is not None and self.may_begin(round_) and together.claims(self._app.id):
            self.begin(round_, now)
            return
        if round_.own_to_come and round_.model_data is not None and not round_.kept_pending:
            round_.own_to_come = False
            seed, kept = self.seed(round_.tag), self._app.kept.held
            goes_on = self.pace.buffered and round_.kind is RoundKind.TRAIN
            deadline = math.inf if goes_on else round_.closes
            job = TrainJob(round_.tag, round_.kind, round_.model, seed, kept, deadline)
            self.running, self._begun = Running(job, self._turn_since), round_.tag
            self._app.effects.train(self._app.id, job)

    def seed(self, tag: Tag) -> int:
        """Different for every device and round, the same when a round is replayed."""
        epoch, number, attempt = tag
        mixed = self._app.manifest.seed * 0x9E3779B97F4A7C15 + self._app.me.node_id
        return (mixed ^ (epoch << 48) ^ (attempt << 40) ^ number) & (2**63 - 1)

    def on_trained(self, round_: OpenRound | None, tag: Tag, result: TrainResult | None, now: float) -> bool:
        """A job is done, or has failed (None). True when that changes the open round."""
        running = self.running
        if running is None or running.job.tag != tag:
            return False
        self.running = None
        self._give_turn_back(running, now, worked=result is not None and not result.declined)
        if result is None or result.declined or result.diverged:
            declined = result is not None and result.declined
            self._app.count("training_declined" if declined else "training_failed")
            return round_ is not None and self._give_up(round_)
        if running.job.kind is RoundKind.TRAIN:
            self._trained_s = now - running.since
            if self.pace.buffered:
                self._app.kept.on_trained(tag, result.kept)
                self.finished = (running, result)
                return round_ is not None and self._hand_over(round_)
        if round_ is None or tag != round_.tag or not self._give_up(round_):
            return False
        self._app.kept.on_trained(tag, result.kept)
        if round_.state is RoundState.COLLECTING:
            self._add(round_, result, result.samples, result.metrics)
            round_.evaluated += round_.kind is RoundKind.EVALUATE
        else:
            self._app.kept.on_lost()
        return True

    def _give_turn_back(self, running: Running, now: float, *, worked: bool) -> None:
        """Another application may have its turn. Evaluation takes none."""
        together = self._app.together
        if together is not None and running.job.kind is RoundKind.TRAIN:
            if worked:
                together.charge(self._app.id, now - running.since)
            together.free(self._app.id)

    def _give_up(self, round_: OpenRound) -> bool:
        """Wait for this device's own part no longer. Whether it was waited for."""
        pending, round_.own_pending = round_.own_pending, False
        return pending

    def on_time_over(self, round_: OpenRound) -> None:
        """The round goes on without this device's own part."""
        if self._give_up(round_):
            self._app.count("own_out_of_time")
        if self._app.together is not None and round_.own_to_come:
            round_.own_to_come = False
            self._app.together.free(self._app.id)

    # Handing over what is finished

    def _hand_over(self, round_: OpenRound) -> bool:
        """Add the finished delta to a round that can still take all of it."""
        if self.finished is None or round_.kind is not RoundKind.TRAIN or round_.own_in:
            return False
        if round_.state is not RoundState.COLLECTING or round_.sum.sealed:
            return False
        (running, result), self.finished = self.finished, None
        round_.own_in, round_.own_pending = True, False
        staleness = self._staleness(running, round_)
        if staleness > self.pace.max_staleness:
            self._drop(round_)
            return True
        fresh = running.job.model == round_.model
        metrics = [m for m in result.metrics if fresh or m.name.startswith(TRAIN_PREFIX)]
        metrics.append(Metric(STALENESS_METRIC, float(staleness), 1.0))
        weight = max(1, round(result.samples * self.unit * self.pace.discount(staleness))) if result.samples > 0 else 0
        if self._app.together is not None:
            counted = float(min(weight, round_.sum.max_samples))
            metrics.append(Metric(SQUARES_METRIC, result.square * counted, counted))
        self._add(round_, result, weight, tuple(metrics))
        round_.report = merge_reports(round_.report, PaceReport(stalest=staleness))
        return True

    def _add(self, round_: OpenRound, result: TrainResult, weight: int, metrics: tuple[Metric, ...]) -> None:
        try:
            round_.sum.add_own(result.delta, weight, metrics)
        except WireError:
            self._app.count("training_failed")
            self._app.kept.on_lost()

    def _forget_stale(self, round_: OpenRound, now: float) -> None:
        """What would be too stale in this round will not be fresher in a later one."""
        if self.finished is not None and self._staleness(self.finished[0], round_) > self.pace.max_staleness:
            self.finished = None
            self._drop(round_)
        running = self.running
        if running is not None and (
            running.job.kind is not RoundKind.TRAIN or self._staleness(running, round_) > self.pace.max_staleness
        ):
            self.running = None
            self._give_turn_back(running, now, worked=True)
            self._drop(round_)

    def _drop(self, round_: OpenRound) -> None:
        self._app.count("delta_too_stale")
        round_.report = merge_reports(round_.report, PaceReport(dropped=1))

    def _staleness(self, running: Running, round_: OpenRound) -> int:
        """Rounds; a root that went back behind the job's round finds it fresh."""
        return max(0, round_.tag[1] - running.job.tag[1])

    # Time

    def on_sent(self, seconds: float) -> None:
        """The parent has taken all of an update, so long after it was whole."""
        self._sent_s = seconds

    def report(self, round_: OpenRound, now: float) -> None:
        """Add how long this device takes to what its subtree has said."""
        if self.pace.measured and round_.own_until is not None:
            seconds = self._needs_s(now)
            if seconds > 0:
                one = PaceReport(one_duration(seconds + self._sent_s))
                round_.report = merge_reports(round_.report, one)

    def _needs_s(self, now: float) -> float:
        """How long training takes here, from the opening of a round; 0: not known yet."""
        elapsed_s = 0.0 if self.running is None else now - self.running.since
        return self._trained_s if elapsed_s <= self._trained_s else UNFINISHED * elapsed_s

    def _in_time(self, round_: OpenRound, now: float) -> bool:
        """Whether this device's part can be expected while it is waited for; a first time is worth a trial."""
        since = now if self.running is None else self.running.since
        return round_.own_until is None or since + self._needs_s(now) <= round_.own_until
