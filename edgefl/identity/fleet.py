"""A fleet is an Ed25519 key. Whoever holds its secret decides who takes part; all others need the public half only.

The key is used by people at a command line, rarely: to invite, to approve, to revoke. No daemon needs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from nacl.signing import SigningKey
from nacl.utils import random as random_bytes

from edgefl.errors import ConfigError, UsageError
from edgefl.identity.certificate import (
    MAX_SITE_BYTES,
    SERIAL_BYTES,
    DeviceCertificate,
    DeviceClaim,
    sign_device,
    sign_enrolment,
)
from edgefl.identity.keys import SECRET_KEY_BYTES, curve_bound
from edgefl.identity.private_file import create_private, read_private
from edgefl.identity.revocation import RevocationList, sign_revocations
from edgefl.identity.token import Bootstrap, Token, fingerprint

FLEET_FILE = "fleet.key"
MAX_USES = 1024
"""A token with a limit: every door remembers the devices that came with it, 8 bytes each."""

_FIRST_LINE = "edgefl fleet key 1"


class FleetKey:
    """The secret of a fleet. Never shown when printed."""

    __slots__ = ("_signing", "public")

    def __init__(self, seed: bytes) -> None:
        self._signing = SigningKey(seed)
        self.public = bytes(self._signing.verify_key)

    @classmethod
    def generate(cls) -> FleetKey:
        return cls(bytes(SigningKey.generate()))

    @classmethod
    def create(cls, path: Path) -> FleetKey:
        """Make a fleet in the file `path` (in a directory: its fleet.key), mode 0600.

        Raises UsageError if there is one already: overwriting it would orphan every device of that fleet.
        """
        path = _file(path)
        key = cls.generate()
        if not create_private(path, f"{_FIRST_LINE}\n{bytes(key._signing).hex()}\n".encode()):
            raise UsageError(f"{path} already holds a fleet", hint="choose another --out, or use that fleet")
        return key

    @classmethod
    def load(cls, path: Path) -> FleetKey:
        """The fleet in the file (or directory) `path`. Raises ConfigError with the next step."""
        path = _file(path)
        try:
            lines = read_private(path).decode("ascii").splitlines()
            first, secret = lines
            if first != _FIRST_LINE or len(secret) != 2 * SECRET_KEY_BYTES:
                raise ValueError
            return cls(bytes.fromhex(secret))
        except FileNotFoundError:
            raise ConfigError(f"there is no fleet key at {path}", hint="edgefl fleet new makes one") from None
        except ValueError:
            raise ConfigError(f"{path} is not a fleet key", hint="restore it from a backup") from None

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature of `data`: 64 bytes."""
        return self._signing.sign(data).signature

    def invite(self, bootstrap: Iterable[Bootstrap], *, site: str = "", uses: int = 0) -> Token:
        """A join token: an enrolment key of its own, certified by the fleet. `uses` 0 = any number of devices.

        Each door counts for itself: devices that knock at different doors can exceed `uses`, up to once per door.
        Raises UsageError.
        """
        if len(site.encode()) > MAX_SITE_BYTES:
            raise UsageError(f"the site's name is longer than {MAX_SITE_BYTES} bytes")
        if not 0 <= uses <= MAX_USES:
            raise UsageError(f"a token can be limited to at most {MAX_USES} devices", hint="0 means any number")
        enrolment_key = SigningKey.generate()
        serial = random_bytes(SERIAL_BYTES)
        enrolment = sign_enrolment(self, bytes(enrolment_key.verify_key), serial, site=site, uses=uses)
        return Token(enrolment, bytes(enrolment_key), tuple(bootstrap))

    def approve(self, claim: DeviceClaim) -> DeviceCertificate:
        """The certificate of a device that asked without a token (or of the owner's own). Raises UsageError."""
        if not curve_bound(claim.device, claim.curve, claim.binding):
            raise UsageError("the request is not signed by the device that it names")
        return sign_device(self, claim)

    def revoke(
        self, before: RevocationList | None, *, nodes: Iterable[int] = (), serials: Iterable[bytes] = ()
    ) -> RevocationList:
        """The fleet's next list of revocations: everything in `before`, and these. Raises UsageError."""
        known = before or RevocationList(self.public, 0, bytes(64))
        if known.fleet != self.public:
            raise UsageError("that list of revocations is another fleet's")
        following = replace(
            known,
            version=known.version + 1,
            nodes=tuple(sorted({*known.nodes, *nodes})),
            serials=tuple(sorted({*known.serials, *serials})),
        )
        return sign_revocations(self, following)

    def __repr__(self) -> str:
        return f"FleetKey({fingerprint(self.public)})"


def _file(path: Path) -> Path:
    return path / FLEET_FILE if path.is_dir() else path
