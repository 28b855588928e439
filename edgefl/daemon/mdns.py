"""Multicast DNS on one interface: look for devices, and be found (neighbourhood.py tells what and when).

The zeroconf package does the protocol, on our event loop and without threads of its own. It is an extra
(`pip install 'edgefl[mdns]'`) and imported only when it is used.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import logging
from typing import TYPE_CHECKING, Any

from edgefl.daemon.neighbourhood import MAX_FOUND, SERVICE, Neighbour, read_record, texts
from edgefl.errors import ConfigError
from edgefl.wire import node_name

if TYPE_CHECKING:
    from edgefl.wire import Contact

log = logging.getLogger("edgefl.mdns")

BROWSE_S = 3.0
"""How long to look: a device answers within 120 ms (RFC 6762, 6), a lost packet is repeated after one second."""

RESOLVE_MS = 1000
"""For the details of one device that was found."""


def is_installed() -> bool:
    return importlib.util.find_spec("zeroconf") is not None


def require() -> None:
    """Raises ConfigError when the zeroconf package is missing."""
    if not is_installed():
        raise ConfigError(
            "finding devices on the local network (mdns = on) needs the zeroconf package",
            hint="pip install 'edgefl[mdns]', or use --mdns auto or off",
        )


class Mdns:
    """Multicast DNS on the interface with the address `host`. Raises OSError where the network does not allow it."""

    def __init__(self, host: str) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        version = IPVersion.V6Only if ":" in host else IPVersion.V4Only
        self._zeroconf = AsyncZeroconf(interfaces=[host], ip_version=version)
        self._info: Any = None

    async def browse(self, seconds: float, *, anywhere: bool) -> list[Neighbour]:
        """The devices that answer within this time, at most MAX_FOUND."""
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceBrowser

        found: dict[int, Neighbour] = {}
        asking: dict[str, asyncio.Task[None]] = {}

        def on_change(zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:
            if state_change is ServiceStateChange.Added and name not in asking and len(asking) < MAX_FOUND:
                asking[name] = asyncio.ensure_future(self._resolve(name, found, anywhere=anywhere))

        browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[on_change])
        try:
            await asyncio.sleep(seconds)
        finally:
            await browser.async_cancel()
            for task in asking.values():
                task.cancel()
            await asyncio.gather(*asking.values(), return_exceptions=True)
        return list(found.values())

    async def _resolve(self, name: str, found: dict[int, Neighbour], *, anywhere: bool) -> None:
        from zeroconf import BadTypeInNameException
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            info = AsyncServiceInfo(SERVICE, name)
            answered = await info.async_request(self._zeroconf.zeroconf, RESOLVE_MS)
        except (BadTypeInNameException, ValueError, OSError) as error:  # a name that is none
            log.debug("not a service: %r (%s)", name, error)
            return
        if answered:
            neighbour = read_record(info.properties, info.parsed_scoped_addresses(), info.port, anywhere=anywhere)
            if neighbour is not None:
                found[neighbour.node_id] = neighbour

    async def announce(self, contact: Contact, fleet: bytes) -> None:
        """Be found at this contact's door. Raises OSError or zeroconf's own errors."""
        from zeroconf.asyncio import AsyncServiceInfo

        name = node_name(contact.node_id)
        self._info = AsyncServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            addresses=[ipaddress.ip_address(contact.host).packed],
            port=contact.port,
            properties=texts(contact.node_id, fleet),
            server=f"edgefl-{name}.local.",
        )
        await (await self._zeroconf.async_register_service(self._info))

    async def close(self) -> None:
        """Say that we are gone, and stop."""
        if self._info is not None:
            await (await self._zeroconf.async_unregister_service(self._info))
            self._info = None
        await self._zeroconf.async_close()
