"""The peer that edgefl's data plane is measured against: a bare PUB/SUB program with CURVE and the same chunks.

bare.py publish CHILDREN ALL BYTES RUNS   prints its port and key; for each line of input, the seconds until all (its
                                          children, and theirs) have it
bare.py subscribe HOST PORT KEY BACK BYTES RUNS [check]
bare.py relay HOST PORT KEY BACK BYTES RUNS   passes each chunk on as it comes; prints its own port and key

With `check` a child hashes every chunk, as edgefl does before it believes one.
"""

import hashlib
import os
import sys
import time

import zmq

CHUNK_BYTES = 256 * 1024


def server(context: zmq.Context, kind: int, port_and_key: list) -> zmq.Socket:
    public, secret = zmq.curve_keypair()
    socket = context.socket(kind)
    socket.curve_server, socket.curve_secretkey, socket.sndhwm, socket.linger = True, secret, 0, 10_000
    port_and_key += [socket.bind_to_random_port("tcp://0.0.0.0"), public.decode()]
    return socket


def client(context: zmq.Context, kind: int, host: str, port: str, key: str) -> zmq.Socket:
    socket = context.socket(kind)
    socket.curve_serverkey, socket.rcvhwm, socket.linger = key.encode(), 0, 10_000
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(f"tcp://{host}:{port}")
    return socket


def publish(context: zmq.Context, children: int, everybody: int, size: int, runs: int) -> None:
    where: list = []
    pub, pull = server(context, zmq.XPUB, where), context.socket(zmq.PULL)
    pub.xpub_verbose = True
    print(*where, pull.bind_to_random_port("tcp://0.0.0.0"), flush=True)
    for _ in range(children):
        pub.recv()
    data = memoryview(os.urandom(size))
    for _, _ in zip(range(runs), sys.stdin, strict=False):
        began = time.monotonic()
        for at in range(0, size, CHUNK_BYTES):
            pub.send_multipart([b"topic", data[at : at + CHUNK_BYTES]], copy=False)
        ends = [float(pull.recv()) for _ in range(everybody)]
        print(max(ends) - began, flush=True)


def subscribe(
    context: zmq.Context, host: str, port: str, key: str, back: str, size: int, runs: int, check: bool, relay: bool
) -> None:
    sub, push = client(context, zmq.SUB, host, port, key), context.socket(zmq.PUSH)
    where: list = []
    pub = server(context, zmq.PUB, where)
    push.connect(back)
    if relay:
        print(*where, flush=True)
    sub.subscribe(b"topic")
    for _ in range(runs):
        got = 0
        while got < size:
            topic, chunk = sub.recv_multipart(copy=False)
            if relay:
                pub.send_multipart([topic, chunk], copy=False)
            if check:
                hashlib.blake2b(chunk.buffer, digest_size=32).digest()
            got += len(chunk)
        push.send(str(time.monotonic()).encode())


def main() -> None:
    context, (role, *rest) = zmq.Context(), sys.argv[1:]
    if role == "publish":
        publish(context, *map(int, rest))
    else:
        host, port, key, back, size, runs = rest[:6]
        subscribe(context, host, port, key, back, int(size), int(runs), rest[6:] == ["check"], role == "relay")


if __name__ == "__main__":
    main()
