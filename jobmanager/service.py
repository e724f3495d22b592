"""All job managers of this service: submission, look-up, restart (design §3.4-3.7)."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from jobmanager.agent.client import AgentPool
from jobmanager.callbacks import CallbackSender
from jobmanager.credentials import CredentialStore
from jobmanager.description import (
    JobDescription,
    describe_stdio,
    from_json,
    to_json,
)
from jobmanager.effects import Effects, observed
from jobmanager.environment import Site, job_symbols, symbols
from jobmanager.intake import Addresses, Intake
from jobmanager.job_files import job_files
from jobmanager.lrm.base import LRM, Observation, Observed
from jobmanager.manager import Happening, JobManager
from jobmanager.queue import SlotQueue
from jobmanager.records import JobPaths, JobRecord
from jobmanager.states import IN_LRM, Event, Phase
from jobmanager.store import OutboxEntry, Store, StoreError
from protocol.gsi.credential import Credential
from protocol.messages import Extensions
from protocol.tables import JobState

log = structlog.get_logger("jobmanager")

PURGE_INTERVAL = 3600.0
BEFORE_SUBMIT = frozenset({Phase.STAGE_IN, Phase.QUEUED})
"""Where the store shows a job until its submission has succeeded."""
NO_EXTENSIONS = Extensions()


@dataclass(frozen=True, slots=True)
class Service:
    """One configured service: its LRM and limits (None: no limit)."""

    name: str
    lrm: LRM
    max_running: int | None = None
    max_jobs_per_account: int | None = None


class Observer(Protocol):
    """Who counts what happens here (the metrics)."""

    def transition(self, before: str, after: str, seconds: float) -> None:
        """A job went from one protocol state to another after so many seconds."""

    def job_added(self, state: str) -> None:
        """A job came into being, or was found at the start, in that state."""

    def job_removed(self, state: str) -> None:
        """A job was forgotten in that state."""


class JobService:
    """Owns the job managers; create, then `restore`, then accept requests."""

    def __init__(
        self,
        *,
        store: Store,
        credentials: CredentialStore,
        agents: AgentPool,
        callbacks: CallbackSender,
        addresses: Addresses,
        services: Mapping[str, Service],
        site: Site,
        version: Extensions,
        observer: Observer,
        minimum_proxy_lifetime: float,
        retention: float,
    ) -> None:
        self.store = store
        self.agents = agents
        self.callbacks = callbacks
        self.site = site
        self.version = version
        self.effects = Effects(self)
        self.intake = Intake(
            self, credentials, addresses, minimum_proxy_lifetime=minimum_proxy_lifetime
        )
        self._credentials = credentials
        self.services = services
        self.closing = False
        self._observer = observer
        self._retention = retention
        self._jobs: dict[str, JobManager] = {}
        self._slots = {name: SlotQueue(service.max_running) for name, service in services.items()}
        self._details: dict[str, tuple[JobDescription, JobPaths]] = {}
        self._undelivered: list[OutboxEntry] = []
        self._background: set[asyncio.Task[None]] = set()
        for service in services.values():
            service.lrm.on_observation = self._observed

    # --- look-up ------------------------------------------------------------------------------

    def find(self, path: str) -> JobManager | None:
        """The job of a contact path, if it is not finished."""
        return self._jobs.get(path.strip("/"))

    def jobs(self) -> list[JobManager]:
        """All jobs that are not finished."""
        return list(self._jobs.values())

    def add(self, record: JobRecord, description: JobDescription, paths: JobPaths) -> JobManager:
        """Take care of a job that was just stored; it begins when it is started."""
        if not record.two_phase:
            self._details[record.id] = (description, paths)
        return self._add(JobManager(self, record))

    def lrm_of(self, record: JobRecord) -> LRM:
        """The LRM that runs a job."""
        return self.services[record.service].lrm

    def slots(self, record: JobRecord) -> SlotQueue:
        """The queue of the job's service."""
        return self._slots[record.service]

    async def details(self, job: str) -> tuple[JobDescription, JobPaths]:
        """Description and paths: kept while a job is being worked on, else read from the store."""
        held = self._details.get(job)
        if held is None:
            audit = await self.store.audit(job)
            held = (from_json(audit.description), audit.paths)
        return held

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return sum(slots.waiting for slots in self._slots.values())

    @property
    def living(self) -> int:
        """Jobs that are not finished."""
        return len(self._jobs)

    # --- what job managers call -----------------------------------------------------------------

    def release(self, record: JobRecord) -> None:
        """A job ended: its slot goes to the one that waits longest."""
        heir = self.slots(record).release(record.id)
        if heir is not None and (job := self._jobs.get(heir)) is not None:
            job.wake()

    def observe_transition(self, before: JobRecord, after: JobRecord) -> None:
        """Count a transition, and let go of what a waiting job does not need in memory."""
        self._observer.transition(
            before.state.name, after.state.name, after.updated - before.updated
        )
        if after.phase is Phase.QUEUED and after.state is JobState.PENDING:
            self._details.pop(after.id, None)

    def expired(self, job: JobManager) -> None:
        """A job's commit time-out fired."""
        self._spawn(job.deadline_passed())

    def forget(self, job: JobManager) -> None:
        """A job is finished: nobody asks for it any more."""
        self._details.pop(job.record.id, None)
        if self._jobs.pop(job.record.id, None) is not None:
            self._observer.job_removed(job.record.state.name)

    async def redirect(self, job: JobManager, rsl: str) -> None:
        """STDIO_UPDATE: send the output somewhere else from now on (job-manager.md §2.5)."""
        record = job.record
        description, paths = await self.details(record.id)
        common = symbols(self.site, identity=record.owner, account=record.account, home=paths.home)
        names = job_symbols(
            common, job=record.id, contact=record.contact, directory=paths.directory
        )
        changed = describe_stdio(rsl, names, description)
        agent = await self.agents.get(record.account)
        await agent.redirect(job_files(record, changed, paths))
        await self.store.set_description(record.id, to_json(changed))
        await job.amend(redirected=True)
        if record.id in self._jobs:  # it may have finished meanwhile
            self._details[record.id] = (changed, paths)

    async def output_sizes(self, job: JobManager) -> tuple[int, int, bool]:
        """Bytes of stdout and stderr, and whether they are still being delivered."""
        description, paths = await self.details(job.record.id)
        agent = await self.agents.get(job.record.account)
        return await agent.sizes(job_files(job.record, description, paths))

    async def renewed(self, job: JobManager, credential: Credential) -> None:
        """A new credential for a job: its file first, then whatever the service uses."""
        description, paths = await self.details(job.record.id)
        agent = await self.agents.get(job.record.account)
        await agent.write_proxy(job_files(job.record, description, paths), credential.pem())
        await self._credentials.offer(job.record.owner, credential)

    # --- start and end ------------------------------------------------------------------------

    async def restore(self) -> set[str]:
        """Read all living jobs; returns the identities whose contacts must answer.

        Nothing is started yet: call `resume` when the contacts are listening again.
        """
        for record in await self.store.living_jobs():
            if record.service not in self.services:
                log.error("job.no-service", job=record.id, service=record.service)
                continue
            job = self._add(JobManager(self, record, recovered=True))
            if record.phase in IN_LRM | {Phase.SUBMIT, Phase.CANCELLING}:
                self.slots(job.record).hold(record.id)
        pending = self._undelivered = await self.store.undelivered()
        owners = {job.record.owner for job in self._jobs.values()} | {e.owner for e in pending}
        return {owner for owner in owners if self._credentials.load(owner)}

    async def resume(self) -> None:
        """Go on with every job: ask the LRM what became of the ones that it may have.

        That includes those that were about to be submitted: the submission itself is not stored
        before it is made, so what the store shows as staging or queued may be running.
        """
        self.callbacks.send(self._undelivered)
        self._undelivered = []
        for service in self.services.values():
            mine = [job for job in self._jobs.values() if job.record.service == service.name]
            asked = [job for job in mine if job.record.phase in IN_LRM | BEFORE_SUBMIT]
            seen = await service.lrm.find([job.record for job in asked])
            for job, observation in zip(asked, seen, strict=True):
                self._found(job, observation)
            running = [job for job in asked if job.record.phase in IN_LRM]
            await asyncio.gather(*(self.effects.stream_output(job) for job in running))
            for job in mine:
                job.start()
        self._spawn(self._purge())

    def _found(self, job: JobManager, seen: Observation) -> None:
        if job.record.phase in IN_LRM:
            self._observed(job.record.container, seen)
        elif seen.state is not Observed.ABSENT:
            log.info("job.submission-found", job=job.record.id)
            self.slots(job.record).hold(job.record.id)
            if job.record.phase is Phase.STAGE_IN:
                job.post(Happening(Event.STAGED))
            job.post(Happening(Event.SLOT))

    async def aclose(self) -> None:
        """Stop driving jobs; they go on by themselves and are found again at the next start."""
        self.closing = True
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(job.stop() for job in list(self._jobs.values())))
        await self.callbacks.aclose()

    # --- inside -------------------------------------------------------------------------------

    def _add(self, job: JobManager) -> JobManager:
        self._jobs[job.record.id] = job
        self._observer.job_added(job.record.state.name)
        return job

    def _observed(self, container: str, seen: Observation) -> None:
        job = self._jobs.get(container.replace("-", "/"))
        if job is None:
            return
        if seen.state.value != _SHOWN.get(job.record.phase):
            job.post(observed(seen))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _purge(self) -> None:
        while True:
            try:
                gone = await self.store.purge(time.time() - self._retention)
            except StoreError as error:
                log.error("store.purge-failed", reason=str(error))
            else:
                if gone:
                    log.info("store.purged", jobs=gone)
            await asyncio.sleep(PURGE_INTERVAL)


_SHOWN = {Phase.PENDING: "pending", Phase.ACTIVE: "active", Phase.SUSPENDED: "suspended"}
