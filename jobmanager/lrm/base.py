"""What the job manager asks of a local resource manager (LRM).

The engine knows only this interface. An adapter must be able to find a submission again after a
crash (`find`), so that a submit whose answer was lost is never repeated blindly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from jobmanager.description import JobDescription
from jobmanager.records import Failure, JobPaths, JobRecord
from protocol.tables import ErrorCode


class Observed(Enum):
    """What an LRM can say of a job. ABSENT is not an end: an end needs evidence."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ENDED = "ended"
    ABSENT = "absent"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a job. `exit_code` and `usage` (JSON text) only when it ended.

    `failure_code` is set when the LRM itself ended the job (a limit, say); `reason` is for people.
    """

    state: Observed
    lrm_id: str | None = None
    exit_code: int | None = None
    failure_code: ErrorCode | None = None
    reason: str = ""
    usage: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """Everything an adapter needs to start a job."""

    record: JobRecord
    description: JobDescription
    paths: JobPaths
    environment: tuple[tuple[str, str], ...]


class LRMError(Exception):
    """The LRM refused an operation: the GRAM error, and the text for the client."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.failure = Failure(message=message)


class LRMUnavailableError(LRMError):
    """The LRM cannot be asked for now; whether the operation was carried out is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.NO_RESOURCES, message)


class LRM(Protocol):
    """An adapter. All operations raise LRMError; none blocks the event loop."""

    name: str
    on_observation: Callable[[str, Observation], None]
    """Called with the container name of a job and what happened to it."""

    async def submit(self, submission: Submission) -> Observation:
        """Start the job; returns PENDING or ACTIVE with the LRM's id."""

    async def find(self, records: Sequence[JobRecord]) -> list[Observation]:
        """What is known of jobs whose submission may or may not have happened, in their order."""

    async def cancel(self, record: JobRecord) -> None:
        """End the job and everything it started; returns when nothing of it is left."""

    async def suspend(self, record: JobRecord) -> None:
        """Stop the job's processes; raises LRMError(UNIMPLEMENTED) where there is no such thing."""

    async def resume(self, record: JobRecord) -> None:
        """Let a suspended job go on."""

    async def forget(self, record: JobRecord) -> None:
        """The job's end is recorded in the store: drop the LRM's own record of it."""
