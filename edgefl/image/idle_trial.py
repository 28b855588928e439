"""What an image does that has joined and has nothing to do: memory that it uses, and what it writes to its card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.image.guest import Guest, TrialError, invite, own_address

SETTLE_S = 180.0
"""Until what a start writes is written: file systems are grown, contacts and the state of services remembered."""


def run_idle(guest: Guest, minutes: float) -> dict[str, Any]:
    """Count over so long, at the block device, after it has settled. Raises TrialError when a unit has failed."""
    guest.work.mkdir(parents=True)
    parts = digits.write_parts(digits.divide(3, 0), guest.work)
    with LocalFleet(guest.work, 2, parts[:2], host=own_address()) as fleet, guest.machine:
        guest.start_fleet(fleet)
        guest.prepare(invite(fleet, guest.work), Path(parts[2]["digits"]))
        guest.machine.start()
        guest.until_joined(1)
        guest.say("the image is in the fleet")
        time.sleep(SETTLE_S)
        first = guest.figures("guest-settled.txt")
        began = time.monotonic()
        rows = [(0.0, first["written"])]
        while rows[-1][0] < minutes:
            time.sleep(min(60.0, minutes * 60))
            now = guest.figures("guest-idle.txt")
            rows.append(((time.monotonic() - began) / 60, now["written"]))
            (guest.work / "written.txt").write_text("".join(f"{at:.2f} min {kb} kB\n" for at, kb in rows))
        caches = sum(now[name] for name in ("MemFree", "Buffers", "Cached", "SReclaimable"))
        if (guest.work / "guest-idle.txt").read_text().count("●"):
            raise TrialError("a unit failed in the image", hint=f"look at {guest.work / 'guest-idle.txt'}")
        minutes_passed, written = rows[-1][0], rows[-1][1] - rows[0][1]
        return {
            "memory_used_mb": (now["MemTotal"] - caches) // 1024,
            "memory_available_mb": now["MemAvailable"] // 1024,
            "edgefl_rss_mb": now["VmRSS"] // 1024,
            "minutes": round(minutes_passed, 1),
            "written_kb": written,
            "written_kb_per_hour": round(written * 60 / minutes_passed),
        }
