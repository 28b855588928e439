"""What systemd hears of the daemon: READY, STATUS, WATCHDOG, STOPPING (sd_notify(3)); silent where nobody listens.

The watchdog is fed from the event loop alone, so a loop that hangs is noticed and the daemon is started again.
"""

from __future__ import annotations

import contextlib
import os
import socket


class Supervisor:
    """Datagrams to the socket that systemd named in NOTIFY_SOCKET."""

    def __init__(self, address: str | None = None) -> None:
        address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(microseconds) / 2e6 if microseconds.isdecimal() else None
        """How often the watchdog wants to be fed (half of its limit), or None without one."""

    def notify(self, **fields: str) -> None:
        """Send e.g. READY="1", STATUS="round 3". A supervisor that does not read is no reason to stop."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), self._address)
