"""The fork LRM: jobs are processes of this machine, each in a container held by its shepherd.

The container's name is derived from the job's id, so a submission is found again by asking the
spawner; there is no second copy to start by mistake. The end of a job is always an exit record.
"""

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from jobmanager.agent.client import AgentPool
from jobmanager.description import JobDescription, JobType
from jobmanager.job_files import job_files
from jobmanager.lrm.base import (
    LRMError,
    LRMUnavailableError,
    Observation,
    Observed,
    Submission,
)
from jobmanager.records import JobRecord
from jobmanager.spawner_client import (
    ContainerInfo,
    ExitRecord,
    LaunchError,
    LaunchRequest,
    Limits,
    SpawnerClient,
    SpawnerError,
    SpawnerLost,
)
from protocol.tables import ErrorCode

KILL_TIMEOUT = 30.0
"""Seconds to wait for the end of a job after SIGKILL."""
CANCEL_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL of a cancelled job (job-manager.md §6.4)."""

_LIMITS = {
    "wall-limit": "the job ran longer than its wall-clock limit and was ended",
    "cpu-limit": "the job used more CPU time than its limit and was ended",
}


class ForkLRM:
    """Runs jobs through the spawner; the account's agent opens the files they use."""

    name = "fork"

    def __init__(self, spawner: SpawnerClient, agents: AgentPool) -> None:
        self._spawner = spawner
        self._agents = agents
        self._ending: dict[str, asyncio.Event] = {}
        self.on_observation: Callable[[str, Observation], None] = lambda _job, _seen: None
        spawner.on_ended = self._ended

    async def submit(self, submission: Submission) -> Observation:
        """Open the job's files as the account, then start it; it is ACTIVE at once."""
        record, description = submission.record, submission.description
        agent = await self._agents.get(record.account)
        opened = await agent.open_job(job_files(record, description, submission.paths))
        try:
            launched = await self._spawner.launch(
                LaunchRequest(
                    container=record.container,
                    account=record.account,
                    processes=_processes(description),
                    argv=_argv(description, opened.executable),
                    environment=submission.environment,
                    limits=_limits(description),
                ),
                opened.descriptors,
            )
        except SpawnerLost as error:
            raise LRMUnavailableError(str(error)) from error
        except LaunchError as error:
            raise LRMError(_launch_code(error), f"{error.stage}: {error.text}") from error
        except SpawnerError as error:
            text = f"the spawner could not start the job: {error}"
            raise LRMError(ErrorCode.JOB_EXECUTION_FAILED, text) from error
        finally:
            for descriptor in opened.descriptors:
                os.close(descriptor)
        return Observation(Observed.ACTIVE, _lrm_id(launched.pids))

    async def find(self, records: Sequence[JobRecord]) -> list[Observation]:
        """Living, ended with a record, never started, or lost. The spawner's answer is evidence."""
        try:
            living = {info.container: info for info in await self._spawner.list()}
            ended = {record.container: record for record in await self._spawner.records()}
        except SpawnerError as error:
            raise LRMUnavailableError(f"the spawner does not tell its jobs: {error}") from error
        return [_found(record, living, ended) for record in records]

    async def cancel(self, record: JobRecord) -> None:
        """TERM, after a grace KILL, for everything the job started; returns when it is gone."""
        ended = self._ending.setdefault(record.container, asyncio.Event())
        try:
            await self._spawner.kill(record.container, CANCEL_GRACE)
            async with asyncio.timeout(CANCEL_GRACE + KILL_TIMEOUT):
                await ended.wait()
        except SpawnerLost as error:
            raise LRMUnavailableError(str(error)) from error
        except SpawnerError as error:
            if error.errno != errno.ESRCH:  # gone already is what we want
                raise LRMError(ErrorCode.JOB_CANCEL_FAILED, str(error)) from error
        except TimeoutError:
            text = "processes of the job are still there after SIGKILL"
            raise LRMError(ErrorCode.JOB_CANCEL_FAILED, text) from None
        finally:
            self._ending.pop(record.container, None)

    async def suspend(self, record: JobRecord) -> None:
        """Stop every process of the job."""
        await self._change(self._spawner.freeze, record)

    async def resume(self, record: JobRecord) -> None:
        """Let them go on."""
        await self._change(self._spawner.thaw, record)

    async def forget(self, record: JobRecord) -> None:
        """Drop the exit record."""
        try:
            await self._spawner.forget(record.container)
        except SpawnerError as error:
            raise LRMError(ErrorCode.NO_RESOURCES, str(error)) from error

    async def _change(self, operation: Callable[[str], Awaitable[None]], record: JobRecord) -> None:
        try:
            await operation(record.container)
        except SpawnerError as error:
            raise LRMError(ErrorCode.SIGNALING_JOB, str(error)) from error

    def _ended(self, record: ExitRecord) -> None:
        if (ending := self._ending.get(record.container)) is not None:
            ending.set()
        self.on_observation(record.container, _observation(record))


def _found(
    record: JobRecord, living: Mapping[str, ContainerInfo], ended: Mapping[str, ExitRecord]
) -> Observation:
    if (info := living.get(record.container)) is not None:
        return Observation(
            Observed.SUSPENDED if info.frozen else Observed.ACTIVE, _lrm_id(info.pids)
        )
    if (exit_record := ended.get(record.container)) is not None:
        return _observation(exit_record)
    if record.lrm_id is None:
        return Observation(Observed.ABSENT)
    text = "the job's shepherd and its exit record are gone: its end is unknown"
    return Observation(Observed.LOST, reason=text)


def _observation(record: ExitRecord) -> Observation:
    if record.reason == "lost":
        text = "the job's shepherd was killed: the job's end is unknown"
        return Observation(Observed.LOST, reason=text)
    limit = _LIMITS.get(record.reason)
    return Observation(
        Observed.ENDED,
        exit_code=_exit_code(record),
        failure_code=None if limit is None else ErrorCode.SYSTEM_CANCELLED,
        reason=limit or "",
        usage=json.dumps(
            {
                "cpu_user": record.cpu_user,
                "cpu_system": record.cpu_system,
                "max_rss_kb": record.max_rss_kb,
                "started": record.started,
                "ended": record.ended,
            }
        ),
    )


def _exit_code(record: ExitRecord) -> int | None:
    """The first non-zero exit code (job-manager.md §2.6); a signal counts as 128 + its number."""
    codes = [
        128 + process.signal if process.signal is not None else process.exit_code
        for process in record.processes
    ]
    return next((code for code in codes if code), 0 if 0 in codes else None)


def _lrm_id(pids: tuple[int, ...]) -> str:
    return ",".join(str(pid) for pid in pids)


def _processes(description: JobDescription) -> int:
    return description.count if description.job_type is JobType.MULTIPLE else 1


def _argv(description: JobDescription, executable: str) -> tuple[str, ...]:
    return (executable, *description.arguments)


def _limits(description: JobDescription) -> Limits:
    wall = description.max_wall_time or description.max_time
    cpu = description.max_cpu_time
    return Limits(
        wall_seconds=None if not wall else wall * 60.0, cpu_seconds=None if not cpu else cpu * 60
    )


def _launch_code(error: LaunchError) -> ErrorCode:
    return _STAGES.get(error.stage, ErrorCode.JOB_EXECUTION_FAILED)


_STAGES = {"chdir": ErrorCode.BAD_DIRECTORY, "fork": ErrorCode.FORKING_EXECUTABLE}
