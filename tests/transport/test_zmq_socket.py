"""A ZeroMQ socket on the loop: no readiness signal is ever lost, whatever else is done on the socket."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from edgefl.transport.zmq_socket import MAX_PARTS, TURN_MESSAGES, LoopSocket, Monitor, Parts
from tests.transport.fleet import until


@contextmanager
def a_context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


def connected(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, peer: int
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """A bound socket and a plain one connected to it."""
    bound, other = context.socket(kind), context.socket(peer)
    port = bound.bind_to_random_port("tcp://127.0.0.1")
    other.connect(f"tcp://127.0.0.1:{port}")
    return bound, other


def test_messages_that_arrive_together_are_all_read() -> None:
    """Given more messages than one turn handles behind one signal, then all of them arrive, in order."""

    async def main() -> None:
        with a_context() as context:
            bound, other = connected(context, zmq.PULL, zmq.PUSH)
            got: list[int] = []
            socket = LoopSocket(bound, lambda parts: got.append(int(parts[0].bytes)))
            for number in range(5 * TURN_MESSAGES):
                other.send(str(number).encode())
            await until(lambda: len(got) == 5 * TURN_MESSAGES)
            assert got == sorted(got)
            socket.close()

    asyncio.run(main())


def test_a_send_does_not_swallow_the_signal_of_a_message() -> None:
    """The trap: any call on a socket may consume the edge that announced a message. 300 trials at random moments."""

    async def main() -> None:
        with a_context() as context:
            bound, other = connected(context, zmq.DEALER, zmq.DEALER)
            got: list[bytes] = []
            socket = LoopSocket(bound, lambda parts: got.append(parts[0].bytes))
            generator = random.Random(1)
            await until(lambda: int(bound.getsockopt(zmq.EVENTS)) & zmq.POLLOUT, "connected")
            for trial in range(300):
                other.send(b"%d" % trial)
                # Between the arrival of the message and the loop's look at the descriptor: a busy moment, then a send.
                for _ in range(generator.randrange(400)):
                    pass
                assert socket.send([b"unrelated"])
                await until(lambda expected=trial + 1: len(got) == expected, f"message {trial}", deadline_s=2.0)
            socket.close()

    asyncio.run(main())


def test_reading_an_option_does_not_swallow_it_either() -> None:
    async def main() -> None:
        with a_context() as context:
            bound, other = connected(context, zmq.DEALER, zmq.DEALER)
            got: list[bytes] = []
            socket = LoopSocket(bound, lambda parts: got.append(parts[0].bytes))
            for trial in range(100):
                other.send(b"%d" % trial)
                socket.socket.getsockopt(zmq.EVENTS)
                socket.touched()
                await until(lambda expected=trial + 1: len(got) == expected, f"message {trial}", deadline_s=2.0)
            socket.close()

    asyncio.run(main())


def test_two_sockets_that_answer_each_other_never_stall() -> None:
    """Ping-pong with sends from inside the handlers and from outside at the same time."""

    async def main() -> None:
        with a_context() as context:
            left, right = connected(context, zmq.DEALER, zmq.DEALER)
            counts = {"left": 0, "right": 0}
            sockets: dict[str, LoopSocket] = {}

            def answer(name: str) -> None:
                counts[name] += 1
                sockets[name].send([b"x"])

            sockets["left"] = LoopSocket(left, lambda _: answer("left"))
            sockets["right"] = LoopSocket(right, lambda _: answer("right"))
            for _ in range(4):
                sockets["right"].send([b"x"])
            await until(lambda: counts["left"] >= 1500 and counts["right"] >= 1500)
            for socket in sockets.values():
                socket.close()

    asyncio.run(main())


def test_a_full_peer_refuses_and_tells_when_there_is_room() -> None:
    async def main() -> None:
        with a_context() as context:
            bound, other = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
            bound.setsockopt(zmq.SNDHWM, 8)
            other.setsockopt(zmq.RCVHWM, 8)
            port = bound.bind_to_random_port("tcp://127.0.0.1")
            other.connect(f"tcp://127.0.0.1:{port}")
            room: list[bool] = []
            socket = LoopSocket(bound, lambda parts: None, on_writable=lambda: room.append(True))
            await until(lambda: int(bound.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)
            sent = 0
            while socket.send([bytes(100_000)]):
                sent += 1
                assert sent < 10_000
            assert not room

            def read_everything() -> bool:
                while other.poll(0):
                    other.recv()
                return bool(room)

            await until(read_everything)
            assert socket.send([b"again"])
            socket.close()

    asyncio.run(main())


def test_an_error_in_a_handler_does_not_stop_the_socket(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with a_context() as context:
            bound, other = connected(context, zmq.PULL, zmq.PUSH)
            got: list[bytes] = []

            def handler(parts: Parts) -> None:
                if parts[0].bytes == b"bad":
                    raise ValueError("a bug")
                got.append(parts[0].bytes)

            socket = LoopSocket(bound, handler)
            for data in (b"1", b"bad", b"2"):
                other.send(data)
            await until(lambda: got == [b"1", b"2"])
            socket.close()

    asyncio.run(main())
    assert "a bug" in caplog.text


def test_of_a_message_with_many_parts_only_the_first_are_kept() -> None:
    async def main() -> None:
        with a_context() as context:
            bound, other = connected(context, zmq.PULL, zmq.PUSH)
            got: list[int] = []
            socket = LoopSocket(bound, lambda parts: got.append(len(parts)))
            other.send_multipart([b"x"] * 1000)
            other.send(b"one")
            await until(lambda: got == [MAX_PARTS, 1])
            socket.close()

    asyncio.run(main())


def test_closing_from_inside_a_handler_is_fine() -> None:
    async def main() -> None:
        with a_context() as context:
            bound, other = connected(context, zmq.PULL, zmq.PUSH)
            sockets: list[LoopSocket] = []
            sockets.append(LoopSocket(bound, lambda _: sockets[0].close()))
            for _ in range(10):
                other.send(b"x")
            await until(lambda: sockets[0].closed)

    asyncio.run(main())


def test_a_monitor_reports_connections_and_losses() -> None:
    async def main() -> None:
        with a_context() as context:
            events: list[int] = []
            bound = context.socket(zmq.PULL)
            monitor = Monitor(context, bound, lambda event, value: events.append(event))
            port = bound.bind_to_random_port("tcp://127.0.0.1")
            other = context.socket(zmq.PUSH)
            other.connect(f"tcp://127.0.0.1:{port}")
            await until(lambda: zmq.EVENT_HANDSHAKE_SUCCEEDED in events)
            other.close(linger=0)
            await until(lambda: zmq.EVENT_DISCONNECTED in events)
            monitor.close()
            bound.close()

    asyncio.run(main())
