"""The addresses of this device: what the kernel says, and which one is told to others.

--advertise, or --listen on one address       that one: the operator knows
peers agree where they see us                 that one, if it is ours or somebody has reached us there
otherwise                                     the one on the way to the fleet
no way out (a network without a router)       the one it had, if it still has it, else one on a private network
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Protocol

from edgefl.config import Settings, is_unspecified, split_address
from edgefl.daemon.neighbourhood import is_private
from edgefl.declared import dataclass
from edgefl.errors import UnreachableError

NOWHERE = "192.0.2.1"
"""An address that no device has (RFC 5737): the way to it is the default route."""

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Here:
    """`route` is our address on the way to the fleet, None without a way; `all` are those of all interfaces."""

    route: str | None
    all: frozenset[str]


class AddressSource(Protocol):
    """Where the daemon looks for its addresses."""

    def read(self) -> Here: ...


class LocalAddresses:
    """What the kernel says. Reading sends nothing, and takes 0.08 ms of a PC's processor."""

    def __init__(self, settings: Settings) -> None:
        self._towards = NOWHERE
        self._all: frozenset[str] = frozenset()
        if settings.bootstrap:
            with contextlib.suppress(UnreachableError):
                self._towards = resolve(split_address(settings.bootstrap[0])[0])  # once: a name may take seconds

    def read(self) -> Here:
        import psutil  # only the daemon pays for it

        # What cannot be read has not changed: nobody's connections shall suffer from it.
        with contextlib.suppress(OSError, ValueError):
            entries = [entry for addresses in psutil.net_if_addrs().values() for entry in addresses]
            self._all = frozenset(
                str(ipaddress.ip_address(entry.address.partition("%")[0]))
                for entry in entries
                if entry.family in (socket.AF_INET, socket.AF_INET6)
            )
        return Here(self._route(), self._all)

    def _route(self) -> str | None:
        family = socket.AF_INET6 if ":" in self._towards else socket.AF_INET
        # Connecting a datagram socket only asks the kernel which way it would go.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((self._towards, 9))
            return str(probe.getsockname()[0])
        return None


def fixed_host(settings: Settings, listening: str) -> str | None:
    """The address that the operator has chosen, as an IP literal; None if it is ours to find. UnreachableError."""
    if settings.advertise:
        return resolve(split_address(settings.advertise)[0])
    return None if is_unspecified(listening) else listening


def own_host(here: Here, before: str | None, agreed: str | None, proven: str | None) -> str:
    """The address to be told to others when the operator has chosen none. An unplugged device keeps what it had."""
    if agreed is not None and (agreed in here.all or agreed == proven):
        return agreed
    if here.route is not None:
        return here.route
    if before is not None and before in here.all and before != LOOPBACK:
        return before
    # Not fe80::/10: such an address means nothing without the name of an interface.
    around = sorted(address for address in here.all if is_private(address) and not address.startswith("fe80"))
    return next(iter(around), None) or before or LOOPBACK


def resolve(host: str) -> str:
    """An IP literal for a name. Raises UnreachableError."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        try:
            return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            raise UnreachableError(
                f"the name {host!r} is not known here ({error})", hint="use an IP address, or check DNS"
            ) from None
