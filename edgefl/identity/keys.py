"""A device's own keys: Ed25519 says who it is, X25519 (CURVE) encrypts its links.

The node id is the first 64 bits of BLAKE2b over the signing key, so nobody can claim another device's id, and it never
changes. The CURVE key is bound to the signing key by a signature: whoever proves the one has proved the other.

Both secrets live in one file, so there is no state in which a device has half of its identity.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from edgefl.errors import ConfigError
from edgefl.identity.private_file import create_private, read_private
from edgefl.wire.contact import node_name

PUBLIC_KEY_BYTES = 32
SECRET_KEY_BYTES = 32
SIGNATURE_BYTES = 64

KEY_FILE = "device.key"
_FIRST_LINE = "edgefl device key 1"
_BINDING = b"edgefl curve key\0"


def node_id_of(public_key: bytes) -> int:
    """The node id that belongs to an Ed25519 public key: 64 bits."""
    return int.from_bytes(hashlib.blake2b(public_key, digest_size=32).digest()[:8], "big")


def signed_by(public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is the Ed25519 signature of `data` by `public_key`. Never raises on hostile input."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + data, public_key)
    except (CryptoError, ValueError):
        return False
    return True


def curve_bound(public_key: bytes, curve_key: bytes, binding: bytes) -> bool:
    """Whether the device with `public_key` has bound this CURVE key to itself."""
    return signed_by(public_key, _BINDING + curve_key, binding)


class DeviceKeys:
    """The two key pairs of a device. Never shows its secrets when printed.

    public        Ed25519 public key, 32 bytes
    node_id       64 bits of its hash
    curve_public  X25519 public key, 32 bytes
    binding       signature of the CURVE key by the signing key, 64 bytes
    """

    __slots__ = ("_curve", "_signing", "binding", "curve_public", "node_id", "public")

    def __init__(self, signing_seed: bytes, curve_secret: bytes) -> None:
        self._signing = SigningKey(signing_seed)
        self._curve = PrivateKey(curve_secret)
        self.public = bytes(self._signing.verify_key)
        self.node_id = node_id_of(self.public)
        self.curve_public = bytes(self._curve.public_key)
        self.binding = self.sign(_BINDING + self.curve_public)

    @classmethod
    def generate(cls) -> DeviceKeys:
        """Fresh keys from the operating system's generator."""
        return cls(bytes(SigningKey.generate()), bytes(PrivateKey.generate()))

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature of `data`: 64 bytes."""
        return self._signing.sign(data).signature

    def curve_z85(self) -> tuple[bytes, bytes]:
        """(public, secret) CURVE keys in the Z85 form that ZeroMQ takes: 40 characters each."""
        from zmq.utils import z85  # only what opens sockets pays for ZeroMQ

        return z85.encode(self.curve_public), z85.encode(bytes(self._curve))

    def encode(self) -> bytes:
        """The content of a key file: secret."""
        return f"{_FIRST_LINE}\n{bytes(self._signing).hex()}\n{bytes(self._curve).hex()}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> DeviceKeys:
        """The keys in a key file. Raises ValueError."""
        first, *secrets = data.decode("ascii").splitlines()
        if first != _FIRST_LINE or len(secrets) != 2 or any(len(line) != 2 * SECRET_KEY_BYTES for line in secrets):
            raise ValueError("not a device key file")
        return cls(bytes.fromhex(secrets[0]), bytes.fromhex(secrets[1]))

    def __repr__(self) -> str:
        return f"DeviceKeys({node_name(self.node_id)})"


def load_or_create(directory: Path) -> DeviceKeys:
    """The keys of the device whose state is in `directory`; made on the first call.

    Raises ConfigError (damaged or too open; the hint says what to do) and StorageError (cannot be written).
    """
    path = directory / KEY_FILE
    try:
        data = read_private(path)
    except FileNotFoundError:
        create_private(path, DeviceKeys.generate().encode())
        data = read_private(path)  # ours, or that of a process that was faster
    try:
        return DeviceKeys.decode(data)
    except ValueError:
        raise ConfigError(
            f"{path} is damaged",
            hint="restore it from a backup, or delete it: the device then has a new identity and must join again",
        ) from None
