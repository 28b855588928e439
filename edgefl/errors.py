"""Every error that edgefl raises on purpose: a stable name, an exit code and the next step.

`LocalError` is our own fault or our user's; `RemoteError` is what a peer sent or failed to send. The daemon reports
a RemoteError and goes on: nothing a peer does may take it down. The split follows h11's Local/RemoteProtocolError.

Exit codes are those of sysexits.h, so that a systemd unit can tell "try again" from "never mind":
0 ok, 1 failed, 2 usage, 69 unreachable, 75 try again, 76 protocol, 77 not admitted, 78 configuration.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_TRY_AGAIN = 75
EXIT_PROTOCOL = 76
EXIT_NOT_ADMITTED = 77
EXIT_CONFIG = 78


class EdgeflError(Exception):
    """Base of all named errors. `cause` says what happened, `hint` what to do next."""

    name: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, cause: str, *, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint

    def as_dict(self) -> dict[str, str | int]:
        """The error as programs read it (`--json`, control socket)."""
        return {"name": self.name, "cause": self.cause, "hint": self.hint, "exit_code": self.exit_code}


class LocalError(EdgeflError):
    """The fault is on this device: its user, its files, its resources."""


class RemoteError(EdgeflError):
    """The fault is a peer's. Counted, reported, never fatal to the daemon."""


class UsageError(LocalError):
    name = "usage"
    exit_code = EXIT_USAGE


class ConfigError(LocalError):
    name = "configuration"
    exit_code = EXIT_CONFIG


class StorageError(LocalError):
    """The disk is full, read-only or broken."""

    name = "storage"
    exit_code = EXIT_TRY_AGAIN


class DataError(LocalError):
    """A data source that cannot be read or does not fit the model."""

    name = "data"
    exit_code = EXIT_CONFIG


class ModelError(LocalError):
    """An ONNX file or artifact directory that cannot be used."""

    name = "model"
    exit_code = EXIT_CONFIG


class UnsupportedOperatorError(ModelError):
    """A node, or one of its attributes, that edgefl cannot differentiate or carry over."""

    name = "unsupported-operator"


class MissingPackageError(ConfigError):
    """What was asked for needs a package that running does not."""

    name = "missing-package"


class UnreachableError(RemoteError):
    """Nobody answers at an address: no daemon here, or no peer there."""

    name = "unreachable"
    exit_code = EXIT_UNREACHABLE


class TryAgainError(RemoteError):
    name = "try-again"
    exit_code = EXIT_TRY_AGAIN


class WireError(RemoteError):
    """Bytes that are no valid message of this protocol."""

    name = "protocol"
    exit_code = EXIT_PROTOCOL


class NotAdmittedError(RemoteError):
    """The fleet's door stays shut: no token, another fleet's token, revoked, or not yet approved."""

    name = "not-admitted"
    exit_code = EXIT_NOT_ADMITTED
