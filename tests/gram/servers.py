"""Scripted peers: a gatekeeper, a job manager and a callback sender that do as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from protocol.aio.delegation import (
    DELEGATION,
    read_flag,
    receive_delegation,
    receive_renewal,
)
from protocol.aio.exchange import read_message
from protocol.aio.gsi import Acceptor, Connector, GsiStream
from protocol.aio.raw import RawStream
from protocol.aio.server import serve
from protocol.connection import Connection, Role
from protocol.contacts import JobContact
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import make_request
from protocol.gsi.directory import CADirectory
from protocol.messages import (
    Callback,
    CancelQuery,
    Extensions,
    GatekeeperRequest,
    HttpError,
    JobReply,
    JobRequest,
    Query,
    QueryReply,
    RegisterQuery,
    RenewQuery,
    Reply,
    SignalQuery,
    StatusQuery,
    UnregisterQuery,
)
from protocol.tables import ErrorCode, JobState
from tests.gram.lab import Lab
from tests.support.keys import rsa_key

EXTENSIONS = Extensions(version="test", toolkit_version="test")
GONE = QueryReply(0, ErrorCode.JOB_CONTACT_NOT_FOUND, 0, EXTENSIONS)
PATH = "/111/222/"


def reply(state: JobState, failure: int = 0, **extensions: object) -> QueryReply:
    """An answer about a job in this state."""
    return QueryReply(
        state,
        0,
        failure,
        Extensions(version="test", **extensions),  # type: ignore[arg-type]  # test helper
    )


@dataclass
class JobManager:
    """Answers queries about the job at PATH with `state`, and remembers what it was asked."""

    credential: Credential
    directory: CADirectory
    answer: QueryReply = field(default_factory=lambda: reply(JobState.ACTIVE))
    refuse: dict[type, int] = field(default_factory=dict)
    port: int = 0
    asked: list[Query] = field(default_factory=list)
    callback_url: str = ""
    renewed: list[Credential] = field(default_factory=list)

    @property
    def contact(self) -> str:
        """The job contact."""
        return f"https://127.0.0.1:{self.port}{PATH}"

    async def handle(self, raw: RawStream) -> None:
        stream = await Acceptor(self.credential, self.directory).accept(raw, gatekeeper=False)
        connection = Connection(Role.JOB_MANAGER_SERVER)
        query = await read_message(stream, connection)
        if not isinstance(query, Query):
            return
        self.asked.append(query)
        if isinstance(query, RegisterQuery):
            self.callback_url = query.url
        if isinstance(query, UnregisterQuery):
            self.callback_url = ""
        found = self._answer(query)
        if isinstance(query, RenewQuery) and not found.failure_code:
            await stream.send(connection.send(QueryReply(0, 0, 0)))
            key = rsa_key("renewal")
            self.renewed.append(
                await receive_renewal(stream, connection.pending, key, make_request(key))
            )
        await stream.send(connection.send(found))
        await stream.aclose()

    def _answer(self, query: Query) -> QueryReply:
        if query.path != PATH:
            return GONE
        code = self.refuse.get(type(query))
        return self.answer if code is None else QueryReply(4, code, 0, EXTENSIONS)

    async def callback(
        self,
        state: JobState,
        failure: int = 0,
        *,
        url: str | None = None,
        contact: str | None = None,
        credential: Credential | None = None,
    ) -> Reply | None:
        """Post a callback and return the listener's answer."""
        message = Callback(contact or self.contact, state, failure, EXTENSIONS)
        return await post(
            url or self.callback_url, message, credential or self.credential, self.directory
        )

    def signals(self) -> list[tuple[int, str]]:
        """The signals it was sent."""
        return [(q.signal, q.argument) for q in self.asked if isinstance(q, SignalQuery)]

    def kinds(self) -> list[type]:
        """The kinds of queries it was asked, repetitions left out."""
        kinds = [type(query) for query in self.asked]
        return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] is not kind]


async def post(
    url: str, message: Callback, credential: Credential, directory: CADirectory
) -> Reply | None:
    """Post a callback to a listener's URL."""
    where = JobContact.parse(url)
    stream = await Connector(credential, directory).connect(
        where.host, where.port, gatekeeper=False, timeout=10
    )
    connection = Connection(Role.CALLBACK_SENDER, host=where.host)
    await stream.send(connection.send(message))
    try:
        answer = await read_message(stream, connection)
    finally:
        await stream.aclose()
    assert answer is None or isinstance(answer, Reply)
    return answer


@asynccontextmanager
async def job_manager(lab: Lab, credential: Credential | None = None) -> AsyncIterator[JobManager]:
    """A job manager of Alice's, or with another credential."""
    manager = JobManager(credential or lab.alice, CADirectory(lab.certificates))
    server = await serve(manager.handle)
    manager.port = server.port
    try:
        yield manager
    finally:
        await server.aclose()


Behaviour = Callable[[GatekeeperRequest], Awaitable[Reply | None]]


@dataclass
class Gatekeeper:
    """Answers requests as `behave` says; None: it closes the connection without a word."""

    credential: Credential
    directory: CADirectory
    behave: Behaviour
    port: int = 0
    asked: list[GatekeeperRequest] = field(default_factory=list)
    delegated: list[Credential] = field(default_factory=list)

    @property
    def contact(self) -> str:
        """The contact to use."""
        return f"localhost:{self.port}"

    async def handle(self, raw: RawStream) -> None:
        stream: GsiStream = await Acceptor(self.credential, self.directory).accept(
            raw, gatekeeper=True
        )
        if await read_flag(stream) == DELEGATION:
            key = rsa_key("delegation")
            self.delegated.append(await receive_delegation(stream, key, make_request(key)))
        connection = Connection(Role.GATEKEEPER_SERVER)
        request = await read_message(stream, connection)
        if isinstance(request, GatekeeperRequest):
            self.asked.append(request)
            answer = await self.behave(request)
            if answer is not None:
                await stream.send(connection.send(answer))
        await stream.aclose()


@asynccontextmanager
async def gatekeeper(
    lab: Lab, behave: Behaviour, credential: Credential | None = None
) -> AsyncIterator[Gatekeeper]:
    """A gatekeeper with the host's credential, or another one."""
    found = Gatekeeper(credential or lab.host, CADirectory(lab.certificates), behave)
    server = await serve(found.handle)
    found.port = server.port
    try:
        yield found
    finally:
        await server.aclose()


def accepting(manager: JobManager, status: ErrorCode = ErrorCode.SUCCESS) -> Behaviour:
    """A gatekeeper that hands every job to this job manager."""

    async def behave(request: GatekeeperRequest) -> Reply:
        if not isinstance(request, JobRequest):
            return HttpError(500)
        manager.callback_url = request.callback_url
        return JobReply(status, manager.contact, EXTENSIONS)

    return behave


def always(answer: Reply | None) -> Behaviour:
    """A gatekeeper with one answer."""

    async def behave(_: GatekeeperRequest) -> Reply | None:
        return answer

    return behave


__all__ = [
    "EXTENSIONS",
    "GONE",
    "PATH",
    "CancelQuery",
    "Gatekeeper",
    "JobManager",
    "StatusQuery",
    "accepting",
    "always",
    "gatekeeper",
    "job_manager",
    "post",
    "reply",
]
