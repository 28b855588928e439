"""A CURVE client written out (ZMTP 3.0, RFC 23 and 26), for what libzmq's own sockets would never send: a message whose
parts never end. libzmq hands a message on when it is whole; a raw client need not.
"""

from __future__ import annotations

import asyncio
import struct

from nacl.public import Box, PrivateKey, PublicKey

from edgefl.identity.keys import DeviceKeys

_MORE = 1


class CurveClient:
    """One connection with the keys of a member."""

    def __init__(self, keys: DeviceKeys, server_key: bytes, socket_type: bytes) -> None:
        self._long = PrivateKey(bytes.fromhex(keys.encode().decode().splitlines()[2]))
        self._short = PrivateKey.generate()
        self._server_key = PublicKey(server_key)
        self._socket_type = socket_type
        self._count = 0

    async def connect(self, host: str, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection(host, port)
        self._writer.write(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32))
        await self._reader.readexactly(64)
        nonce = self._nonce()
        signature = Box(self._short, self._server_key).encrypt(bytes(64), b"CurveZMQHELLO---" + nonce).ciphertext
        self._frame(4, b"\x05HELLO\x01\x00" + bytes(72) + bytes(self._short.public_key) + nonce + signature)
        welcome = (await self._read())[8:]
        opened = Box(self._short, self._server_key).decrypt(welcome[16:], b"WELCOME-" + welcome[:16])
        transient, cookie = PublicKey(opened[:32]), opened[32:]
        self._box = Box(self._short, transient)
        vouch_nonce = bytes(16)
        vouched = bytes(self._short.public_key) + bytes(self._server_key)
        vouch = vouch_nonce + Box(self._long, transient).encrypt(vouched, b"VOUCH---" + vouch_nonce).ciphertext
        metadata = _property(b"Socket-Type", self._socket_type) + _property(b"Identity", b"")
        nonce = self._nonce()
        inner = bytes(self._long.public_key) + vouch + metadata
        self._frame(
            4, b"\x08INITIATE" + cookie + nonce + self._box.encrypt(inner, b"CurveZMQINITIATE" + nonce).ciphertext
        )
        assert (await self._read()).startswith(b"\x05READY")

    async def send(self, data: bytes, *, more: bool) -> None:
        """One part. Raises OSError when the connection is gone."""
        nonce = self._nonce()
        plain = bytes([_MORE if more else 0]) + data
        self._frame(0, b"\x07MESSAGE" + nonce + self._box.encrypt(plain, b"CurveZMQMESSAGEC" + nonce).ciphertext)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    def _nonce(self) -> bytes:
        self._count += 1
        return struct.pack(">Q", self._count)

    def _frame(self, flags: int, body: bytes) -> None:
        if len(body) < 256:
            self._writer.write(bytes([flags, len(body)]) + body)
        else:
            self._writer.write(bytes([flags | 2]) + struct.pack(">Q", len(body)) + body)

    async def _read(self) -> bytes:
        (flags,) = await self._reader.readexactly(1)
        size = await self._reader.readexactly(8 if flags & 2 else 1)
        return await self._reader.readexactly(int.from_bytes(size, "big"))


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
