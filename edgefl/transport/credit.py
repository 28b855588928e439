"""How much a parent may push before its child has taken it: what bounds the memory of a child whose loop stands still.

TCP's acknowledgements say that a chunk has reached the child's ZeroMQ, whose own thread reads the connection into a
queue without end; they go on when the child's loop does not. So the child says how far it has come, by the last message
that it took: its application and its sequence number (broadcast.py). Messages come in order, so all before it were
taken, too; and a word about an earlier connection names a message that this one has not carried, and changes nothing.

    parent  Credit   XPUB ── header, chunk, chunk, … ──> SUB   Taking  child
                     link <── Taken(application, sequence) ──
                     a word for every 4 MiB, and once a second while there is news

A child that knows of this says so in its Hello; one of an earlier release never says a word, and has no account.
"""

from __future__ import annotations

from collections import deque

CREDIT_BYTES = 8 * 1024 * 1024
"""Pushed to a near child and not taken: 64 ms at 1 Gbit/s, more than its loop is ever held up by its own work. It is a
thirtieth of the memory of a small device."""

MAX_CREDIT_BYTES = 24 * 1024 * 1024
"""The same for a distant child, most of it on the line: it fills 1 Gbit/s over 150 ms."""

HOLD_S = 0.5
"""For how long others wait for a child that has used up its credit: a device that computes is not seen for a tenth of a
second, and a new connection costs it as much."""

MAX_STEP_S = 0.1
"""Counted at most from one look to the next: there is one every 20 ms, and if not, it is we who stood still."""

SPARE_CREDIT_BYTES = 2 * 1024 * 1024
"""So much of its credit may still be on its way to a child that is taken to stand still: more, and it is its line that
is slow."""

TELL_BYTES = 4 * 1024 * 1024
"""The child says a word each time that it has taken so much: half of its credit, so a parent never waits for one that
is not on its way. Not oftener: a word costs 110 bytes with all headers, which is little, but wakes four threads."""


class Credit:
    """The parent's account of one connection. Every method takes or returns bytes of messages, without framing."""

    __slots__ = ("_marks", "moved_at", "untaken")

    def __init__(self, now: float) -> None:
        self.untaken = 0
        self.moved_at = now
        self._marks: deque[tuple[int, int, int]] = deque()

    def push(self, app: int, sequence: int, size: int, now: float) -> None:
        """A numbered message is on its way."""
        if not self.untaken:
            self.moved_at = now
        self.untaken += size
        self._marks.append((app, sequence, size))

    def take(self, app: int, sequence: int, now: float) -> bool:
        """The child has taken this message and all before it; whether that is news."""
        if all(mark[:2] != (app, sequence) for mark in self._marks):
            return False
        mark = (0, 0, 0)
        while mark[:2] != (app, sequence):
            mark = self._marks.popleft()
            self.untaken -= mark[2]
        self.moved_at = now
        return True

    def forget(self, app: int) -> None:
        """The child does not want this application any more: its ZeroMQ drops what is still under way of it."""
        self._marks = deque(mark for mark in self._marks if mark[0] != app)
        self.untaken = sum(mark[2] for mark in self._marks)


class Hold:
    """How long a child that has used up its credit has held up the others, less the time in which it has not: a child
    that is held up itself now and then stays, and one that more than halves what the others get does not."""

    __slots__ = ("_at", "_holding", "held_s")

    def __init__(self) -> None:
        self.held_s = 0.0
        self._at = 0.0
        self._holding = False

    def note(self, now: float, *, holding: bool) -> bool:
        """It holds them up from now on, or does not; whether it has done so for too long."""
        passed, self._at = min(now - self._at, MAX_STEP_S), now
        self.held_s = max(0.0, self.held_s + (passed if self._holding else -passed))
        self._holding = holding
        return self.held_s >= HOLD_S


class Taking:
    """The child's side of one connection: when it is time for a word, and which."""

    __slots__ = ("_moved", "_untold", "last")

    def __init__(self) -> None:
        self.last = (0, 0)
        self._untold = 0
        self._moved = False

    def took(self, app: int, sequence: int, size: int) -> bool:
        """A numbered message was taken off the socket; whether the parent is to be told now."""
        self.last = app, sequence
        self._moved = True
        self._untold += size
        if self._untold < TELL_BYTES:
            return False
        self._untold = 0
        return True

    def sweep(self) -> bool:
        """Whether the parent is to be told where this stands: for the remainder, and in case that the last word was
        lost. Call about once a second."""
        moved, self._moved = self._moved, False
        if moved:
            self._untold = 0
        return moved


def limit_bytes(under_way: float) -> int:
    """What a child may have untaken, given the bytes that a full line to it holds (there and back)."""
    return min(MAX_CREDIT_BYTES, CREDIT_BYTES + int(under_way))
