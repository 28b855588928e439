"""A device in a process of its own, for tests that kill it: prints its contact, then echoes every Ping as a Pong.

Arguments: a join token, and optionally the host, port and node id of a device that it greets with a Ping.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from edgefl.identity.admission import Admission
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.token import parse
from edgefl.transport import Timing, Transport
from edgefl.wire.codec import Message
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Ping, Pong


class Echo:
    def __init__(self) -> None:
        self.transport: Transport | None = None

    def on_message(self, sender: Contact, message: Message) -> None:
        if isinstance(message, Ping) and self.transport is not None:
            self.transport.send(sender, Pong(message.request, True))

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None: ...

    def on_link_lost(self, node_id: int) -> None: ...

    def on_admission_changed(self) -> None: ...


async def main() -> None:
    keys, listener = DeviceKeys.generate(), Echo()
    admission = Admission(keys)
    admission.join(parse(sys.argv[1]))
    timing = Timing(heartbeat=0.5, heartbeat_timeout=1.5)
    listener.transport = Transport(
        keys, admission, listener, listen=("127.0.0.1", 0), executor=ThreadPoolExecutor(1), timing=timing
    )
    _, port = await listener.transport.start()
    sys.stdout.write(f"{keys.node_id} {port}\n")
    sys.stdout.flush()
    if len(sys.argv) > 2:
        host, port, node_id = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        listener.transport.send(Contact(node_id, host, port), Ping(1))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
