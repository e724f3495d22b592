"""The agent's process: takes requests, many at once, and leaves when the service has gone."""

import asyncio
import os
import pwd
import resource
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable

from jobmanager.agent import frames
from jobmanager.agent.errors import StagingError, reason
from jobmanager.agent.link import Link
from jobmanager.agent.opening import open_job
from jobmanager.agent.output import Outputs
from jobmanager.agent.staging import Staging
from jobmanager.agent.threads import in_thread
from jobmanager.agent.transfers import Transfers
from jobmanager.agent.workspace import PROXY, Workspace, failing
from jobmanager.records import Failure
from jobmanager.spawner.channel import Packet, close_all
from jobmanager.spawner.codec import Frame, FrameError, decode
from protocol.errors import GramError
from protocol.tables import ErrorCode

_TEXT = 4096


def run(sock: socket.socket) -> None:
    """Serve one connection as the account this process belongs to, until it is closed.

    The home directory is HOME's, else the account's.
    """
    os.umask(0o022)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    asyncio.run(UserAgent(home).serve(sock))


class UserAgent:
    """Answers the requests of one service; see `frames`."""

    def __init__(self, home: str) -> None:
        self._workspace = Workspace(home)
        self._use(frames.Settings())
        self._configured = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._idle_timer: asyncio.TimerHandle | None = None
        self._handlers: dict[type[Frame], Callable[..., Awaitable[Frame]]] = {
            frames.CreateJob: self._create_job,
            frames.WriteProxy: self._write_proxy,
            frames.StageIn: self._stage_in,
            frames.StreamOutput: self._stream_output,
            frames.FinishOutput: self._finish_output,
            frames.Redirect: self._redirect,
            frames.StageOut: self._stage_out,
            frames.MeasureOutput: self._measure_output,
            frames.CleanUp: self._clean_up,
        }

    async def serve(self, sock: socket.socket) -> None:
        """Answer until the service closes its end; work that is not finished is given up."""
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        self._link = Link(sock, self._received, lambda: self._closed.set_result(None))
        try:
            await self._closed
        finally:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self._outputs.aclose()

    def _use(self, settings: frames.Settings) -> None:
        self._settings = settings
        transfers = Transfers(self._workspace, settings)
        self._staging = Staging(self._workspace, transfers)
        self._outputs = Outputs(self._workspace, transfers, settings)

    # --- requests -----------------------------------------------------------------------------

    def _received(self, packet: Packet) -> None:
        close_all(packet.descriptors)
        try:
            if packet.payload is None:
                raise FrameError("the frame is too long")
            request = decode(packet.payload, frames.REQUESTS)
        except FrameError as error:
            self._refuse(error)
            return
        match request:
            case frames.Configure():
                self._configure(request)
            case frames.Cancel():
                if (task := self._tasks.get(request.id)) is not None:
                    task.cancel()
            case _:
                self._begin(request)

    def _refuse(self, error: FrameError) -> None:
        if error.request_id == 0:
            self._link.close()
            return
        text = f"the service sent something unexpected: {error}"
        self._link.send(_failed(error.request_id, GramError(ErrorCode.INVALID_REQUEST, text)))

    def _configure(self, request: frames.Configure) -> None:
        if not self._configured:
            self._configured = True
            self._use(request.settings)
        self._link.send(frames.Ready(request.id, self._workspace.home))
        self._rest()

    def _begin(self, request: Frame) -> None:
        number: int = getattr(request, "id")  # noqa: B009 - every kind here has one
        task = self._loop.create_task(self._answer(number, request))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._ended(number, task))

    async def _answer(self, number: int, request: Frame) -> None:
        try:
            if isinstance(request, frames.OpenJob):
                self._open_job(request)
                return
            answer = await self._handlers[type(request)](request)
        except GramError as error:
            answer = _failed(number, error)
        except OSError as error:
            answer = _failed(number, GramError(ErrorCode.NO_RESOURCES, reason(error)))
        self._link.send(answer)

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        del self._tasks[number]
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault of ours: the service starts another agent and asks again.
            traceback.print_exception(error, file=sys.stderr)
            self._link.close()
        self._rest()

    def _rest(self) -> None:
        """Wait for the time to say that there is nothing to do."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = self._loop.call_later(self._settings.idle_timeout, self._idle)

    def _idle(self) -> None:
        if not self._tasks:
            self._link.send(frames.Idle())
        self._rest()

    # --- operations ---------------------------------------------------------------------------

    async def _create_job(self, request: frames.CreateJob) -> frames.Created:
        await in_thread(self._workspace.create, request.job, request.proxy)
        directory = self._workspace.path(request.job.id)
        return frames.Created(
            request.id,
            directory,
            f"{directory}/{PROXY}",
            self._workspace.cache.path,
            self._workspace.scratch(request.job),
        )

    async def _write_proxy(self, request: frames.WriteProxy) -> frames.Done:
        with (
            failing(ErrorCode.OPENING_CACHE_USER_PROXY, "cannot store the delegated credential"),
            self._workspace.open(request.job.id) as directory,
        ):
            self._workspace.write_proxy(directory, request.proxy)
        return frames.Done(request.id)

    async def _stage_in(self, request: frames.StageIn) -> frames.StagedIn:
        executable, stdin = await self._staging.stage_in(request.job)
        return frames.StagedIn(request.id, executable, stdin)

    def _open_job(self, request: frames.OpenJob) -> None:
        opened = open_job(self._workspace, request.job)
        try:
            answer = frames.Opened(
                request.id,
                len(opened.descriptors),
                opened.executable,
                opened.directory,
                opened.stdin,
                opened.sinks.stdout.path,
                opened.sinks.stderr.path,
            )
            self._link.send(answer, opened.descriptors)
        finally:
            close_all(opened.descriptors)

    async def _stream_output(self, request: frames.StreamOutput) -> frames.Done:
        self._outputs.stream(request.job)
        return frames.Done(request.id)

    async def _finish_output(self, request: frames.FinishOutput) -> frames.Done:
        await self._outputs.finish(request.job)
        return frames.Done(request.id)

    async def _redirect(self, request: frames.Redirect) -> frames.Done:
        await self._outputs.redirect(request.job)
        return frames.Done(request.id)

    async def _stage_out(self, request: frames.StageOut) -> frames.Done:
        await self._staging.stage_out(request.job)
        return frames.Done(request.id)

    async def _measure_output(self, request: frames.MeasureOutput) -> frames.OutputSizes:
        return self._outputs.sizes(request.id, request.job)

    async def _clean_up(self, request: frames.CleanUp) -> frames.CleanedUp:
        await self._outputs.drop(request.job.id)
        failures = await in_thread(self._workspace.clean_up, request.job)
        return frames.CleanedUp(request.id, failures)


def _failed(number: int, error: GramError) -> frames.Failed:
    failure = error.failure if isinstance(error, StagingError) else Failure()
    return frames.Failed(
        number,
        int(error.code),
        error.message.replace("\0", "?")[:_TEXT],  # a server's own words may be in it
        failure.type,
        failure.source,
        failure.destination,
    )
