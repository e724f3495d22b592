"""The job manager core without its surroundings: real engine and store, doubles for the rest."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from sqlalchemy import event

from jobmanager.agent.client import AgentPool, JobFiles
from jobmanager.callbacks import CallbackSender
from jobmanager.contacts import ContactHandler
from jobmanager.credentials import CredentialStore
from jobmanager.description import JobDescription, describe, to_json
from jobmanager.environment import Site, job_symbols, symbols
from jobmanager.intake import SubmitRequest, Submitted
from jobmanager.lrm.base import Observation, Observed, Submission
from jobmanager.manager import JobManager
from jobmanager.queries import Queries
from jobmanager.records import CallbackContact, JobPaths, JobRecord
from jobmanager.renewal import Renewal
from jobmanager.service import JobService, Service
from jobmanager.states import IN_LRM, Phase
from jobmanager.store import Audit, OutboxEntry, Store
from jobmanager.store.writer import Work, Writer, open_engine
from protocol.aio.doubles import ScriptedStream
from protocol.connection import NEED_DATA, Connection, Role
from protocol.gsi.chain import Peer
from protocol.gsi.credential import Credential
from protocol.messages import Extensions, Query, QueryReply
from protocol.tables import JobState

ALICE = "/O=Grid/CN=Alice"
BOB = "/O=Grid/CN=Bob"
ACCOUNT = "alice"
SERVICE = "jobmanager-fake"
LISTENER = "https://client:1/"
ALL = 1048575
SITE = Site("localhost", 2119, "/CN=host")
VERSION = Extensions("test", "6.2")
PATHS = JobPaths("/home/alice", "/home/alice/job", "/home/alice/job/proxy", "/home/alice/cache")
RSL = "&(executable=/bin/true)"


@dataclass(frozen=True)
class FakeCredential:
    """As much of a credential as the core looks at."""

    expires: datetime

    def pem(self) -> bytes:
        return b"a secret\n"


def credential(seconds: float = 36000) -> Credential:
    made = FakeCredential(datetime.now(UTC) + timedelta(seconds=seconds))
    return cast("Credential", made)


def peer(identity: str = ALICE, *, limited: bool = False) -> Peer:
    made = cast("Any", object.__new__(Peer))
    for name, value in (("identity", identity), ("limited", limited), ("chain", ())):
        object.__setattr__(made, name, value)
    return cast("Peer", made)


class FakeCredentials:
    """Every identity has one."""

    def __init__(self) -> None:
        self.offered: list[str] = []

    def load(self, _identity: str) -> bool:
        return True

    async def offer(self, identity: str, _credential: Credential) -> bool:
        self.offered.append(identity)
        return True


class FakeLRM:
    """A cluster: what it runs outlives the service. It refuses to run a job twice."""

    name = "fake"

    def __init__(self, first: Observed = Observed.ACTIVE) -> None:
        self.first = first
        self.jobs: dict[str, Observation] = {}
        self.submissions: Counter[str] = Counter()
        self.cancelled: list[str] = []
        self.forgotten: list[str] = []
        self.fails: dict[str, list[Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.on_observation: Callable[[str, Observation], None] = lambda _container, _seen: None

    async def _pass(self, operation: str) -> None:
        if (gate := self.gates.get(operation)) is not None:
            await gate.wait()
        await asyncio.sleep(0)
        if errors := self.fails.get(operation):
            raise errors.pop(0)

    async def submit(self, submission: Submission) -> Observation:
        await self._pass("submit")
        container = submission.record.container
        self.submissions[container] += 1
        self.jobs[container] = Observation(self.first, lrm_id=f"lrm-{container}")
        await asyncio.sleep(0)
        return self.jobs[container]

    async def find(self, records: Sequence[JobRecord]) -> list[Observation]:
        await self._pass("find")
        return [self.jobs.get(r.container, Observation(Observed.ABSENT)) for r in records]

    async def cancel(self, record: JobRecord) -> None:
        await self._pass("cancel")
        self.cancelled.append(record.container)
        self.jobs[record.container] = Observation(Observed.ENDED, exit_code=143)
        self.on_observation(record.container, self.jobs[record.container])

    async def suspend(self, record: JobRecord) -> None:
        await self._pass("suspend")
        self.jobs[record.container] = Observation(Observed.SUSPENDED)

    async def resume(self, record: JobRecord) -> None:
        await self._pass("resume")
        self.jobs[record.container] = Observation(Observed.ACTIVE)

    async def forget(self, record: JobRecord) -> None:
        await self._pass("forget")
        self.jobs.pop(record.container, None)
        self.forgotten.append(record.container)

    def tell(self, container: str, seen: Observation) -> None:
        """Something happened on the cluster."""
        self.jobs[container] = seen
        self.on_observation(container, seen)

    def end(self, container: str, exit_code: int = 0) -> None:
        self.tell(container, Observation(Observed.ENDED, exit_code=exit_code))


class FakeAgent:
    """Does what it is asked, unless told to fail or to wait; remembers what is there."""

    home = PATHS.home

    def __init__(self) -> None:
        self.directories: set[str] = set()
        self.calls: list[str] = []
        self.fails: dict[str, list[Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.output = (0, 0, False)

    async def _do(self, operation: str) -> None:
        self.calls.append(operation)
        if (gate := self.gates.get(operation)) is not None:
            await gate.wait()
        await asyncio.sleep(0)
        if errors := self.fails.get(operation):
            raise errors.pop(0)

    async def create_job(
        self, job: str, _contact: str, _description: JobDescription, _proxy: bytes
    ) -> JobPaths:
        await self._do("create_job")
        self.directories.add(job)
        return PATHS

    async def write_proxy(self, _files: JobFiles, _proxy: bytes) -> None:
        await self._do("write_proxy")

    async def stage_in(self, _files: JobFiles) -> None:
        await self._do("stage_in")

    async def stream(self, _files: JobFiles) -> None:
        await self._do("stream")

    async def finish_output(self, _files: JobFiles) -> None:
        await self._do("finish_output")

    async def stage_out(self, _files: JobFiles) -> None:
        await self._do("stage_out")

    async def redirect(self, _files: JobFiles) -> None:
        await self._do("redirect")

    async def sizes(self, _files: JobFiles) -> tuple[int, int, bool]:
        await self._do("sizes")
        return self.output

    async def clean_up(self, files: JobFiles) -> int:
        await self._do("clean_up")
        self.directories.discard(files.id)
        return 0


class FakePool:
    """One agent for everybody."""

    def __init__(self) -> None:
        self.agent = FakeAgent()
        self.fails: list[Exception] = []

    async def get(self, _account: str) -> FakeAgent:
        if self.fails:
            raise self.fails.pop(0)
        return self.agent


class FakeAddresses:
    async def contact(self, _identity: str, path: str) -> str:
        return f"https://localhost:1{path}"


@dataclass
class FakeObserver:
    """What the metrics would be told."""

    jobs: Counter[str] = field(default_factory=Counter)

    def transition(self, before: str, after: str, _seconds: float) -> None:
        self.jobs[before] -= 1
        self.jobs[after] += 1

    def job_added(self, state: str) -> None:
        self.jobs[state] += 1

    def job_removed(self, state: str) -> None:
        self.jobs[state] -= 1


class Sender(CallbackSender):
    """The real sender, but for the network: what a listener hears is in a list."""

    heard: list[OutboxEntry]
    fails: list[Exception]

    async def _post(self, entry: OutboxEntry) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails.pop(0)
        self.heard.append(entry)


class CrashingWriter(Writer):
    """Stops for ever at the n-th piece of work (from 1), before it is done or right after."""

    at = 0
    after = False
    count = 0

    async def execute(self, work: Work) -> Any:  # noqa: ANN401  # as the real one
        self.count += 1
        if self.at and (self.count > self.at or (self.count == self.at and not self.after)):
            await self._crash()
        result = await super().execute(work)
        if self.count == self.at and self.after:
            await self._crash()
        return result

    async def _crash(self) -> None:
        self.crashed.set()
        await asyncio.Event().wait()

    crashed: asyncio.Event


class Limits:
    def __init__(self) -> None:
        self.failures: list[str] = []

    def enter(self, _address: str) -> bool:
        return True

    def leave(self, _address: str) -> None:
        return None

    def failed(self, address: str) -> None:
        self.failures.append(address)


class FakeAcceptor:
    """No handshake: the stream is already what it would be."""

    async def accept(self, raw: ScriptedStream, *, gatekeeper: bool) -> ScriptedStream:
        del gatekeeper
        return raw


class World:
    """One database, one cluster, one agent; services come and go."""

    def __init__(
        self,
        directory: Path,
        *,
        max_running: int | None = None,
        max_jobs_per_account: int | None = None,
        lrm: FakeLRM | None = None,
    ) -> None:
        self.url = f"sqlite:///{directory}/gram.db"
        self.lrm = lrm or FakeLRM()
        self.pool = FakePool()
        self.credentials = FakeCredentials()
        self.heard: list[OutboxEntry] = []
        self.post_fails: list[Exception] = []
        self.renewals: list[str] = []
        self._numbers = itertools.count(1)
        self._max_running = max_running
        self._max_jobs = max_jobs_per_account

    @property
    def agent(self) -> FakeAgent:
        return self.pool.agent

    async def start(self, *, at: int = 0, after: bool = False) -> None:
        """Start a service; it crashes at the n-th access to the database after its start."""
        (await Store.open(self.url)).close()
        engine = open_engine(self.url)
        event.listen(engine, "connect", _without_fsync)
        self.writer = CrashingWriter(engine)
        self.writer.crashed = asyncio.Event()
        self.store = Store(self.writer)
        credentials = cast("CredentialStore", self.credentials)
        sender = Sender(self.store, credentials, VERSION, lambda _outcome, _seconds: None)
        sender.heard, sender.fails = self.heard, self.post_fails
        self.observer = FakeObserver()
        self.service = JobService(
            store=self.store,
            credentials=credentials,
            agents=cast("AgentPool", self.pool),
            callbacks=sender,
            addresses=FakeAddresses(),
            services={SERVICE: Service(SERVICE, self.lrm, self._max_running, self._max_jobs)},
            site=SITE,
            version=VERSION,
            observer=self.observer,
            minimum_proxy_lifetime=600,
            retention=3600,
        )
        self.queries = Queries(self.service)
        self.handler = ContactHandler(
            self.service,
            self.queries,
            cast("Renewal", self),
            lambda _kind, _result: None,
            Limits(),
        )
        await self.service.restore()
        await self.service.resume()
        self.writer.at, self.writer.after, self.writer.count = at, after, 0

    async def run(self, _stream: object, _initial: bytes, job: JobManager) -> None:
        """The renewal, in place of the delegation."""
        self.renewals.append(job.record.id)

    async def stop(self) -> None:
        """An orderly end."""
        await self.service.aclose()
        self.writer.close()

    async def kill(self) -> None:
        """`kill -9`: nothing gets another chance."""
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job in self.service.jobs():
            await job.stop()
        self.writer.close()

    def request(self, rsl: str = RSL, **changes: Any) -> SubmitRequest:  # noqa: ANN401  # fields
        plain = SubmitRequest(
            ALICE, ACCOUNT, SERVICE, rsl, LISTENER, ALL, credential(), "127.0.0.1"
        )
        return replace(plain, **changes)

    async def submit(self, rsl: str = RSL, **changes: Any) -> Submitted:  # noqa: ANN401  # fields
        """Submit and begin, as the gatekeeper does."""
        submitted = await self.service.intake.submit(self.request(rsl, **changes))
        submitted.replied(delivered=True)
        return submitted

    async def job(self, rsl: str = RSL, **changes: Any) -> JobManager:  # noqa: ANN401  # fields
        submitted = await self.submit(rsl, **changes)
        assert submitted.job is not None, submitted.reply
        return submitted.job

    async def place(
        self, phase: Phase, state: JobState, rsl: str = RSL, **changes: object
    ) -> JobManager:
        """Put a job into a phase, as if it had got there; nothing drives it yet."""
        now = time.time()
        record = JobRecord(
            id=f"{next(self._numbers)}/7",
            owner=ALICE,
            account=ACCOUNT,
            service=SERVICE,
            contact="https://localhost:1/1/7/",
            phase=phase,
            state=state,
            created=now,
            updated=now,
            contacts=(CallbackContact(LISTENER, ALL),),
        )
        record = replace(record, **changes)  # type: ignore[arg-type]  # test helper
        names = job_symbols(
            symbols(SITE, identity=ALICE, account=ACCOUNT, home=PATHS.home),
            job=record.id,
            contact=record.contact,
            directory=PATHS.directory,
        )
        description = describe(rsl, names)
        audit = Audit(to_json(description), PATHS, rsl, "127.0.0.1")
        await self.store.add_job(record, audit)
        if phase in IN_LRM | {Phase.CANCELLING}:
            self.lrm.jobs[record.container] = Observation(Observed.ACTIVE)
        return self.service.add(record, description, PATHS)

    async def ask(self, query: Query, identity: str | None = ALICE) -> QueryReply:
        """A query over the wire format, without a network."""
        client = Connection(Role.JOB_MANAGER_CLIENT, host="localhost")
        stream = ScriptedStream(
            client.send(query), ends=False, peer=None if identity is None else peer(identity)
        )
        await self.handler.handle(cast("Any", stream), cast("Any", FakeAcceptor()))
        assert stream.closed
        reply = None
        for sent in stream.sent:
            client.receive_data(sent)
            reply = client.next_event()
        assert reply is not NEED_DATA
        assert isinstance(reply, QueryReply), reply
        return reply

    def states(self) -> list[tuple[JobState, int]]:
        """State and failure code of every callback heard, in order."""
        return [(entry.state, entry.failure_code) for entry in self.heard]


def _without_fsync(connection: Any, _record: object) -> None:  # noqa: ANN401  # DBAPI object
    """The machine does not crash here, only the service."""
    connection.execute("PRAGMA synchronous=OFF")


async def until(condition: Any, seconds: float = 20) -> None:  # noqa: ANN401  # a predicate
    """Wait for something that happens in this loop; the limit only ends a broken test."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def reach(job: JobManager, *phases: Phase) -> JobRecord:
    """Wait until the job is in one of the phases."""
    async with asyncio.timeout(20):
        return await job.settle(lambda record: record.phase in phases)


async def ended(world: World, job: JobManager) -> JobRecord:
    """Wait until the job is forgotten; its last record."""
    await until(lambda: world.service.find(job.record.path) is None)
    return job.record
