"""The client: one credential, any number of gatekeepers and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import rsl as language
from gram.client import output as stored_output
from gram.client import run as running
from gram.client.advice import Side
from gram.client.callbacks import CallbackListener
from gram.client.errors import ConnectionFailed, InvalidContact, JobRequestFailed
from gram.client.exchange import CONNECT_TIMEOUT, REPLY_TIMEOUT, Delegation, Exchange
from gram.client.gass import GassServer
from gram.client.job import Job
from gram.client.listening import Listening, local_address
from gram.client.models import Version, describe_code
from gram.client.own import CredentialSource, Own, TrustSource, load_own
from gram.client.request import Program, request_text
from gram.client.run import Running, RunResult
from gram.client.streams import Input, LocalFiles, Output, Sink, Source
from protocol.contacts import GatekeeperContact, JobContact
from protocol.errors import GramError
from protocol.messages import JobReply, JobRequest, Ping, PingReply, VersionReply, VersionRequest
from protocol.tables import ALL_STATES, ErrorCode

CLOSE_TIMEOUT = 5.0
"""Seconds that leaving the jobs that are still followed may take."""


class Client:
    """A GRAM client.  Use it as an async context manager:

        async with Client() as client:
            job = await client.submit("ce.example.org", "&(executable=/bin/date)")
            print(await job.wait())

    Parameters: `credential`, a Credential or the path of a proxy file, by default what GSI programs
    find (wire-protocol.md 3.4); `trusted_certificates`, the CA directory (default: 3.1).
    `callback_host` and `callback_ports` (first, last): under which name and on which ports job
    managers reach us, by default GLOBUS_HOSTNAME and GLOBUS_TCP_PORT_RANGE, else the local address
    towards the server and any port; `callbacks=False`: states are only polled.  Times in seconds:
    `connect_timeout` with handshake, `reply_timeout` for a whole exchange, `poll_interval` between
    status queries while waiting.

    Everything raised is a GramClientError, except ValueError for arguments that are none.
    """

    def __init__(
        self,
        credential: CredentialSource = None,
        *,
        trusted_certificates: TrustSource = None,
        callbacks: bool = True,
        callback_host: str | None = None,
        callback_ports: tuple[int, int] | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        reply_timeout: float = REPLY_TIMEOUT,
        poll_interval: float = 30.0,
    ) -> None:
        self.poll_interval = poll_interval
        self._sources = credential, trusted_certificates
        self._callbacks = callbacks
        self._listening = Listening.from_environment(callback_host, callback_ports)
        self._timeouts = connect_timeout, reply_timeout
        self._opened: tuple[Own, Exchange] | None = None
        self._listeners: dict[str, CallbackListener] = {}
        self._starting = asyncio.Lock()
        self._jobs: set[Job] = set()

    async def __aenter__(self) -> Self:
        own = await asyncio.to_thread(load_own, *self._sources)
        connect, reply = self._timeouts
        exchange = Exchange(own, connect_timeout=connect, reply_timeout=reply)
        self._opened = own, exchange
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the jobs that are still followed (they go on) and close the listeners."""
        jobs, self._jobs = self._jobs, set()
        if jobs:
            tasks = [asyncio.create_task(job.unfollow()) for job in jobs]
            _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
        for listener in self._listeners.values():
            await listener.aclose()
        self._listeners.clear()

    @property
    def identity(self) -> str:
        """Our distinguished name in slash form, as it stands in a grid-mapfile."""
        return self._own.identity

    @property
    def exchange(self) -> Exchange:
        """The connections to gatekeepers and job managers."""
        return self._entered[1]

    @property
    def _own(self) -> Own:
        return self._entered[0]

    @property
    def _entered(self) -> tuple[Own, Exchange]:
        if self._opened is None:
            raise RuntimeError("use the client as an async context manager")
        return self._opened

    # --- the gatekeeper -----------------------------------------------------------------------

    async def ping(self, contact: str | GatekeeperContact, *, user: str | None = None) -> None:
        """Check that we may use the service, as this local account if given; raises if not."""
        where = _gatekeeper(contact)
        request = Ping(where.service, user)
        reply = await self.exchange.gatekeeper(where, request, Delegation.NONE)
        if not isinstance(reply, PingReply):
            raise _unexpected(where)

    async def version(self, contact: str | GatekeeperContact) -> Version:
        """Ask for the versions of the service."""
        where = _gatekeeper(contact)
        request = VersionRequest(where.service)
        reply = await self.exchange.gatekeeper(where, request, Delegation.LIMITED)
        if isinstance(reply, JobReply):
            raise JobRequestFailed(reply.status, f"{where}: {describe_code(reply.status)}")
        if not isinstance(reply, VersionReply):
            raise _unexpected(where)
        return Version(reply.version or "", reply.toolkit_version or "")

    async def submit(
        self,
        contact: str | GatekeeperContact,
        rsl: str | language.Specification,
        *,
        full_delegation: bool = False,
        callbacks: bool = True,
        commit: bool = True,
    ) -> Job:
        """Submit a job; returns when the server has accepted it.

        Text is sent as it is.  A limited proxy is delegated unless `full_delegation`.  `callbacks`:
        have state changes reported.  A two-phase job is committed here and its end by `Job.wait`,
        unless `commit` is False: then both are up to you.  Raises JobRequestFailed with the
        server's code and text.
        """
        where = _gatekeeper(contact)
        text, user = request_text(rsl)
        listener = None
        if callbacks:
            listener = await self.listener_for(where.host, where.port)
        url = "" if listener is None else listener.url
        reply = await self.exchange.gatekeeper(
            where,
            JobRequest(where.service, user, text, url, ALL_STATES if url else 0),
            Delegation.FULL if full_delegation else Delegation.LIMITED,
        )
        if not isinstance(reply, JobReply):
            raise _unexpected(where)
        if not reply.accepted or reply.contact is None:
            raise _refused(reply, where)
        two_phase = reply.status == ErrorCode.WAITING_FOR_COMMIT
        job = Job(self, _job(reply.contact), commits=two_phase and commit)
        if listener is not None:
            job.followed(listener.feed(job.path), url)
            self._jobs.add(job)
        if two_phase and commit:
            await job.commit()
        return job

    def job(self, contact: str | JobContact) -> Job:
        """Attach to a job by its contact.  Nothing is sent yet.  Raises InvalidContact."""
        return Job(self, contact if isinstance(contact, JobContact) else _job(contact))

    # --- programs and their output --------------------------------------------------------------

    def start(
        self,
        contact: str | GatekeeperContact,
        program: Program | Sequence[str],
        *,
        stdin: Input = None,
        stdout: Output = None,
        stderr: Output = None,
        full_delegation: bool = False,
    ) -> AbstractAsyncContextManager[Running]:
        """Start a program (`argv`, or a Program for more) whose streams come from and go to us.

        Output goes to a sink, an open binary file or a path; None: it is collected in memory, up to
        64 MiB.  It is transferred when the program has ended; input is fetched before it starts.
        Leaving the context by an exception cancels the job.
        """
        return running.start(
            self,
            _gatekeeper(contact),
            program,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            full_delegation=full_delegation,
        )

    async def run(
        self,
        contact: str | GatekeeperContact,
        program: Program | Sequence[str],
        *,
        stdin: Input = None,
        stdout: Output = None,
        stderr: Output = None,
        full_delegation: bool = False,
        timeout: float | None = None,
        check: bool = False,
    ) -> RunResult:
        """Run a program and wait for its end; the arguments are those of `start`.

        After `timeout` seconds, and when the task is cancelled, the job is cancelled.  `check`:
        raise JobFailed unless all went well.
        """
        async with self.start(
            contact,
            program,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            full_delegation=full_delegation,
        ) as started:
            result = await started.wait(timeout)
        if check:
            result.check()
        return result

    async def output(
        self,
        job: str | JobContact,
        stream: stored_output.Stream = "stdout",
        *,
        resource: str | GatekeeperContact | None = None,
        to: Output = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """Fetch the stored output of a job that `gram submit` or globus-job-submit submitted.

        Returns it, or None when `to` says where it goes.  `resource`: the gatekeeper to ask, by
        default the job contact's host on the usual port.  Raises OutputNotFound.
        """
        target = job if isinstance(job, JobContact) else _job(job)
        asked = (
            stored_output.default_resource(target) if resource is None else _gatekeeper(resource)
        )
        return await stored_output.fetch(self, target, stream, asked, to=to, timeout=timeout)

    async def gass_server(
        self,
        peer: str | GatekeeperContact,
        *,
        streams: Mapping[str, Sink] | None = None,
        sources: Mapping[str, Source] | None = None,
        files: LocalFiles | None = None,
    ) -> GassServer:
        """Start a GASS server that jobs at `peer` can reach; close it when they are done.

        Its URL is what RSL calls GLOBUSRUN_GASS_URL.
        """
        where = _gatekeeper(peer)
        server = GassServer(self._own, streams=streams, sources=sources, files=files)
        bind = await local_address(where.host, where.port)
        await server.start(self._listening, bind)
        return server

    # --- used by jobs ---------------------------------------------------------------------------

    async def listener_for(self, host: str, port: int) -> CallbackListener | None:
        """Return the listener that `host` can reach, started if need be; None: no callbacks."""
        if not self._callbacks:
            return None
        own = self._own
        bind = await local_address(host, port)
        async with self._starting:
            if bind not in self._listeners:
                listener = CallbackListener(own)
                await listener.start(self._listening, bind)
                self._listeners[bind] = listener
        return self._listeners[bind]

    def following(self, job: Job) -> None:
        """Note that a job has to be left when the client is closed."""
        self._jobs.add(job)

    def ended(self, job: Job) -> None:
        """Note that a job has ended."""
        self._jobs.discard(job)
        for listener in self._listeners.values():
            listener.forget(job.path)


def _gatekeeper(contact: str | GatekeeperContact) -> GatekeeperContact:
    if isinstance(contact, GatekeeperContact):
        return contact
    try:
        return GatekeeperContact.parse(contact)
    except GramError as error:
        raise InvalidContact(error.code, error.message) from error


def _job(contact: str) -> JobContact:
    try:
        return JobContact.parse(contact)
    except GramError as error:
        raise InvalidContact(error.code, error.message) from error


def _refused(reply: JobReply, where: GatekeeperContact) -> JobRequestFailed:
    details = reply.extensions.failure_message
    text = f"{where} refused the job: {describe_code(reply.status)}"
    return JobRequestFailed(reply.status, f"{text}: {details}" if details else text)


def _unexpected(where: GatekeeperContact) -> ConnectionFailed:
    return ConnectionFailed(
        ErrorCode.HTTP_UNPACK_FAILED, f"{where} sent an answer of another kind", Side.GATEKEEPER
    )
