# ruff: noqa: N818 - verdicts: callers catch JobGone or Refused, a suffix would add nothing
"""What the client library raises.

Every error carries the GRAM code, what failed, on which side, and what the user can do about it.
"""

from __future__ import annotations

from gram.client.advice import Side, advice_for
from protocol.errors import GramError
from protocol.tables import ErrorCode


class GramClientError(GramError):
    """An operation failed.

    `code` is the GRAM error code (PROTOCOL_FAILED for a number outside the table),
    `message` says what failed, `side` where, `advice` what to do ("" when there is nothing).
    """

    def __init__(self, code: int, message: str, side: Side, *, advice: str | None = None) -> None:
        try:
            known = ErrorCode(code)
        except ValueError:
            known = ErrorCode.PROTOCOL_FAILED
        super().__init__(known, message)
        self.side = side
        self.advice = advice_for(known, side) if advice is None else advice


class CredentialProblem(GramClientError):
    """There is no usable credential or CA directory on this side (wire-protocol.md 3.4)."""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(
            ErrorCode.AUTHORIZATION,
            message,
            Side.HERE,
            advice=advice
            or "`gram proxy info` shows what is found; `gram proxy init` makes a proxy.",
        )


class InvalidContact(GramClientError):
    """A gatekeeper or job contact cannot be read (codes 96 and 80)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message, Side.HERE)


class ConnectionFailed(GramClientError):
    """The other side cannot be reached, or went away (codes 12, 10 and 79)."""


class NotTrusted(GramClientError):
    """One side does not accept the other's certificate or name (code 7)."""


class Refused(GramClientError):
    """The gatekeeper or the job manager understood the request and declined it."""


class JobRequestFailed(Refused):
    """A job request was answered with an error code; nothing was started (wire-protocol.md 5.7)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message, Side.GATEKEEPER)


class JobGone(Refused):
    """The job manager does not know the job: it ended and was forgotten, or never existed (156)."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.JOB_CONTACT_NOT_FOUND, message, Side.JOB_MANAGER)


class JobFailed(GramClientError):
    """A job ended as FAILED; raised only where the caller asked for success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message, Side.JOB)


class OutputNotFound(GramClientError):
    """The server holds no stored output under this job contact."""

    def __init__(self, message: str) -> None:
        super().__init__(
            ErrorCode.OPENING_CACHE,
            message,
            Side.JOB,
            advice=(
                "Output is stored for jobs submitted by `gram submit` or globus-job-submit without "
                "stdout of their own, from the start of the job until it is cleaned up."
            ),
        )


class OutputTooLarge(GramClientError):
    """Output that is kept in memory exceeded its limit; give a file or a sink instead."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            ErrorCode.NO_RESOURCES,
            f"the job wrote more than the {limit} bytes that are kept in memory",
            Side.HERE,
            advice="Send large output to a file or a sink.",
        )


class WaitTimeout(GramClientError, TimeoutError):
    """The time given for waiting is over; the job is not affected."""

    def __init__(self, message: str) -> None:
        super().__init__(
            ErrorCode.NO_RESOURCES, message, Side.HERE, advice="Wait again, with more time."
        )
