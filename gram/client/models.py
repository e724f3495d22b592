"""The values that the client library returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from protocol.messages import Extensions
from protocol.tables import ErrorCode, JobState

_STILL_RUNNING = frozenset({ErrorCode.JM_STOPPED, ErrorCode.USER_PROXY_EXPIRED})


@dataclass(frozen=True, slots=True)
class Version:
    """What a service says about itself (wire-protocol.md 5.6)."""

    version: str
    toolkit_version: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment (wire-protocol.md 5.8, 5.10).

    `state` is None when the server no longer knows the job and its last state was not seen: it may
    have succeeded or failed.  `failure_code` is a GRAM error code, 0 when nothing failed.
    `exit_code` is the program's own, None when the server does not report it.
    """

    state: JobState | None
    failure_code: int = 0
    exit_code: int | None = None
    failure_message: str | None = None
    failure_type: str | None = None
    failure_source: str | None = None
    failure_destination: str | None = None

    @classmethod
    def from_wire(cls, state: int, failure_code: int, extensions: Extensions) -> JobStatus:
        """Build from a reply's or a callback's attributes.  Raises ValueError: no such state."""
        return cls(
            JobState(state),
            int(failure_code),
            extensions.exit_code,
            extensions.failure_message,
            extensions.failure_type,
            extensions.failure_source,
            extensions.failure_destination,
        )

    @property
    def name(self) -> str:
        """The state's name as globusrun prints it, or `GONE`."""
        return "GONE" if self.state is None else self.state.name

    @property
    def gone(self) -> bool:
        """Whether the server has forgotten the job, so that nobody can say how it ended."""
        return self.state is None

    @property
    def ended(self) -> bool:
        """Whether no further change will be reported."""
        return self.state is None or self.state.final

    @property
    def succeeded(self) -> bool:
        """Whether the job ran to its end.  Its exit code may still not be 0."""
        return self.state is JobState.DONE

    @property
    def unsupervised(self) -> bool:
        """Whether FAILED only means that the server stopped watching: the job itself goes on."""
        return self.state is JobState.FAILED and self.failure_code in _STILL_RUNNING

    @property
    def reason(self) -> str:
        """Why the job failed, in one line; empty when it did not."""
        if self.failure_code == 0:
            return ""
        parts = [describe_code(self.failure_code)]
        if self.failure_type:
            parts.append(f"while handling {self.failure_type}")
        if self.failure_source:
            parts.append(f"from {self.failure_source}")
        if self.failure_destination:
            parts.append(f"to {self.failure_destination}")
        text = " ".join(parts)
        return f"{text}: {self.failure_message}" if self.failure_message else text


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job's state, as a callback or a query reported it."""

    contact: str
    status: JobStatus
    received: datetime = field(default_factory=lambda: datetime.now(UTC))


def describe_code(code: int) -> str:
    """Return a code's meaning, also for numbers outside the table."""
    try:
        return ErrorCode(code).text
    except ValueError:
        return f"error {code}, unknown to this program"
