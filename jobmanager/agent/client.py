"""User agents as the service sees them: one for each account, started when it is needed.

Every operation can be repeated, so one whose agent died is asked of a new agent, once.
"""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from jobmanager.agent import frames
from jobmanager.agent.connection import AgentLostError, Connection
from jobmanager.agent.errors import StagingError
from jobmanager.agent.frames import Settings
from jobmanager.agent.work import work_of
from jobmanager.description import JobDescription
from jobmanager.records import JobPaths
from jobmanager.spawner.codec import Frame
from jobmanager.spawner_client import SpawnerError
from protocol.errors import GramError
from protocol.tables import ErrorCode

__all__ = ["Agent", "AgentPool", "JobFiles", "OpenedJob", "Settings", "StagingError"]

log = structlog.get_logger("jobmanager")

A = TypeVar("A", bound=Frame)

QUICK = 60.0
"""Seconds for operations that transfer nothing; the others are limited by the agent itself."""
_ATTEMPTS = 2
_RESTORE_PAUSES = (0.1, 1.0, 5.0, 30.0)

Start = Callable[[str], Awaitable[tuple[int, socket.socket]]]
"""Starts an agent for an account: its process id and our end of its socket."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """A job as its agent must know it; `id` is a name without slashes."""

    id: str
    contact: str
    description: JobDescription
    paths: JobPaths


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """What a job starts with, and where that is.

    `descriptors`: the working directory, then stdin, stdout and stderr of each process.  They are
    the account's own choice and the caller's to close; hand them on, never read or write them.
    """

    descriptors: tuple[int, ...]
    executable: str
    directory: str
    stdin: str
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class StagedIn:
    """Local paths of an executable and of a standard input that were URLs."""

    executable: str | None
    stdin: str | None


class Agent:
    """The agent of one account, started again when it died.

    All operations raise GramError with the codes of job-manager.md; StagingError where something
    was to be transferred.  NO_RESOURCES: the agent cannot be started, or does not answer.
    """

    def __init__(self, account: str, start: Start, settings: Settings) -> None:
        self.account = account
        self._start = start
        self._settings = settings
        self._home: str | None = None
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._streams: dict[str, frames.JobWork] = {}
        self._restoring: asyncio.Task[None] | None = None

    @property
    def home(self) -> str:
        """The account's home directory; known once the agent has been started."""
        if self._home is None:
            raise GramError(ErrorCode.NO_RESOURCES, "the agent has not been started")
        return self._home

    # --- operations ---------------------------------------------------------------------------

    async def create_job(
        self, job: str, contact: str, description: JobDescription, proxy: bytes
    ) -> JobPaths:
        """Make the job's directories and store its proxy; test its local destinations.

        To be done before the reply.  Raises GramError 22, 136, 73, 74, 75; nothing is left then,
        nor after a dry run.
        """
        work, pem = work_of(job, contact, description), proxy.decode("ascii")
        made, _ = await self._ask(
            lambda number: frames.CreateJob(number, work, pem), frames.Created, QUICK
        )
        return JobPaths(self.home, made.directory, made.proxy, made.cache, made.scratch)

    async def write_proxy(self, files: JobFiles, proxy: bytes) -> None:
        """Replace the job's proxy as a whole (75); transfers begun later use it."""
        work, pem = _work(files), proxy.decode("ascii")
        await self._ask(lambda number: frames.WriteProxy(number, work, pem), frames.Done, QUICK)

    async def stage_in(self, files: JobFiles) -> StagedIn:
        """Fetch executable, stdin and the staging lists; what is there already is not fetched.

        Raises StagingError 43, 44, 135.
        """
        staged, _ = await self._for_job(frames.StageIn, files, frames.StagedIn, None)
        return StagedIn(staged.executable, staged.stdin)

    async def open_job(self, files: JobFiles) -> OpenedJob:
        """Check everything in fork's order (job-manager.md §3.4) and open it.

        Raises GramError 52, 4, 54, 14, 26, 55, 5, 72, 64, 11, 50, 73, 74.
        """
        opened, descriptors = await self._for_job(frames.OpenJob, files, frames.Opened, QUICK)
        return OpenedJob(
            descriptors,
            opened.executable,
            opened.directory,
            opened.stdin,
            opened.stdout,
            opened.stderr,
        )

    async def stream(self, files: JobFiles) -> None:
        """Send the output to its URLs as it grows; goes on until `finish_output`."""
        self._streams[files.id] = _work(files)
        await self._for_job(frames.StreamOutput, files, frames.Done, QUICK)

    async def finish_output(self, files: JobFiles) -> None:
        """The job is over: return when every destination has all of its output.

        Raises StagingError 73 (for stderr too); what arrived is not sent again by a repetition.
        """
        self._streams.pop(files.id, None)
        await self._for_job(frames.FinishOutput, files, frames.Done, None)

    async def redirect(self, files: JobFiles) -> None:
        """The description has new destinations (STDIO_UPDATE); GramError 73, 74 for a local one."""
        if files.id in self._streams:
            self._streams[files.id] = _work(files)
        await self._for_job(frames.Redirect, files, frames.Done, QUICK)

    async def stage_out(self, files: JobFiles) -> None:
        """Deliver `file_stage_out`; raises StagingError 155."""
        await self._for_job(frames.StageOut, files, frames.Done, None)

    async def sizes(self, files: JobFiles) -> tuple[int, int, bool]:
        """Bytes of stdout and stderr that are kept for delivery, and whether some is undelivered.

        A stream that the job writes to its destination itself counts as 0 (STDIO_SIZE, §2.5).
        """
        sizes, _ = await self._for_job(frames.MeasureOutput, files, frames.OutputSizes, QUICK)
        return sizes.stdout, sizes.stderr, sizes.streaming

    async def clean_up(self, files: JobFiles) -> int:
        """Remove all that was the job's alone (§2.8); how many things could not be removed."""
        self._streams.pop(files.id, None)
        cleaned, _ = await self._for_job(frames.CleanUp, files, frames.CleanedUp, None)
        return cleaned.failures

    # --- the connection -----------------------------------------------------------------------

    async def connect(self) -> None:
        """Start the agent if none is running."""
        await self._connected()

    async def aclose(self) -> None:
        """Send the agent away; a new one could go on with what it was doing."""
        self._streams.clear()
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()

    async def _for_job(
        self,
        make: Callable[[int, frames.JobWork], Frame],
        files: JobFiles,
        expected: type[A],
        timeout: float | None,
    ) -> tuple[A, tuple[int, ...]]:
        work = _work(files)
        return await self._ask(lambda number: make(number, work), expected, timeout)

    async def _ask(
        self, make: Callable[[int], Frame], expected: type[A], timeout: float | None
    ) -> tuple[A, tuple[int, ...]]:
        for _ in range(_ATTEMPTS):
            connection = await self._connected()
            try:
                return await connection.ask(make, expected, timeout)
            except AgentLostError:
                log.warning("agent.lost", account=self.account)
            except TimeoutError:
                text = f"the agent of {self.account} does not answer"
                raise GramError(ErrorCode.NO_RESOURCES, text) from None
        text = f"the agent of {self.account} keeps ending"
        raise GramError(ErrorCode.NO_RESOURCES, text)

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = await self._open()
            return self._connection

    async def _open(self) -> Connection:
        try:
            _, sock = await self._start(self.account)
        except (SpawnerError, OSError) as error:
            text = f"cannot start an agent for {self.account}: {error}"
            raise GramError(ErrorCode.NO_RESOURCES, text) from error
        connection = Connection(sock, self._lost, lambda: bool(self._streams))
        try:
            configure = functools.partial(frames.Configure, settings=self._settings)
            ready, _ = await connection.ask(configure, frames.Ready, QUICK)
            self._home = ready.home
            for work in list(self._streams.values()):
                await self._stream_again(connection, work)
        except (AgentLostError, TimeoutError) as error:
            connection.close()
            text = f"the agent of {self.account} does not start"
            raise GramError(ErrorCode.NO_RESOURCES, text) from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def _stream_again(self, connection: Connection, work: frames.JobWork) -> None:
        try:
            await connection.ask(
                lambda number: frames.StreamOutput(number, work), frames.Done, QUICK
            )
        except GramError as error:
            log.warning("agent.stream-not-resumed", job=work.id, reason=error.message)

    def _lost(self) -> None:
        """An agent died: output that was being sent needs another one."""
        if self._streams and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.get_running_loop().create_task(self._restore())

    async def _restore(self) -> None:
        for pause in _RESTORE_PAUSES:
            await asyncio.sleep(pause)
            try:
                await self._connected()
            except GramError as error:
                log.warning("agent.not-restarted", account=self.account, reason=error.message)
            else:
                return


class AgentPool:
    """The agents of all accounts."""

    def __init__(self, start: Start, settings: Settings | None = None) -> None:
        self._start = start
        self._settings = settings or Settings()
        self._agents: dict[str, Agent] = {}

    async def get(self, account: str) -> Agent:
        """The account's agent, running; raises GramError(NO_RESOURCES)."""
        agent = self._agents.get(account)
        if agent is None:
            agent = self._agents[account] = Agent(account, self._start, self._settings)
        await agent.connect()
        return agent

    async def aclose(self) -> None:
        """Send all agents away."""
        await asyncio.gather(*(agent.aclose() for agent in self._agents.values()))
        self._agents.clear()


def _work(files: JobFiles) -> frames.JobWork:
    return work_of(files.id, files.contact, files.description)
