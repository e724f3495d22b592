"""Running a program: a job whose streams go through our GASS server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from gram.client.errors import JobFailed, JobGone
from gram.client.gass import STDERR, STDOUT, GassServer
from gram.client.job import Job
from gram.client.models import JobStatus
from gram.client.request import Program, program_request
from gram.client.streams import (
    Collected,
    Input,
    Output,
    Sink,
    Source,
    bytes_source,
    file_sink,
    file_source,
    path_source,
)
from protocol.contacts import GatekeeperContact
from protocol.errors import GramError
from protocol.tables import ErrorCode

if TYPE_CHECKING:
    from gram.client.client import Client

STDIN: Final = "/dev/stdin"
"""The path at which our GASS server offers the program's input."""

CANCEL_TIMEOUT: Final = 10.0
"""Seconds that cancelling an abandoned job may take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a program ended.

    `stdout` and `stderr` are what was collected, None where the caller gave a place for it.
    """

    contact: str
    status: JobStatus
    stdout: bytes | None
    stderr: bytes | None

    @property
    def exit_code(self) -> int | None:
        """The program's exit code; None when it did not end by itself or the server does not tell.

        The reference does not tell for its fork service.
        """
        return self.status.exit_code

    def check(self) -> None:
        """Raise JobFailed unless the job ended as DONE, with exit code 0 as far as is known."""
        if not self.status.succeeded:
            reason = self.status.reason or "the server no longer knows it"
            text = f"the job {self.contact} ended as {self.status.name}: {reason}"
            raise JobFailed(self.status.failure_code or ErrorCode.JOB_CONTACT_NOT_FOUND, text)
        if self.exit_code:
            text = f"the job {self.contact} ended with exit code {self.exit_code}"
            raise JobFailed(ErrorCode.JOB_EXECUTION_FAILED, text)


class Running:
    """A program that was started by `Client.start`."""

    def __init__(self, job: Job, server: GassServer, outputs: tuple[Sink, Sink]) -> None:
        self.job = job
        self._server = server
        self._outputs = outputs

    async def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the end of the job, at which its output has arrived.

        Raises WaitTimeout, and what a sink or source of the caller raised.
        """
        status = await self.job.wait(timeout)
        if self._server.failure is not None:
            raise self._server.failure
        stdout, stderr = (
            item.data if isinstance(item, Collected) else None for item in self._outputs
        )
        return RunResult(self.job.contact, status, stdout, stderr)


@asynccontextmanager
async def start(
    client: Client,
    contact: GatekeeperContact,
    program: Program | Sequence[str],
    *,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    full_delegation: bool,
) -> AsyncIterator[Running]:
    """See `Client.start`."""
    if not isinstance(program, Program):
        program = Program(program)
    async with _sink(stdout) as out, _sink(stderr) as err:
        sources = {} if stdin is None else {STDIN: _source(stdin)}
        server = await client.gass_server(
            contact, streams={STDOUT: out, STDERR: err}, sources=sources
        )
        try:
            stdin_path = None if stdin is None else STDIN
            spec = program_request(program, server.url, stdin=stdin_path)
            job = await client.submit(contact, spec, full_delegation=full_delegation)
            try:
                yield Running(job, server, (out, err))
            except BaseException:
                await _abandon(job)
                raise
        finally:
            await server.aclose()


async def _abandon(job: Job) -> None:
    """Cancel a job whose caller gave up: without our GASS server it could only fail."""
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT):
            await job.cancel()
    except JobGone:
        return
    except (GramError, TimeoutError) as error:
        _log.warning("cannot cancel the abandoned job %s: %s", job.contact, error)


@asynccontextmanager
async def _sink(output: Output) -> AsyncIterator[Sink]:
    match output:
        case None:
            yield Collected()
        case str() | Path():
            with await asyncio.to_thread(open, output, "wb") as file:
                yield file_sink(file)
        case _ if callable(output):
            yield output
        case _:
            yield file_sink(output)


def _source(given: Source | BinaryIO | bytes | str | Path) -> Source:
    match given:
        case bytes():
            return bytes_source(given)
        case str() | Path():
            return path_source(Path(given))
        case _ if callable(given):
            return given
        case _:
            return file_source(given)
