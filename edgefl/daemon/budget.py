"""What the daemon may take of its device ([limits]), and what it has taken: the gate of training, and a count of bytes.

Looked at with every sample of the load. A pause is logged when it begins and when it ends; `edgefl status` shows why
and since when. A device whose bytes are used up declines to train and becomes a leaf, until the next day or month.
"""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import date
from typing import TYPE_CHECKING, Any

from edgefl.errors import StorageError
from edgefl.limits import DeviceLimits
from edgefl.telemetry.allowance import Allowance
from edgefl.telemetry.permit import Permit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgefl.daemon.disk import Disk
    from edgefl.daemon.training import Training
    from edgefl.store import Store
    from edgefl.telemetry.load import Load

log = logging.getLogger("edgefl.budget")

SETTING = "transfer"
"""Where the count of bytes is kept in the store."""


class Budget:
    """`traffic`: the transport's counters. `clock`: the calendar, as time.localtime."""

    def __init__(
        self,
        limits: DeviceLimits,
        training: Training,
        disk: Disk,
        traffic: Mapping[str, int],
        clock: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self.limits = limits
        self.permit = Permit(limits)
        self.allowance: Allowance | None = None
        if limits.transfer is not None:
            self.allowance = Allowance(limits.transfer, disk.store.read_setting(SETTING))
        self._training, self._disk, self._traffic, self._clock = training, disk, traffic, clock

    @property
    def spent(self) -> bool:
        """Whether the bytes of this period are used up."""
        return self.allowance is not None and self.allowance.spent

    def look(self, load: Load | None, now: float) -> None:
        """Count what was transferred, and let training go on or pause."""
        here = self._clock()
        if self.allowance is not None:
            total = self._traffic.get("bytes_sent", 0) + self._traffic.get("bytes_received", 0)
            if self.allowance.count(total, date(here.tm_year, here.tm_mon, here.tm_mday)):
                self._disk.soon(self._record(self.allowance.record()))
        before = self.permit.pause
        self.permit.look(load, here.tm_hour * 60 + here.tm_min, self._spent_text(), now)
        pause = self.permit.pause
        if pause is None:
            self._training.gate.open_gate()
        else:
            self._training.gate.close_gate(pause.until)
        if before is None and pause is not None:
            log.warning("training pauses: %s", pause.why)
        elif before is not None and pause is None:
            log.info("training goes on after %.0f s", now - before.since)

    async def close(self) -> None:
        """Write the exact count."""
        if self.allowance is not None:
            with contextlib.suppress(StorageError):  # remembered and shown by the disk
                await self._disk.run(self._record(self.allowance.record(exact=True)))

    def document(self, now: float) -> dict[str, Any]:
        """What `edgefl status` shows under `limits`."""
        pause, turns, name = self.permit.pause, self._training.gate.turns, self._training.name
        running = turns.running
        return {
            "paused": None if pause is None else {"why": pause.why, "for_s": round(now - pause.since, 1)},
            "training": None if pause is not None or running is None else name(running),
            "waiting": [name(app) for app in turns.waiting if pause is not None or app != running],
            "cpu": self.limits.cpu,
            "transfer": self._transfer_document(),
        }

    def _transfer_document(self) -> dict[str, Any] | None:
        if self.allowance is None:
            return None
        quota = self.allowance.quota
        return {
            "used_bytes": self.allowance.used_bytes,
            "limit_bytes": quota.size_bytes,
            "period": quota.period,
            "spent": self.spent,
        }

    def _spent_text(self) -> str:
        quota = self.limits.transfer
        if not self.spent or quota is None:
            return ""
        return f"the {quota.size_bytes / 1e6:,.0f} MB of this {quota.period} are used up (transfer)"

    @staticmethod
    def _record(record: bytes) -> Callable[[Store], None]:
        return lambda store: store.write_setting(SETTING, record)
