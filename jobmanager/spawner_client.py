"""The service's side of the spawner: an asyncio client that never blocks the loop.

`SpawnerClient.start` execs the spawner with one end of a socket pair; all else is frames
(`jobmanager.spawner.frames`) over the other end.  Containers and exit records outlive the spawner:
after `on_lost`, start a new one with the same policy and ask `list`, then `records`.
"""

import asyncio
import errno
import itertools
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from jobmanager.spawner import frames
from jobmanager.spawner.channel import Channel, Packet, close_all
from jobmanager.spawner.codec import Frame, FrameError, decode
from jobmanager.spawner.frames import (
    ContainerInfo,
    ExitRecord,
    LaunchRequest,
    Limits,
    ProcessExit,
    SpawnerPolicy,
)

__all__ = [
    "ContainerInfo",
    "ExitRecord",
    "LaunchError",
    "LaunchRequest",
    "Launched",
    "Limits",
    "ProcessExit",
    "SpawnerClient",
    "SpawnerError",
    "SpawnerLost",
    "SpawnerPolicy",
]

Launched: TypeAlias = ContainerInfo
A = TypeVar("A")

_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class SpawnerError(Exception):
    """A request that the spawner refused: the step, an errno (0: none) and a text for people."""

    def __init__(self, stage: str, code: int, text: str) -> None:
        super().__init__(f"{stage}: {text}")
        self.stage = stage
        self.errno = code
        self.text = text


class LaunchError(SpawnerError):
    """A job or agent that was not started; nothing of it runs.

    Stages of a job: "account", "container", "descriptors", "fork", "start", "chdir", "streams",
    "limits", "exec" and what else `jobmanager.spawner.child` names.
    """


class SpawnerLost(SpawnerError):  # noqa: N818 - an event of its own, named as on_lost
    """The spawner has gone; whether the request was carried out is unknown."""

    def __init__(self) -> None:
        super().__init__("spawner", errno.ECONNRESET, "the spawner has gone")


@dataclass(frozen=True, slots=True)
class _Agent:
    pid: int
    sock: socket.socket


@dataclass(frozen=True, slots=True)
class _Pending:
    answer: "asyncio.Future[Sequence[object]]"
    refusal: type[SpawnerError]
    parts: list[object] = field(default_factory=list)


class SpawnerClient:
    """A connection to one spawner, in one event loop.

    `on_ended` gets every exit record once its container has ended; it may come before `launch` has
    returned, or twice for one container.  `on_lost` is called once when the spawner has gone
    unasked.  Both are called from the event loop, not within another call.
    """

    def __init__(self, sock: socket.socket, process: asyncio.subprocess.Process | None) -> None:
        self.on_ended: Callable[[ExitRecord], None] = lambda _record: None
        self.on_lost: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._ready: asyncio.Future[frames.Ready] = self._loop.create_future()
        self._channel = Channel(sock, self._wait_to_write)
        self._loop.add_reader(sock, self._read)

    @classmethod
    async def start(
        cls, policy: SpawnerPolicy, *, interpreter: str = sys.executable
    ) -> "SpawnerClient":
        """Exec a spawner (privileged when this process is root) and set its policy.

        Raises SpawnerError when the policy is refused, SpawnerLost or OSError when it does not run.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    interpreter, "-I", "-m", "jobmanager.spawner", str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),), env=_ENVIRONMENT, cwd="/",
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
        except OSError:
            ours.close()
            raise
        return await cls.connect(ours, policy, process)

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        policy: SpawnerPolicy,
        process: asyncio.subprocess.Process | None = None,
    ) -> "SpawnerClient":
        """Use a spawner that somebody else (a supervisor) has started on the other end."""
        client = cls(sock, process)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                client._channel.send(policy)
                await client._ready
        except (SpawnerError, TimeoutError):
            await client.aclose()
            raise
        return client

    @property
    def pid(self) -> int:
        """The spawner's process id."""
        return self._ready.result().pid

    # Requests.  All raise SpawnerError when refused and SpawnerLost.

    async def start_agent(self, account: str) -> tuple[int, socket.socket]:
        """Fork a user agent: its pid and our non-blocking end of its socket; raises LaunchError."""
        (agent,) = await self._ask(
            lambda id_: frames.StartAgent(id_, account), _Agent, refusal=LaunchError
        )
        return agent.pid, agent.sock

    async def stop_agent(self, pid: int) -> None:
        """End an agent that does not leave by itself when its socket is closed."""
        await self._ask(lambda id_: frames.StopAgent(id_, pid), frames.Done)

    async def launch(self, request: LaunchRequest, descriptors: Sequence[int]) -> Launched:
        """Start a job: all its processes run when this returns, or LaunchError and none does.

        `descriptors`: the working directory, then stdin, stdout, stderr of each process; they stay
        the caller's to close.  A cancelled call may have started the job: ask `list`.
        """
        (launched,) = await self._ask(
            lambda id_: frames.Launch(id_, len(descriptors), request),
            frames.Launched, descriptors, LaunchError,
        )  # fmt: skip
        return launched.info

    async def signal(self, container: str, signum: int) -> None:
        """Send a signal to every member of the container; 0 only checks that it lives."""
        await self._ask(lambda id_: frames.Signal(id_, container, signum), frames.Done)

    async def freeze(self, container: str) -> None:
        """Stop every member of the container."""
        await self._ask(lambda id_: frames.Freeze(id_, container), frames.Done)

    async def thaw(self, container: str) -> None:
        """Continue every member of the container."""
        await self._ask(lambda id_: frames.Thaw(id_, container), frames.Done)

    async def kill(self, container: str, grace: float) -> None:
        """SIGTERM to every member, SIGKILL after `grace` seconds; `on_ended` tells the end.

        A second call can only shorten the grace.
        """
        await self._ask(lambda id_: frames.Kill(id_, container, grace), frames.Done)

    async def members(self, container: str) -> tuple[int, ...]:
        """The pids of all living members, parents before their children; for display."""
        (answer,) = await self._ask(lambda id_: frames.ListMembers(id_, container), frames.Members)
        return answer.pids

    async def list(self) -> tuple[ContainerInfo, ...]:
        """All containers that have not ended.  Ask before `records` and none can be missed."""
        parts = await self._ask(frames.ListContainers, frames.Containers)
        return tuple(info for part in parts for info in part.containers)

    async def records(self) -> tuple[ExitRecord, ...]:
        """The exit records of all containers that are not forgotten."""
        parts = await self._ask(frames.ListRecords, frames.Records)
        return tuple(record for part in parts for record in part.records)

    async def forget(self, container: str) -> None:
        """Remove an ended container's record, so that its name is free; EBUSY while it lives."""
        await self._ask(lambda id_: frames.Forget(id_, container), frames.Done)

    async def ping(self) -> None:
        """Return when the spawner has answered."""
        await self._ask(frames.Ping, frames.Done)

    async def aclose(self) -> None:
        """Let the spawner stop its agents and exit; containers go on.  Can be called again."""
        self.on_lost = lambda: None
        self._lose()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    # Frames.

    async def _ask(
        self,
        make: Callable[[int], Frame],
        answer: type[A],
        descriptors: Sequence[int] = (),
        refusal: type[SpawnerError] = SpawnerError,
    ) -> Sequence[A]:
        """Send the frame made for a fresh identifier and wait for all parts of its answer."""
        if self._channel.fileno() < 0:
            raise SpawnerLost
        request_id = next(self._ids)
        pending = _Pending(self._loop.create_future(), refusal)
        try:
            self._channel.send(make(request_id), descriptors)
        except FrameError as error:
            raise refusal("frame", errno.E2BIG, str(error)) from error
        except OSError as error:
            raise refusal("descriptors", error.errno or 0, str(error)) from error
        self._pending[request_id] = pending
        parts = await pending.answer
        if not all(isinstance(part, answer) for part in parts):
            raise refusal("frame", errno.EBADMSG, "not the answer that was asked for")
        return [part for part in parts if isinstance(part, answer)]

    def _wait_to_write(self, channel: Channel) -> None:
        self._loop.add_writer(channel.fileno(), self._flush)

    def _flush(self) -> None:
        if self._channel.flush():
            self._loop.remove_writer(self._channel.fileno())

    def _read(self) -> None:
        try:
            for packet in self._channel.receive():
                self._on_packet(packet)
        except (EOFError, FrameError):
            self._lose()
            self._loop.call_soon(lambda: self.on_lost())

    def _on_packet(self, packet: Packet) -> None:
        try:
            frame = decode(packet.payload or b"", frames.ANSWERS)
            expected = 1 if isinstance(frame, frames.AgentStarted) else 0
            if len(packet.descriptors) != expected:
                raise FrameError("not the announced descriptors")
        except FrameError:
            close_all(packet.descriptors)
            raise
        match frame:
            case frames.Ended():
                self._loop.call_soon(lambda: self.on_ended(frame.record))
            case frames.Ready():
                self._ready.set_result(frame)
            case frames.AgentStarted():
                sock = socket.socket(fileno=packet.descriptors[0])
                sock.setblocking(False)
                self._answer(frame.id, _Agent(frame.pid, sock))
            case frames.Refused():
                self._refuse(frame)
            case frames.Containers() | frames.Records():
                self._answer(frame.id, frame, more=frame.more)
            case frames.Launched() | frames.Done() | frames.Members():
                self._answer(frame.id, frame)
            case _:
                raise FrameError("not for the service")

    def _refuse(self, frame: frames.Refused) -> None:
        if frame.id == 0 and not self._ready.done():
            self._ready.set_exception(SpawnerError(frame.stage, frame.errno, frame.text))
            return
        pending = self._take(frame.id)
        if not pending.answer.done():
            pending.answer.set_exception(pending.refusal(frame.stage, frame.errno, frame.text))

    def _answer(self, request_id: int, part: object, *, more: bool = False) -> None:
        pending = self._take(request_id)
        pending.parts.append(part)
        if more:
            self._pending[request_id] = pending
        elif not pending.answer.done():
            pending.answer.set_result(pending.parts)
        elif isinstance(part, _Agent):  # nobody waits any more; without its socket it leaves
            part.sock.close()

    def _take(self, request_id: int) -> _Pending:
        try:
            return self._pending.pop(request_id)
        except KeyError:
            raise FrameError("an answer to nothing that was asked") from None

    def _lose(self) -> None:
        """Nothing can be asked any more; everybody who waits is told."""
        if self._channel.fileno() < 0:
            return
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        if not self._ready.done():
            self._ready.set_exception(SpawnerLost())
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(SpawnerLost())
        self._pending.clear()
