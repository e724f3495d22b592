"""Frames and the descriptors that travel with them, over one non-blocking stream socket.

Descriptors belong to the frame in whose bytes they arrive: a read never goes on past the bytes
that descriptors came with, so they belong to the frame of the last byte read.  A frame can thus
never pick up the descriptors of another one, whatever its sender says.
"""

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .codec import LENGTH, MAX_FRAME, Frame, encode
from .frames import MAX_DESCRIPTORS

_READ = 65536
_MESSAGE_DESCRIPTORS = 253  # the kernel's SCM_MAX_FD
_CONTROL = socket.CMSG_SPACE(_MESSAGE_DESCRIPTORS * 4)


@dataclass(frozen=True, slots=True)
class Packet:
    """A received payload (None: it was too long and is dropped) and the descriptors it owns."""

    payload: bytes | None
    descriptors: tuple[int, ...]


class Channel:
    """One end of a connection.  `on_blocked` is called when `flush` has to be called later."""

    def __init__(self, sock: socket.socket, on_blocked: Callable[["Channel"], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_blocked = on_blocked
        self._buffer = bytearray()
        self._skip = 0
        self._descriptors: list[int] = []  # of the frame that is not complete yet
        self._queue: deque[tuple[memoryview, list[int]]] = deque()

    def fileno(self) -> int:
        """The socket's number; -1 once closed."""
        return self._sock.fileno()

    def receive(self) -> list[Packet]:
        """Read once and give the frames that became complete.

        Their descriptors become the caller's to close.  Raises EOFError when the peer has gone.
        """
        try:
            data, control, _, _ = self._sock.recvmsg(_READ, _CONTROL, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        fresh = _received(control)
        if len(self._descriptors) + len(fresh) > MAX_DESCRIPTORS:
            fresh = close_all(fresh)
        self._buffer += data
        owned, packets = self._descriptors, []
        for payload in self._complete():
            if not self._buffer:  # this frame holds the last byte read
                owned, fresh = owned + fresh, []
            packets.append(Packet(payload, tuple(owned)))
            owned = []
        self._descriptors = owned + fresh
        return packets

    def _complete(self) -> Iterator[bytes | None]:
        """Take complete payloads out of the buffer; None for the head of one too long."""
        while True:
            if self._skip:
                dropped = min(self._skip, len(self._buffer))
                del self._buffer[:dropped]
                self._skip -= dropped
            if len(self._buffer) < LENGTH.size:
                return
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                del self._buffer[: LENGTH.size]
                self._skip = length
                yield None
                continue
            end = LENGTH.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            yield payload

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Send, or queue what does not go out at once; the descriptors stay the caller's.

        A dead peer is noticed by `receive` alone.  Raises FrameError when the frame is too long
        and OSError when the descriptors cannot be duplicated; then nothing is sent.
        """
        payload = encode(frame)
        rest = memoryview(LENGTH.pack(len(payload)) + payload)
        copies = duplicate_all(descriptors)
        while len(copies) > _MESSAGE_DESCRIPTORS:  # one byte carries each full message
            self._queue.append((rest[:1], copies[:_MESSAGE_DESCRIPTORS]))
            rest, copies = rest[1:], copies[_MESSAGE_DESCRIPTORS:]
        self._queue.append((rest, copies))
        if not self.flush():
            self._on_blocked(self)

    def flush(self) -> bool:
        """Send what is queued as far as it goes; true when nothing is left."""
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                sent = self._sock.sendmsg([data], _rights(descriptors), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                self._drop_queue()
                with contextlib.suppress(OSError):  # gone already, or let receive() see the end
                    self._sock.shutdown(socket.SHUT_RDWR)
                return True
            close_all(descriptors)
            if sent < len(data):
                self._queue[0] = (data[sent:], [])
            else:
                self._queue.popleft()
        return True

    def _drop_queue(self) -> None:
        for _, descriptors in self._queue:
            close_all(descriptors)
        self._queue.clear()

    def close(self) -> None:
        """Close the socket and every descriptor that has found no frame."""
        self._drop_queue()
        self._descriptors = close_all(self._descriptors)
        self._sock.close()


def close_all(descriptors: Iterable[int]) -> list[int]:
    """Close them; gives an empty list to put in their place."""
    for descriptor in descriptors:
        os.close(descriptor)
    return []


def duplicate_all(descriptors: Iterable[int]) -> list[int]:
    """Close-on-exec duplicates of all of them, or OSError and none."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))  # noqa: PERF401 - what was made must be known on error
    except OSError:
        close_all(copies)
        raise
    return copies


def _rights(descriptors: list[int]) -> list[tuple[int, int, bytes]]:
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


def _received(control: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
