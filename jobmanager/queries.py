"""Answers the requests to a job contact, as the tables of wire-protocol.md §7 and
job-manager.md §2.5 say.

Everything here happens after the asker was found to be the job's owner. A refusal is a GramError
with the code for `failure-code`; the reply then shows state 4 whatever the real state is.
"""

from collections.abc import Awaitable, Callable

from jobmanager.lrm.base import LRMError
from jobmanager.manager import Happening, JobManager
from jobmanager.records import CallbackContact, Failure, JobRecord
from jobmanager.service import JobService
from jobmanager.states import BEFORE_LRM, ENDED, IN_LRM, Event, Phase
from protocol.errors import GramError
from protocol.messages import (
    CancelQuery,
    Query,
    RegisterQuery,
    RenewQuery,
    SignalQuery,
    StatusQuery,
    UnregisterQuery,
)
from protocol.tables import ErrorCode, JobState, Signal

MAX_CONTACTS = 32
"""Callback contacts a job may have; the reference has no limit, we bound what a client can add."""

MAX_EXTENSION = 10**9
"""Seconds; the sum of what a client asks for must stay a number that can be stored."""


class _CancelAnswered:
    """Whether a cancel request can be answered: the job is over, or the LRM refused."""

    def __init__(self) -> None:
        self._cancelling = False

    def __call__(self, record: JobRecord) -> bool:
        self._cancelling |= record.phase is Phase.CANCELLING
        refused = self._cancelling and record.phase in IN_LRM
        return refused or record.state in (JobState.FAILED, JobState.DONE)


def _denied(what: str) -> GramError:
    return GramError(ErrorCode.JOB_QUERY_DENIAL, f"{what} is not possible in this phase of the job")


class Queries:
    """One method a request; each returns the record the reply is made from."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._signals: dict[Signal, Callable[[JobManager, str], Awaitable[JobRecord]]] = {
            Signal.CANCEL: self._unimplemented,
            Signal.SUSPEND: self._suspend,
            Signal.RESUME: self._resume,
            Signal.PRIORITY: self._unimplemented,
            Signal.COMMIT_REQUEST: self._commit,
            Signal.COMMIT_EXTEND: self._extend,
            Signal.STDIO_UPDATE: self._stdio_update,
            Signal.STDIO_SIZE: self._stdio_size,
            Signal.STOP_MANAGER: self._stop_manager,
            Signal.COMMIT_END: self._commit_end,
        }

    async def answer(self, job: JobManager, query: Query) -> JobRecord:
        """Carry out a query; raises GramError with the failure code of the reply."""
        match query:
            case StatusQuery() | RenewQuery():
                return job.record
            case CancelQuery():
                return await self._cancel(job)
            case SignalQuery(signal=number, argument=argument):
                return await self._signal(job, number, argument)
            case RegisterQuery(mask=mask, url=url):
                return await self._register(job, mask, url)
            case UnregisterQuery(url=url):
                return await self._unregister(job, url)
            case _:
                raise GramError(ErrorCode.INVALID_JOB_QUERY, "unknown query")

    # --- cancel -------------------------------------------------------------------------------

    async def _cancel(self, job: JobManager) -> JobRecord:
        before = job.record
        closing = ENDED | {Phase.STAGE_OUT, Phase.CLEAN_UP, Phase.FINISHED}
        if before.phase in closing or before.stopped:
            raise _denied("cancel")
        why = Failure(message="the job was cancelled by its owner")
        job.post(Happening(Event.CANCEL, int(ErrorCode.USER_CANCELLED), why))
        immediate = before.phase in BEFORE_LRM and before.state is not JobState.PENDING
        after = await job.settle(_CancelAnswered())
        if after.state is JobState.DONE:
            raise _denied("cancel")
        if after.state is not JobState.FAILED:
            raise GramError(ErrorCode.JOB_CANCEL_FAILED, "the LRM could not cancel the job")
        return before if immediate else after

    # --- signals ------------------------------------------------------------------------------

    async def _signal(self, job: JobManager, number: int, argument: str) -> JobRecord:
        try:
            signal = Signal(number)
        except ValueError:
            text = f"there is no signal {number}"
            raise GramError(ErrorCode.UNKNOWN_SIGNAL_TYPE, text) from None
        return await self._signals[signal](job, argument)

    async def _unimplemented(self, job: JobManager, _argument: str) -> JobRecord:
        self._check_lrm_phase(job)
        raise GramError(ErrorCode.UNIMPLEMENTED, "this LRM has no such operation")

    async def _suspend(self, job: JobManager, _argument: str) -> JobRecord:
        return await self._at_lrm(job, Event.SUSPENDED, {Phase.ACTIVE, Phase.SUSPENDED})

    async def _resume(self, job: JobManager, _argument: str) -> JobRecord:
        return await self._at_lrm(job, Event.RESUMED, {Phase.ACTIVE, Phase.SUSPENDED})

    async def _at_lrm(self, job: JobManager, event: Event, phases: set[Phase]) -> JobRecord:
        self._check_lrm_phase(job)
        lrm = self._service.lrm_of(job.record)
        if job.record.phase not in phases:
            raise _denied("suspend and resume")
        operation = lrm.suspend if event is Event.SUSPENDED else lrm.resume
        try:
            await operation(job.record)
        except LRMError as error:
            raise GramError(error.code, str(error)) from error
        target = Phase.SUSPENDED if event is Event.SUSPENDED else Phase.ACTIVE
        if job.record.phase is not target:
            job.post(Happening(event))
        return await job.settle(lambda record: record.phase is target or record.phase not in IN_LRM)

    @staticmethod
    def _check_lrm_phase(job: JobManager) -> None:
        closing = ENDED | {Phase.STAGE_OUT, Phase.CLEAN_UP, Phase.FINISHED}
        if job.record.phase in closing or job.record.stopped:
            raise _denied("this signal")

    @staticmethod
    def _check_two_phase(job: JobManager) -> None:
        if not job.record.two_phase:
            text = "the job was not submitted with two_phase"
            raise GramError(ErrorCode.INVALID_COMMIT, text)

    async def _commit(self, job: JobManager, _argument: str) -> JobRecord:
        self._check_two_phase(job)
        if job.record.stopped:
            raise _denied("commit")
        before = job.record
        if before.phase is Phase.UNCOMMITTED:
            job.post(Happening(Event.COMMITTED))
            await job.settle(lambda record: record.phase is not Phase.UNCOMMITTED)
        elif before.phase in ENDED:
            raise _denied("commit")
        return before

    async def _extend(self, job: JobManager, argument: str) -> JobRecord:
        self._check_two_phase(job)
        waiting = ENDED | {Phase.UNCOMMITTED}
        if job.record.phase in waiting:
            extension = job.record.extension + int(argument)
            bounded = max(-MAX_EXTENSION, min(extension, MAX_EXTENSION))
            await job.amend(extension=bounded)
        return job.record

    async def _stdio_update(self, job: JobManager, argument: str) -> JobRecord:
        self._check_lrm_phase(job)
        await self._service.redirect(job, argument)
        return job.record

    async def _stdio_size(self, job: JobManager, argument: str) -> JobRecord:
        wanted = [int(word) for word in argument.split()]
        out, err, streaming = await self._service.output_sizes(job)
        if streaming:
            raise GramError(ErrorCode.STILL_STREAMING, "output is still being delivered")
        for expected, size in zip(wanted, (out, err), strict=False):
            if expected not in (-1, size):
                text = f"{size} bytes were written, the client has {expected}"
                raise GramError(ErrorCode.STDIO_SIZE, text)
        return job.record

    async def _stop_manager(self, job: JobManager, _argument: str) -> JobRecord:
        record = job.record
        if record.phase in {Phase.CLEAN_UP, Phase.FINISHED}:
            raise _denied("stop")
        if not record.stopped:
            await job.announce_stop(ErrorCode.JM_STOPPED)
        return record

    async def _commit_end(self, job: JobManager, _argument: str) -> JobRecord:
        self._check_two_phase(job)
        if job.record.phase not in ENDED:
            raise _denied("commit end")
        before = job.record
        job.post(Happening(Event.COMMIT_ENDED))
        await job.settle(lambda record: record.phase is Phase.FINISHED)
        return before

    # --- callback contacts --------------------------------------------------------------------

    async def _register(self, job: JobManager, mask: int, url: str) -> JobRecord:
        known = {contact.url: contact for contact in job.record.contacts}
        if url not in known and len(known) >= MAX_CONTACTS:
            text = f"a job has at most {MAX_CONTACTS} callback contacts"
            raise GramError(ErrorCode.INSERTING_CLIENT_CONTACT, text)
        old = known.get(url)
        known[url] = CallbackContact(url, mask | (old.mask if old else 0))
        await job.set_contacts(tuple(known.values()))
        return job.record

    async def _unregister(self, job: JobManager, url: str) -> JobRecord:
        left = tuple(contact for contact in job.record.contacts if contact.url != url)
        if len(left) == len(job.record.contacts):
            text = "no such callback contact is registered"
            raise GramError(ErrorCode.CLIENT_CONTACT_NOT_FOUND, text)
        before = job.record
        await job.set_contacts(left)
        self._service.callbacks.forget(before.id, url)
        if not left and before.phase in ENDED and before.two_phase:
            job.post(Happening(Event.COMMIT_ENDED))
        return before
