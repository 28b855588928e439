"""Why a door opens or stays shut: stable numbers on the wire, and what both sides tell their people.

`RefusedError` is the error that carries such a reason; it is a NotAdmittedError with the reason's text and next step.
"""

from __future__ import annotations

from enum import IntEnum

from edgefl.errors import NotAdmittedError


class Reason(IntEnum):
    """Outcome of an admission. Numbers are part of the protocol: never reuse one."""

    ADMITTED = 0
    PENDING = 1
    WRONG_FLEET = 2
    REVOKED = 3
    TOKEN_USED_UP = 4
    BAD_SIGNATURE = 5
    PROTOCOL_VERSION = 6
    NO_FLEET = 7
    OTHER_DEVICE = 8
    BUSY = 9

    @property
    def text(self) -> str:
        """What happened, as both sides say it."""
        return _TEXTS[self][0]

    @property
    def hint(self) -> str:
        """What the one who knocks can do about it."""
        return _TEXTS[self][1]

    @property
    def slug(self) -> str:
        """The name in counters and logs."""
        return self.name.lower().replace("_", "-")


_TEXTS = {
    Reason.ADMITTED: ("admitted", ""),
    Reason.PENDING: (
        "no token: waiting for approval",
        "on the fleet owner's machine: edgefl fleet pending, then edgefl fleet approve NODE; or join with a token",
    ),
    Reason.WRONG_FLEET: (
        "wrong fleet",
        "use a token of that fleet (edgefl token inspect shows which one yours is for), or another --bootstrap address",
    ),
    Reason.REVOKED: ("revoked", "the fleet's owner has revoked this device or its token: ask for a new token"),
    Reason.TOKEN_USED_UP: ("token used up", "ask the fleet's owner for a token with more uses (edgefl fleet invite)"),
    Reason.BAD_SIGNATURE: (
        "bad signature",
        "the certificate was damaged or forged: join again with the original token",
    ),
    Reason.PROTOCOL_VERSION: ("protocol version", "update edgefl on the older of the two devices"),
    Reason.NO_FLEET: (
        "the device there is not in a fleet itself",
        "use the address of a device that has joined, or start the first one with edgefl join --first",
    ),
    Reason.OTHER_DEVICE: (
        "another device answers at this address",
        "the address was given to another device: use a newer address or token",
    ),
    Reason.BUSY: ("too many devices knock at the same time", "try again in a moment"),
}


class RefusedError(NotAdmittedError):
    """A NotAdmittedError with its stable reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.text}{f' ({detail})' if detail else ''}", hint=reason.hint)
        self.reason = reason


class HostRevokedError(RefusedError):
    """We refuse the host, not it us: it was revoked, and says nothing about this device."""

    def __init__(self) -> None:
        super().__init__(Reason.REVOKED, "the device there")
        self.hint = "ask another device of the fleet"
