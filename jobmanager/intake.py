"""Takes job requests: everything of job-manager.md §2.1 that happens before the reply."""

import asyncio
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from jobmanager.agent.places import scratch_directory as scratch_path
from jobmanager.callbacks import extensions
from jobmanager.credentials import CredentialStore
from jobmanager.description import JobDescription, describe, scratch_directory, to_json
from jobmanager.environment import job_symbols, symbols
from jobmanager.job_files import job_files
from jobmanager.manager import Happening, JobManager
from jobmanager.records import CallbackContact, Failure, JobRecord
from jobmanager.states import Event, Phase
from jobmanager.store import Audit, StoreError
from protocol.errors import GramError
from protocol.gsi.credential import Credential
from protocol.messages import JobReply
from protocol.tables import ErrorCode, JobState

if TYPE_CHECKING:
    from jobmanager.service import JobService, Service

log = structlog.get_logger("jobmanager")


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """An authenticated, mapped and authorised job request."""

    identity: str
    account: str
    service: str
    rsl: str
    callback_url: str
    state_mask: int
    credential: Credential | None
    client_address: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a job request; `replied` must be called when it was sent (or could not be).

    Only then does the job begin: the client needs the contact before the first callback.
    """

    reply: JobReply
    job: JobManager | None = None

    def replied(self, *, delivered: bool) -> None:
        """Let the job begin; one whose contact never reached its client fails (§2.1)."""
        if self.job is None:
            return
        if not delivered and not self.job.record.two_phase:
            text = "the reply with the job contact could not be sent"
            code = int(ErrorCode.PROTOCOL_FAILED)
            self.job.post(Happening(Event.ERROR, code, Failure(message=text)))
        self.job.start()


class Addresses(Protocol):
    """Where job contacts of an identity live."""

    async def contact(self, identity: str, path: str) -> str:
        """The contact URL for a job path; opens the listener when needed."""


class Intake:
    """Turns requests into jobs of a JobService."""

    def __init__(
        self,
        service: "JobService",
        credentials: CredentialStore,
        addresses: Addresses,
        *,
        minimum_proxy_lifetime: float,
    ) -> None:
        self._service = service
        self._credentials = credentials
        self._addresses = addresses
        self._minimum_lifetime = minimum_proxy_lifetime
        self._taken: set[asyncio.Future[Submitted]] = set()
        self._arriving: Counter[tuple[str, str]] = Counter()

    async def submit(self, request: SubmitRequest) -> Submitted:
        """Take a job request: everything of job-manager.md §2.1 that happens before the reply.

        A caller that is cancelled (its client's time is over) leaves no job in between: the request
        is taken to its end, and the job then fails, since nobody has its contact.
        """
        work = asyncio.ensure_future(self._submit(request))
        self._taken.add(work)
        work.add_done_callback(self._taken.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_nobody_was_told)
            raise

    async def _submit(self, request: SubmitRequest) -> Submitted:
        try:
            return await self._accept(request)
        except GramError as error:
            log.info("job.rejected", identity=request.identity, code=error.code.name)
            return Submitted(self._rejection(error.code, error.message))
        except (OSError, StoreError) as error:
            log.error("job.not-accepted", identity=request.identity, reason=str(error))
            text = "the server could not store the job; nothing was started"
            return Submitted(self._rejection(ErrorCode.NO_RESOURCES, text))

    async def _accept(self, request: SubmitRequest) -> Submitted:
        credential = self._check_credential(request)
        service = self._service.services[request.service]
        place = (service.name, request.account)
        self._check_limits(request, service)
        self._arriving[place] += 1
        try:
            return await self._create(request, credential)
        finally:
            self._arriving[place] -= 1
            if not self._arriving[place]:
                del self._arriving[place]

    async def _create(self, request: SubmitRequest, credential: Credential) -> Submitted:
        agent = await self._service.agents.get(request.account)
        job, path = _draw_id()
        await self._credentials.offer(request.identity, credential)
        contact = await self._addresses.contact(request.identity, path)
        description = self._describe(request, job, contact, agent.home)
        if description.user_name not in (None, request.account):
            text = f"this service runs the job as {request.account}"
            raise GramError(ErrorCode.INVALID_USER_NAME, text)
        container = job.replace("/", "-")
        paths = await agent.create_job(container, contact, description, credential.pem())
        now = time.time()
        record = JobRecord(
            id=job,
            owner=request.identity,
            account=request.account,
            service=request.service,
            contact=contact,
            phase=Phase.UNCOMMITTED if description.two_phase else Phase.STAGE_IN,
            state=JobState.UNSUBMITTED,
            created=now,
            updated=now,
            two_phase=description.two_phase,
            deadline=now + description.two_phase if description.two_phase else None,
            contacts=_first_contact(request),
        )
        if description.dry_run:
            await agent.clean_up(job_files(record, description, paths))
            return Submitted(self._rejection(ErrorCode.DRYRUN, ""))
        audit = Audit(to_json(description), paths, request.rsl, request.client_address)
        try:
            await self._service.store.add_job(record, audit)
        except StoreError:
            await agent.clean_up(job_files(record, description, paths))
            raise
        manager = self._service.add(record, description, paths)
        log.info("job.accepted", job=job, identity=record.owner, account=record.account)
        status = ErrorCode.WAITING_FOR_COMMIT if record.two_phase else 0
        return Submitted(
            JobReply(status=status, contact=contact, extensions=self._service.version), manager
        )

    def _check_credential(self, request: SubmitRequest) -> Credential:
        if request.credential is None:
            text = "no credential was delegated with the request"
            raise GramError(ErrorCode.USER_PROXY_NOT_FOUND, text)
        left = request.credential.expires.timestamp() - time.time()
        if left < self._minimum_lifetime:
            text = (
                f"the delegated credential lasts only {max(0, int(left))} more seconds; "
                f"this service asks for {int(self._minimum_lifetime)}: renew your proxy"
            )
            raise GramError(ErrorCode.USER_PROXY_EXPIRED, text)
        return request.credential

    def _check_limits(self, request: SubmitRequest, service: "Service") -> None:
        limit = service.max_jobs_per_account
        if limit is None:
            return
        mine = (
            sum(
                job.record.account == request.account and job.record.service == service.name
                for job in self._service.jobs()
            )
            + self._arriving[service.name, request.account]
        )
        if mine >= limit:
            text = f"the account {request.account} has {mine} jobs here already; try again later"
            raise GramError(ErrorCode.NO_RESOURCES, text)

    def _describe(
        self, request: SubmitRequest, job: str, contact: str, home: str
    ) -> JobDescription:
        common = symbols(
            self._service.site, identity=request.identity, account=request.account, home=home
        )
        directory = f"{home}/.gram/jobs/{job.replace('/', '-')}"
        names = job_symbols(common, job=job, contact=contact, directory=directory)
        if "scratch" in request.rsl.lower():  # parsed twice only where it may matter
            parent = scratch_directory(request.rsl, names)
            if parent is not None:
                container = job.replace("/", "-")
                names["SCRATCH_DIRECTORY"] = scratch_path(home, parent, container)
        return describe(request.rsl, names)

    def _rejection(self, code: ErrorCode, text: str) -> JobReply:
        failure = Failure(message=text)
        return JobReply(
            status=code, contact=None, extensions=extensions(self._service.version, failure, None)
        )


def _draw_id() -> tuple[str, str]:
    """A new job id and its contact path: two decimal 64-bit numbers (wire-protocol.md §5.11)."""
    job = f"{secrets.randbits(64)}/{secrets.randbits(64)}"
    return job, f"/{job}/"


def _first_contact(request: SubmitRequest) -> tuple[CallbackContact, ...]:
    if not request.callback_url:
        return ()
    return (CallbackContact(request.callback_url, request.state_mask),)


def _nobody_was_told(work: "asyncio.Future[Submitted]") -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().replied(delivered=False)
