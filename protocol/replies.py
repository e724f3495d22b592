"""Bodies of replies and callbacks (wire-protocol.md §5.5-5.10)."""

import re
from typing import TypeAlias

from protocol import body as syntax
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    Callback,
    Extensions,
    JobReply,
    QueryReply,
    TooLarge,
    VersionReply,
)
from protocol.tables import POSTED_STATES, ErrorCode

Body: TypeAlias = VersionReply | JobReply | TooLarge | QueryReply | Callback

MAX_BODY = 16_000
"""Bytes: with its head such a body fits into one TLS record, and must (§1.9)."""
CUT = 500
"""Characters that are left of extension values when a body would be longer."""

_STANDARD = frozenset(
    {
        "protocol-version",
        "job-manager-url",
        "status",
        "failure-code",
        "job-failure-code",
        "version",
        "toolkit-version",
        "exit-code",
        "gt3-failure-type",
        "gt3-failure-message",
        "gt3-failure-source",
        "gt3-failure-destination",
    }
)
_NAME = re.compile(r"[!-9;-~]+", re.ASCII)  # printable, no colon
_EXIT_CODE = re.compile(r"-?[0-9]{1,10}", re.ASCII)


def write(message: Body) -> bytes:
    """The body of a message; long extension values are cut when it would not fit otherwise.

    Raises LocalProtocolError: a value that cannot be sent, an accepted job without contact, or
    MAX_BODY exceeded nevertheless.
    """
    body = _write(message, None)
    if len(body) > MAX_BODY:
        body = _write(message, CUT)
    if len(body) > MAX_BODY:
        text = f"the message is too long: {len(body)} bytes, {MAX_BODY} are allowed"
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, text)
    return body


def _write(message: Body, cut: int | None) -> bytes:
    start = syntax.version_line()
    if isinstance(message, TooLarge):  # the one body without a NUL (gatekeeper.md §6)
        return start + _number("status", ErrorCode.PROTOCOL_FAILED)
    if isinstance(message, VersionReply):
        extensions = Extensions(message.version, message.toolkit_version)
    else:
        extensions = message.extensions
    return start + _standard(message) + _write_extensions(extensions, cut) + syntax.END


def _standard(message: VersionReply | JobReply | QueryReply | Callback) -> bytes:
    match message:
        case VersionReply():
            return _number("status", ErrorCode.SUCCESS)
        case JobReply():
            if message.accepted != bool(message.contact):
                text = "a job contact belongs to an accepted job, and to no other"
                raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, text)
            contact = message.contact
            url = syntax.bare_line("job-manager-url", contact) if contact else b""
            return _number("status", message.status) + url
        case QueryReply():
            return (
                _number("status", message.state)
                + _number("failure-code", message.failure_code)
                + _number("job-failure-code", message.job_failure_code)
            )
        case Callback():
            return (
                syntax.bare_line("job-manager-url", message.contact)
                + _number("status", message.state)
                + _number("failure-code", message.failure_code)
            )


def _number(name: str, value: int) -> bytes:
    if not 0 <= value <= syntax.MAX_NUMBER:
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, f"{name} is out of range")
    return syntax.bare_line(name, int(value))


def _write_extensions(extensions: Extensions, cut: int | None) -> bytes:
    exit_code = None if extensions.exit_code is None else str(extensions.exit_code)
    pairs = (
        ("gt3-failure-type", extensions.failure_type),
        ("gt3-failure-message", extensions.failure_message),
        ("gt3-failure-source", extensions.failure_source),
        ("gt3-failure-destination", extensions.failure_destination),
        ("exit-code", exit_code),
        ("version", extensions.version),
        ("toolkit-version", extensions.toolkit_version),
    )
    for name, _ in extensions.others:
        if name in _STANDARD or not _NAME.fullmatch(name):
            text = f"{name!r} cannot be the name of an extension"
            raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, text)
    return b"".join(
        syntax.quoted_line(name, value[:cut])
        for name, value in (*pairs, *extensions.others)
        if value is not None
    )


def _read_extensions(attributes: syntax.Attributes) -> Extensions:
    exit_code = attributes.get("exit-code")
    return Extensions(
        version=attributes.get("version"),
        toolkit_version=attributes.get("toolkit-version"),
        exit_code=int(exit_code) if exit_code and _EXIT_CODE.fullmatch(exit_code) else None,
        failure_message=attributes.get("gt3-failure-message"),
        failure_type=attributes.get("gt3-failure-type"),
        failure_source=attributes.get("gt3-failure-source"),
        failure_destination=attributes.get("gt3-failure-destination"),
        others=tuple((name, value) for name, value in attributes if name not in _STANDARD),
    )


def error_code(number: int) -> ErrorCode | int:
    """The code of a number, or the number when nobody knows it."""
    try:
        return ErrorCode(number)
    except ValueError:
        return number


def read_version_reply(body: bytes) -> VersionReply | JobReply:
    """The answer to a version request: a JobReply when it failed (§5.6).

    Raises RemoteProtocolError.
    """
    attributes = _attributes(body)
    extensions = _read_extensions(attributes)
    told = extensions.version is not None or extensions.toolkit_version is not None
    if attributes.get("failure-code") is not None:
        failure = attributes.number("failure-code")
    else:
        failure = 0 if told else attributes.number("status")
    if failure:
        return JobReply(error_code(failure), None, extensions)
    return VersionReply(extensions.version, extensions.toolkit_version)


def read_job_reply(body: bytes) -> JobReply:
    """The answer to a job request; raises RemoteProtocolError."""
    attributes = _attributes(body)
    reply = JobReply(
        status=error_code(attributes.number("status")),
        contact=attributes.get("job-manager-url") or None,
        extensions=_read_extensions(attributes),
    )
    if reply.accepted and reply.contact is None:
        text = "the job was accepted, but the reply has no job contact"
        raise RemoteProtocolError(ErrorCode.PROTOCOL_FAILED, text)
    return reply


def read_query_reply(body: bytes) -> QueryReply:
    """The answer to a query; raises RemoteProtocolError."""
    attributes = _attributes(body)
    return QueryReply(
        state=attributes.number("status"),
        failure_code=attributes.number("failure-code"),
        job_failure_code=attributes.number("job-failure-code"),
        extensions=_read_extensions(attributes),
    )


def read_callback(body: bytes) -> Callback:
    """A state callback; raises RemoteProtocolError, also for a state that is never posted."""
    attributes = _attributes(body)
    contact = attributes.text("job-manager-url")
    state = attributes.number("status")
    if not contact or state not in POSTED_STATES:
        text = f"this is no callback: job contact {contact!r}, state {state}"
        raise RemoteProtocolError(ErrorCode.HTTP_UNPACK_FAILED, text)
    return Callback(
        contact=contact,
        state=state,
        failure_code=attributes.number("failure-code"),
        extensions=_read_extensions(attributes),
    )


def _attributes(body: bytes) -> syntax.Attributes:
    attributes = syntax.Attributes(body)
    attributes.check_version()
    return attributes
