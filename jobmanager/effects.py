"""What each phase of a job does: the effect runs, its result is the next event.

Every effect can be repeated after a crash without harm: staging skips what is there, a submission
is looked for before it is made again, delivery resumes, cleaning up finds less to clean.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from jobmanager.agent.client import Agent, JobFiles
from jobmanager.description import JobDescription, JobType
from jobmanager.environment import environment
from jobmanager.job_files import job_files
from jobmanager.lrm.base import (
    LRMError,
    LRMUnavailableError,
    Observation,
    Observed,
    Submission,
)
from jobmanager.manager import Happening, JobManager
from jobmanager.records import Failure
from jobmanager.states import Event, Phase
from jobmanager.store import StoreError
from protocol.errors import GramError
from protocol.tables import ErrorCode, JobState

if TYPE_CHECKING:
    from jobmanager.service import JobService

log = structlog.get_logger("jobmanager")

RETRY = 1.0
"""Seconds until an effect is tried again that could not be carried out for now."""


class Effects:
    """One method a working phase; None means "must wait"."""

    def __init__(self, service: "JobService") -> None:
        self._service = service
        self._by_phase = {
            Phase.STAGE_IN: self._stage_in,
            Phase.QUEUED: self._queue,
            Phase.SUBMIT: self._submit,
            Phase.CANCELLING: self._cancel,
            Phase.STAGE_OUT: self._stage_out,
            Phase.DONE: self._ended,
            Phase.FAILED: self._ended,
            Phase.CLEAN_UP: self._clean_up,
        }

    async def perform(self, job: JobManager) -> Happening | None:
        """Carry out the phase the job is in; errors become the ERROR event.

        What fails without saying anything of the job (the database, an LRM that cannot be reached)
        is tried again until it works: it never fails a job.
        """
        while True:
            try:
                return await self._attempt(job)
            except (StoreError, LRMUnavailableError) as error:
                log.error("job.effect-delayed", job=job.record.id, reason=str(error))
                job.recovered = True  # what was asked for may have been done: look first
            await asyncio.sleep(RETRY)

    async def _attempt(self, job: JobManager) -> Happening | None:
        try:
            return await self._by_phase[job.record.phase](job)
        except LRMUnavailableError:
            raise
        except (GramError, LRMError) as error:
            failure = getattr(error, "failure", None)
            code = int(error.code)
            failure = failure if isinstance(failure, Failure) else Failure(message=str(error))
            return Happening(Event.ERROR, code, failure, detail=failure.message)
        except OSError as error:
            text = f"{job.record.phase}: {error}"
            log.error("job.effect-failed", job=job.record.id, reason=text)
            return Happening(Event.ERROR, int(ErrorCode.NO_RESOURCES), Failure(message=text))

    async def _files(self, job: JobManager) -> tuple[Agent, JobFiles]:
        description, paths = await self._service.details(job.record.id)
        agent = await self._service.agents.get(job.record.account)
        return agent, job_files(job.record, description, paths)

    async def _stage_in(self, job: JobManager) -> Happening | None:
        description, _ = await self._service.details(job.record.id)
        if not needs_stage_in(description):
            return Happening(Event.STAGED)
        if job.record.state is not JobState.STAGE_IN:
            return Happening(Event.STAGING)
        agent, files = await self._files(job)
        await agent.stage_in(files)
        return Happening(Event.STAGED)

    async def _queue(self, job: JobManager) -> Happening | None:
        if self._service.slots(job.record).take(job.record.id):
            return Happening(Event.SLOT)
        if job.record.state is not JobState.PENDING:
            return Happening(Event.MUST_WAIT)
        return None

    async def _submit(self, job: JobManager) -> Happening | None:
        seen = await self._find_or_submit(job)
        if seen.state in (Observed.ENDED, Observed.LOST):  # known again once it counts as started
            job.post(observed(seen))
        else:
            await self.stream_output(job)
        event = Event.SUBMITTED if seen.state is Observed.PENDING else Event.STARTED
        return Happening(event, lrm_id=seen.lrm_id)

    async def _find_or_submit(self, job: JobManager) -> Observation:
        lrm = self._service.lrm_of(job.record)
        if job.recovered:
            [seen] = await lrm.find([job.record])
            if seen.state is not Observed.ABSENT:
                return seen
        description, paths = await self._service.details(job.record.id)
        variables = environment(
            self._service.site,
            description,
            paths,
            contact=job.record.contact,
            account=job.record.account,
        )
        return await lrm.submit(Submission(job.record, description, paths, variables))

    async def stream_output(self, job: JobManager) -> None:
        """Send output to the client from now on, if it is to be sent anywhere.

        The job runs already: a failure here only means that all of it is sent at the end.
        """
        try:
            description, _ = await self._service.details(job.record.id)
            if delivers_output(description):
                agent, files = await self._files(job)
                await agent.stream(files)
        except (GramError, OSError, StoreError) as error:
            log.warning("job.output-not-streamed", job=job.record.id, reason=str(error))

    async def _cancel(self, job: JobManager) -> Happening | None:
        try:
            await self._service.lrm_of(job.record).cancel(job.record)
        except LRMUnavailableError:
            raise
        except LRMError as error:
            log.error("job.cancel-failed", job=job.record.id, reason=str(error))
            return Happening(Event.CANCEL_REFUSED, detail=str(error))
        return Happening(Event.CANCELLED)

    async def _stage_out(self, job: JobManager) -> Happening | None:
        self._service.release(job.record)  # it has left the LRM; delivery may take any time
        description, _ = await self._service.details(job.record.id)
        if description.file_stage_out and job.record.state is not JobState.STAGE_OUT:
            return Happening(Event.STAGING)
        if job.record.redirected or keeps_output(description):
            agent, files = await self._files(job)
            await agent.finish_output(files)
        if description.file_stage_out:
            agent, files = await self._files(job)
            await agent.stage_out(files)
        if job.record.failure_code:
            return Happening(Event.ERROR)
        return Happening(Event.DELIVERED)

    async def _ended(self, job: JobManager) -> Happening | None:
        self._service.release(job.record)
        if job.record.deadline is None:
            return Happening(Event.COMMIT_ENDED)
        return None

    async def _clean_up(self, job: JobManager) -> Happening | None:
        try:
            agent, files = await self._files(job)
            await agent.clean_up(files)
        except (GramError, OSError) as error:
            log.warning("job.clean-up-failed", job=job.record.id, reason=str(error))
        try:
            await self._service.lrm_of(job.record).forget(job.record)
        except LRMError as error:
            log.warning("job.not-forgotten", job=job.record.id, reason=str(error))
        return Happening(Event.CLEANED)


def observed(seen: Observation) -> Happening:
    """The event that an LRM's observation means for a running job."""
    match seen.state:
        case Observed.ENDED:
            code = 0 if seen.failure_code is None else int(seen.failure_code)
            failure = Failure(message=seen.reason) if code else None
            return Happening(
                Event.ENDED, code, failure, seen.exit_code, detail=seen.reason, usage=seen.usage
            )
        case Observed.ACTIVE:
            return Happening(Event.STARTED)
        case Observed.SUSPENDED:
            return Happening(Event.SUSPENDED)
        case _:
            text = seen.reason or "the local resource manager lost the job"
            return Happening(
                Event.ERROR, int(ErrorCode.SYSTEM_CANCELLED), Failure(message=text), detail=text
            )


def needs_stage_in(description: JobDescription) -> bool:
    """Whether anything is to be fetched before the job can start."""
    return bool(
        "://" in description.executable
        or "://" in description.stdin
        or description.file_stage_in
        or description.file_stage_in_shared
    )


def keeps_output(description: JobDescription) -> bool:
    """Whether the job writes into its own directory first, and output is to be brought on."""
    several = description.job_type is JobType.MULTIPLE and description.count > 1
    lists = len(description.stdout) > 1 or len(description.stderr) > 1
    return several or lists or delivers_output(description)


def delivers_output(description: JobDescription) -> bool:
    """Whether output is sent somewhere while the job runs."""
    destinations = (*description.stdout, *description.stderr)
    return any(destination.url.startswith(("https://", "http://")) for destination in destinations)
