"""Running a program: a job whose streams go through our GASS server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from gram.client.errors import GramClientError, JobFailed
from gram.client.gass import STDERR, STDOUT
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

if TYPE_CHECKING:
    from gram.client.client import Client

STDIN: Final = "/dev/stdin"
"""The path at which our GASS server offers the program's input."""

CANCEL_TIMEOUT: Final = 10.0
"""Seconds that cancelling an abandoned job may take."""

TRANSFER_GRACE: Final = 10.0
"""Seconds that transfers under way get when the job has ended."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a program ended.

    `stdout` and `stderr` are what was collected, None where the caller gave a sink.
    """

    contact: str
    status: JobStatus
    stdout: bytes | None
    stderr: bytes | None

    @property
    def exit_code(self) -> int | None:
        """The program's exit code; None when it did not end normally or the server does not tell.

        The reference does not tell for its fork service.
        """
        return self.status.exit_code

    def check(self) -> None:
        """Raise JobFailed unless the job ended as DONE, with exit code 0 as far as known."""
        if not self.status.succeeded:
            raise JobFailed(
                self.status.failure_code,
                f"the job {self.contact} ended as {self.status.name}: {self.status.reason}",
            )
        if self.exit_code:
            raise JobFailed(0, f"the job {self.contact} ended with exit code {self.exit_code}")


class Running:
    """A program that was started by `Client.start`."""

    def __init__(self, job: Job, failure: _Failures, collected: tuple[object, object]) -> None:
        self.job = job
        self._failures = failure
        self._collected = collected

    async def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the end of the job; its output has arrived then.

        Raises WaitTimeout, and what a sink or source of the caller raised.
        """
        status = await self.job.wait(timeout)
        await self._failures.check()
        stdout, stderr = (
            item.data if isinstance(item, Collected) else None for item in self._collected
        )
        return RunResult(self.job.contact, status, stdout, stderr)


class _Failures:
    """Hands on what went wrong in our GASS server."""

    def __init__(self, server: object) -> None:
        self._server = server
