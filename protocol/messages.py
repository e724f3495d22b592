"""The messages of GRAM as values (wire-protocol.md §5).

Text is `str`; bytes that are no UTF-8 survive as surrogate escapes. How messages look
on the wire is the business of `protocol.requests`, `protocol.queries` and `protocol.replies`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from protocol.errors import LocalProtocolError
from protocol.tables import POSTED_STATES, ErrorCode

# --- to the gatekeeper ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    """May I use this service, and as this local account? (§5.5)"""

    service: str
    user: str | None = None


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """Which version is the job manager? (§5.6)."""

    service: str
    user: str | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Run this job; `callback_url` "" means no callbacks (§5.7)."""

    service: str
    user: str | None
    rsl: str
    callback_url: str
    state_mask: int


# --- to a job contact (§5.8); `path` is the path of the contact ----------------------------------


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """What is the state of the job?"""

    path: str


@dataclass(frozen=True, slots=True)
class CancelQuery:
    """End the job."""

    path: str


@dataclass(frozen=True, slots=True)
class SignalQuery:
    """One of the `Signal` numbers, or a number that nobody knows; `argument` may be ""."""

    path: str
    signal: int
    argument: str = ""


@dataclass(frozen=True, slots=True)
class RegisterQuery:
    """Post callbacks for the states in `mask` to `url`."""

    path: str
    mask: int
    url: str


@dataclass(frozen=True, slots=True)
class UnregisterQuery:
    """Post no more callbacks to `url`."""

    path: str
    url: str


@dataclass(frozen=True, slots=True)
class RenewQuery:
    """Take a new credential: the only exchange with two replies (§1.8)."""

    path: str


@dataclass(frozen=True, slots=True)
class UnknownQuery:
    """A well-formed query with a word that nobody knows; to be answered with error 92."""

    path: str
    text: str


# --- replies ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extensions:
    """The extension attributes of a reply or callback (§5.10); `others` are (name, value) pairs."""

    version: str | None = None
    toolkit_version: str | None = None
    exit_code: int | None = None
    failure_message: str | None = None
    failure_type: str | None = None
    failure_source: str | None = None
    failure_destination: str | None = None
    others: tuple[tuple[str, str], ...] = ()


NO_EXTENSIONS = Extensions()


@dataclass(frozen=True, slots=True)
class PingReply:
    """Yes."""


@dataclass(frozen=True, slots=True)
class VersionReply:
    """The versions of the job manager; None: not told."""

    version: str | None
    toolkit_version: str | None


@dataclass(frozen=True, slots=True)
class JobReply:
    """Accepted (SUCCESS or WAITING_FOR_COMMIT, with the job contact) or refused (any other status).

    It also answers a version request that failed.
    """

    status: ErrorCode | int
    contact: str | None = None
    extensions: Extensions = NO_EXTENSIONS

    @property
    def accepted(self) -> bool:
        """Whether there now is a job."""
        return self.status in (ErrorCode.SUCCESS, ErrorCode.WAITING_FOR_COMMIT)


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The gatekeeper's answer to a body of 64,000 bytes or more (§5.12): status 10, no more."""


@dataclass(frozen=True, slots=True)
class QueryReply:
    """The state of the job, the error of the query, and why the job failed (both 0 when not)."""

    state: int
    failure_code: int
    job_failure_code: int
    extensions: Extensions = NO_EXTENSIONS


HTTP_ERRORS = {
    400: (b"Bad Request", ErrorCode.PROTOCOL_FAILED),
    403: (b"Forbidden", ErrorCode.AUTHORIZATION),
    404: (b"Not Found", ErrorCode.SERVICE_NOT_FOUND),
    500: (b"Internal Server Error", ErrorCode.GATEKEEPER_MISCONFIGURED),
}
"""The statuses a server may answer, with their reason and what they mean to a client (§5.2)."""


@dataclass(frozen=True, slots=True)
class HttpError:
    """An answer without a body: 400, 403, 404 or 500 (from a foreign server any but 200)."""

    status: int

    @property
    def code(self) -> ErrorCode:
        """What the status means to a client."""
        _, code = HTTP_ERRORS.get(self.status, (b"", ErrorCode.HTTP_UNFRAME_FAILED))
        return code


# --- callbacks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Callback:
    """The job has a new state; `failure_code` is why the job failed, or 0 (§5.9).

    Raises LocalProtocolError for what clients do not survive: no contact, or a state that must not
    be posted. UNSUBMITTED makes `globusrun` believe that the job is over.
    """

    contact: str
    state: int
    failure_code: int = 0
    extensions: Extensions = NO_EXTENSIONS

    def __post_init__(self) -> None:
        if not self.contact:
            raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, "a callback needs the job contact")
        if self.state not in POSTED_STATES:
            text = f"no callback may be sent for the state {self.state}"
            raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, text)


@dataclass(frozen=True, slots=True)
class CallbackReply:
    """The listener heard it."""


GatekeeperRequest: TypeAlias = Ping | VersionRequest | JobRequest
Query: TypeAlias = (
    StatusQuery
    | CancelQuery
    | SignalQuery
    | RegisterQuery
    | UnregisterQuery
    | RenewQuery
    | UnknownQuery
)
Request: TypeAlias = GatekeeperRequest | Query | Callback
Reply: TypeAlias = (
    PingReply | VersionReply | JobReply | TooLarge | QueryReply | CallbackReply | HttpError
)
Message: TypeAlias = Request | Reply
