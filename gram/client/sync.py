"""The client for programs without asyncio: the same methods, blocking.

A thread of its own runs the event loop, so that callbacks and transfers go on while the program
does something else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self, TypedDict, TypeVar, Unpack

import rsl as language
from gram.client.client import Client
from gram.client.job import Job
from gram.client.models import JobEvent, JobStatus, Version
from gram.client.output import Stream
from gram.client.own import CredentialSource, TrustSource
from gram.client.request import Program
from gram.client.run import RunResult
from gram.client.streams import Input, Output
from protocol.contacts import GatekeeperContact, JobContact
from protocol.tables import ALL_STATES, Signal

_Result = TypeVar("_Result")


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of `Client`."""

    trusted_certificates: TrustSource
    callbacks: bool
    callback_host: str | None
    callback_ports: tuple[int, int] | None
    connect_timeout: float
    reply_timeout: float
    poll_interval: float


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="gram-client", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[object, object, _Result]) -> _Result:
        """Run to the end; when the caller is interrupted (Ctrl-C) the work is cancelled."""
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self.run(self._loop.shutdown_asyncgens())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncJob:
    """A job; see `Job` for what the methods do and raise."""

    def __init__(self, loop: _Loop, job: Job) -> None:
        self._loop = loop
        self._job = job

    def __repr__(self) -> str:
        return f"<SyncJob {self.contact}>"

    @property
    def contact(self) -> str:
        """The job contact."""
        return self._job.contact

    def status(self) -> JobStatus:
        """See `Job.status`."""
        return self._loop.run(self._job.status())

    def cancel(self) -> JobStatus:
        """See `Job.cancel`."""
        return self._loop.run(self._job.cancel())

    def signal(self, signal: Signal | int, argument: str = "") -> JobStatus:
        """See `Job.signal`."""
        return self._loop.run(self._job.signal(signal, argument))

    def register(self, url: str, mask: int = ALL_STATES) -> JobStatus:
        """See `Job.register`."""
        return self._loop.run(self._job.register(url, mask))

    def unregister(self, url: str) -> JobStatus:
        """See `Job.unregister`."""
        return self._loop.run(self._job.unregister(url))

    def renew(self, *, full: bool = False) -> JobStatus:
        """See `Job.renew`."""
        return self._loop.run(self._job.renew(full=full))

    def commit(self) -> JobStatus:
        """See `Job.commit`."""
        return self._loop.run(self._job.commit())

    def commit_end(self) -> JobStatus:
        """See `Job.commit_end`."""
        return self._loop.run(self._job.commit_end())

    def wait(self, timeout: float | None = None) -> JobStatus:
        """See `Job.wait`."""
        return self._loop.run(self._job.wait(timeout))

    def events(self) -> Iterator[JobEvent]:
        """See `Job.events`."""
        events = self._job.events()

        async def following() -> JobEvent | None:
            return await anext(events, None)

        while (event := self._loop.run(following())) is not None:
            yield event


class SyncClient:
    """A GRAM client whose methods block; the arguments and methods are those of `Client`.

    with SyncClient() as client:
        print(client.run("ce.example.org", ["/bin/date"]).stdout)
    """

    def __init__(
        self, credential: CredentialSource = None, **options: Unpack[ClientOptions]
    ) -> None:
        self._client = Client(credential, **options)
        self._running: _Loop | None = None

    def __enter__(self) -> Self:
        loop = _Loop()
        try:
            loop.run(self._client.__aenter__())
        except BaseException:
            loop.close()
            raise
        self._running = loop
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the jobs that are still followed, and end the thread."""
        loop, self._running = self._running, None
        if loop is not None:
            try:
                loop.run(self._client.aclose())
            finally:
                loop.close()

    @property
    def identity(self) -> str:
        """See `Client.identity`."""
        return self._client.identity

    @property
    def _loop(self) -> _Loop:
        if self._running is None:
            raise RuntimeError("use the client as a context manager")
        return self._running

    def ping(self, contact: str | GatekeeperContact, *, user: str | None = None) -> None:
        """See `Client.ping`."""
        self._loop.run(self._client.ping(contact, user=user))

    def version(self, contact: str | GatekeeperContact) -> Version:
        """See `Client.version`."""
        return self._loop.run(self._client.version(contact))

    def submit(
        self,
        contact: str | GatekeeperContact,
        rsl: str | language.Specification,
        *,
        full_delegation: bool = False,
        callbacks: bool = True,
        commit: bool = True,
    ) -> SyncJob:
        """See `Client.submit`."""
        job = self._loop.run(
            self._client.submit(
                contact, rsl, full_delegation=full_delegation, callbacks=callbacks, commit=commit
            )
        )
        return SyncJob(self._loop, job)

    def job(self, contact: str | JobContact) -> SyncJob:
        """See `Client.job`."""

        async def attach() -> Job:
            return self._client.job(contact)

        return SyncJob(self._loop, self._loop.run(attach()))

    def run(
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
        """See `Client.run`."""
        return self._loop.run(
            self._client.run(
                contact,
                program,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                full_delegation=full_delegation,
                timeout=timeout,
                check=check,
            )
        )

    def output(
        self,
        job: str | JobContact,
        stream: Stream = "stdout",
        *,
        resource: str | GatekeeperContact | None = None,
        to: Output = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """See `Client.output`."""
        return self._loop.run(
            self._client.output(job, stream, resource=resource, to=to, timeout=timeout)
        )
