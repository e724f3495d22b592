"""Requests to the gatekeeper: line and body (wire-protocol.md §5.3, §5.5-5.7; gatekeeper.md §5)."""

import re
from dataclasses import dataclass

from protocol import body as syntax
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import GatekeeperRequest, JobRequest, Ping, VersionRequest
from protocol.tables import MAX_MESSAGE, ErrorCode

MAX_SERVICE = 256
"""Bytes of a service name."""

_LINE = re.compile(rb"POST (ping)?/([^@ ]+)(?:@([^ ]*))? ")
_NOT_IN_NAME = re.compile(rb"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request line asks for."""

    ping: bool
    service: str
    user: str | None


def read_target(line: bytes) -> Target:
    """Understand the request line, e.g. `POST ping/jobmanager@alice HTTP/1.1`.

    Raises RemoteProtocolError with HTTP status 404: not such a line, or not a possible service.
    """
    match = _LINE.match(line)
    if match is None:
        raise _not_found("this is no request for a service")
    ping, service, user = match.groups()
    if _NOT_IN_NAME.search(service + (user or b"")):
        raise _not_found("the name of the service or the account has control characters")
    if b"/" in service or len(service) > MAX_SERVICE:
        raise _not_found("no service can have this name")
    return Target(bool(ping), syntax.to_text(service), syntax.to_text(user) if user else None)


def read_request(target: Target, body: bytes) -> GatekeeperRequest:
    """Make the request of its target and body.

    Raises RemoteProtocolError(HTTP_UNPACK_FAILED) with HTTP status 200: a reply with that status.
    """
    if target.ping:
        return Ping(target.service, target.user)
    try:
        attributes = syntax.Attributes(body)
        if attributes.get("command") == "version":
            return VersionRequest(target.service, target.user)
        attributes.check_version()
        return JobRequest(
            service=target.service,
            user=target.user,
            rsl=attributes.text("rsl"),
            callback_url=attributes.text("callback-url"),
            state_mask=attributes.number("job-state-mask"),
        )
    except RemoteProtocolError as error:  # another version is no different here (§5.7)
        code = ErrorCode.HTTP_UNPACK_FAILED
        raise RemoteProtocolError(code, error.message, http_status=200) from error


def write_request(message: GatekeeperRequest) -> tuple[bytes, bytes]:
    """The request target and the body.

    Raises LocalProtocolError: names that cannot stand in a request line, or a body that is too
    long (INVALID_REQUEST).
    """
    user = None if message.user is None else syntax.to_bytes(message.user)
    service = syntax.to_bytes(message.service)
    if b"@" in service or user == b"" or _NOT_IN_NAME.search(service + (user or b"")):
        text = "this is no name of a service or an account"
        raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, text)
    target = b"/" + service + (b"" if user is None else b"@" + user)
    match message:
        case Ping():
            return b"ping" + target, b""
        case VersionRequest():
            return target, b"command: version\r\n" + syntax.END
        case JobRequest():
            return target, _job_body(message)


def _job_body(message: JobRequest) -> bytes:
    body = (
        syntax.version_line()
        + syntax.bare_line("job-state-mask", message.state_mask)
        + syntax.bare_line("callback-url", message.callback_url)
        + syntax.quoted_line("rsl", message.rsl)
        + syntax.END
    )
    if not 0 <= message.state_mask <= syntax.MAX_NUMBER:
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, "the state mask is out of range")
    if len(body) >= MAX_MESSAGE:
        text = f"the request is too long: {len(body)} bytes, fewer than {MAX_MESSAGE} are allowed"
        raise LocalProtocolError(ErrorCode.INVALID_REQUEST, text)
    return body


def _not_found(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.SERVICE_NOT_FOUND, text, http_status=404)
