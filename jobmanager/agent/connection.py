"""The service's end of one agent's socket.  The agent is the user's: nothing it says is believed.

Every frame is checked field by field; an agent that breaks the rules loses its connection, which
harms the jobs of its own account alone.
"""

import asyncio
import itertools
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jobmanager.agent import frames
from jobmanager.agent.errors import StagingError
from jobmanager.agent.link import Link
from jobmanager.records import Failure
from jobmanager.spawner.channel import Packet, close_all
from jobmanager.spawner.codec import Frame, FrameError, decode
from protocol.errors import GramError
from protocol.tables import ErrorCode

A = TypeVar("A", bound=Frame)


class AgentLostError(Exception):
    """The agent has gone (or was sent away) before it answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A frame and the descriptors that came with it, the receiver's to close."""

    frame: Frame
    descriptors: tuple[int, ...] = ()


class Connection:
    """Requests to one agent, many at once; use it in one event loop.

    `on_lost` is called once when the agent has gone, unless `close` was called.  An agent that says
    it is idle is sent away unless `is_needed`.
    """

    def __init__(
        self, sock: socket.socket, on_lost: Callable[[], None], is_needed: Callable[[], bool]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._ids = itertools.count(1)
        self._last_id = 0
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._is_needed = is_needed
        self._link = Link(sock, self._received, self._closed)

    @property
    def lost(self) -> bool:
        """Whether the agent can no longer be asked."""
        return self._link.closed

    async def ask(
        self, make: Callable[[int], Frame], expected: type[A], timeout: float | None
    ) -> tuple[A, tuple[int, ...]]:
        """Send the frame made for a fresh identifier; its answer and the descriptors with it.

        A cancelled or late request is cancelled at the agent too.  Raises AgentLostError,
        TimeoutError, and the GramError that the agent answers with.
        """
        if self.lost:
            raise AgentLostError
        number = self._last_id = next(self._ids)
        waiting = self._pending[number] = self._loop.create_future()
        try:
            self._link.send(make(number))
            async with asyncio.timeout(timeout):
                answer = await waiting
        except (asyncio.CancelledError, TimeoutError):
            self._link.send(frames.Cancel(number))
            _abandon(waiting)
            raise
        except FrameError as error:
            raise GramError(ErrorCode.INVALID_REQUEST, f"the job is too large: {error}") from error
        finally:
            del self._pending[number]
        return self._expect(answer, expected)

    def _expect(self, answer: Answer, expected: type[A]) -> tuple[A, tuple[int, ...]]:
        frame = answer.frame
        if isinstance(frame, expected):
            return frame, answer.descriptors
        close_all(answer.descriptors)
        if isinstance(frame, frames.Failed):
            raise _error(frame)
        self._link.close()
        raise AgentLostError

    def close(self) -> None:
        """Send the agent away; it ends by itself."""
        self._on_lost = lambda: None
        self._link.close()

    def _received(self, packet: Packet) -> None:
        if self.lost:
            close_all(packet.descriptors)
            return
        try:
            frame = decode(packet.payload or b"", frames.ANSWERS)
            self._check(frame, packet.descriptors)
        except FrameError:
            close_all(packet.descriptors)
            self._link.close()
            return
        if isinstance(frame, frames.Idle):
            if not self._pending and not self._is_needed():
                self.close()
            return
        waiting = self._pending.get(_number(frame))
        if waiting is None or waiting.done():  # nobody waits for it any more
            close_all(packet.descriptors)
        else:
            waiting.set_result(Answer(frame, packet.descriptors))

    def _check(self, frame: Frame, descriptors: Sequence[int]) -> None:
        expected = frame.descriptors if isinstance(frame, frames.Opened) else 0
        if len(descriptors) != expected:
            raise FrameError("not the announced descriptors")
        if _number(frame) > self._last_id:
            raise FrameError("an answer to nothing")

    def _closed(self) -> None:
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(AgentLostError())
        self._on_lost()


def _number(frame: Frame) -> int:
    return int(getattr(frame, "id", 0))


def _abandon(waiting: asyncio.Future[Answer]) -> None:
    """Close what came just when nobody waited any more."""
    if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
        close_all(waiting.result().descriptors)


def _error(answer: frames.Failed) -> GramError:
    try:
        code = ErrorCode(answer.code)
    except ValueError:
        code = ErrorCode.NO_RESOURCES
    if not answer.type:
        return GramError(code, answer.message)
    failure = Failure(answer.message, answer.type, answer.source, answer.destination)
    return StagingError(code, failure)
