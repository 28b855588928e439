"""A device in a process of its own that fetches one blob, for tests that kill it in the middle.

Arguments: a join token, a state directory, host and port of the source's door, the blob's name and size. In the end it
prints the name of what it has, the bytes it received, and the chunks that it had on disk.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgefl.identity.admission import Admission
from edgefl.identity.keys import DeviceKeys
from edgefl.identity.token import parse
from edgefl.store.files import BlobFiles
from edgefl.transport import Timing, Transport
from edgefl.wire.blob import BlobRef, ref_of


class Deaf:
    """Hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


async def main() -> None:
    token, place, host, port, name, size = sys.argv[1:]
    admission = Admission(DeviceKeys.generate())
    admission.join(parse(token))
    transport = Transport(
        admission.keys,
        admission,
        Deaf(),
        listen=("127.0.0.1", 0),
        executor=ThreadPoolExecutor(1),
        files=BlobFiles(Path(place)),
        timing=Timing(write_after=0.0, housekeeping=0.01),
    )
    await transport.start()
    source = (await transport.knock(host, int(port))).card.contact
    blob = BlobRef(bytes.fromhex(name), int(size))
    content = await transport.fetch(blob, [source], max_bytes=blob.size)
    counters = transport.counters
    sys.stdout.write(f"{ref_of(content).id.hex()} {counters['bytes_received']} {counters['blobs.resumed']}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
