"""Queries to a job contact: line and body (wire-protocol.md §5.3, §5.8; job-manager.md §2.5)."""

import re

from protocol import body as syntax
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    CancelQuery,
    Query,
    RegisterQuery,
    RenewQuery,
    SignalQuery,
    StatusQuery,
    UnknownQuery,
    UnregisterQuery,
)
from protocol.tables import MAX_MESSAGE, PROTOCOL_VERSION, ErrorCode, Signal

_LINE = re.compile(rb"POST (?:[Hh][Tt][Tt][Pp][Ss]://[^/]*)?(/[!-~\x80-\xff]*) HTTP/1\.[01]")
_VERSION = re.compile(rb"protocol-version: ([0-9]{1,10})\r\n")
_QUERY = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"\r\n', re.DOTALL)

_SIGNAL = re.compile(r"(-?[0-9]{1,10})(?: +(.*))?", re.DOTALL | re.ASCII)
_REGISTER = re.compile(r"([0-9]{1,10}) +([^ ].*)", re.DOTALL | re.ASCII)
_INTEGER = r"[-+]?[0-9]{1,18}"
_ARGUMENTS = {
    Signal.CANCEL: re.compile(r".+", re.DOTALL),
    Signal.SUSPEND: re.compile(r".+", re.DOTALL),
    Signal.RESUME: re.compile(r".+", re.DOTALL),
    Signal.PRIORITY: re.compile(r".+", re.DOTALL),
    Signal.COMMIT_EXTEND: re.compile(_INTEGER, re.ASCII),
    Signal.STDIO_UPDATE: re.compile(r".+", re.DOTALL),
    Signal.STDIO_SIZE: re.compile(f"{_INTEGER}(?: +{_INTEGER})?", re.ASCII),
}
"""What the argument of a signal must look like; signals that are not here take anything."""


def read_path(line: bytes) -> str:
    """The path a request line asks for, given alone or in a full URL.

    Raises RemoteProtocolError (HTTP status 400).
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise RemoteProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, "this is no request for a path")
    return syntax.to_text(match[1])


def read_query(path: str, body: bytes) -> Query:
    """Make the query of its path and body.

    Raises RemoteProtocolError: with HTTP status 200 VERSION_MISMATCH and INVALID_JOB_QUERY (not
    quoted), which belong into a query reply; with 400 everything malformed.
    """
    data = syntax.before_nul(body)
    version = _VERSION.match(data)
    if version is None:
        raise _malformed("the body does not begin with a protocol version")
    if int(version[1]) != PROTOCOL_VERSION:
        text = f"the client speaks protocol version {int(version[1])}, not {PROTOCOL_VERSION}"
        raise RemoteProtocolError(ErrorCode.VERSION_MISMATCH, text, http_status=200)
    rest = data[version.end() :]
    if rest and not rest.startswith(b'"'):
        text = "the query is not quoted"
        raise RemoteProtocolError(ErrorCode.INVALID_JOB_QUERY, text, http_status=200)
    query = _QUERY.match(rest)
    if query is None:
        raise _malformed("the query is missing or not complete")
    return parse_query(path, syntax.unescape(query[1]))


def parse_query(path: str, text: str) -> Query:
    """Make a query of its text, e.g. `signal 6 30`.

    Raises RemoteProtocolError (HTTP status 400) for known queries with missing or wrong arguments.
    """
    word, _, rest = text.partition(" ")
    rest = rest.strip(" ")
    match word:
        case "status" if not rest:
            return StatusQuery(path)
        case "cancel" if not rest:
            return CancelQuery(path)
        case "renew" if not rest:
            return RenewQuery(path)
        case "signal":
            return _signal(path, rest)
        case "register":
            match = _REGISTER.fullmatch(rest)
            if match is None or int(match[1]) > syntax.MAX_NUMBER:
                raise _malformed("register needs a mask and a URL")
            return RegisterQuery(path, int(match[1]), match[2])
        case "unregister":
            if not rest:
                raise _malformed("unregister needs a URL")
            return UnregisterQuery(path, rest)
        case _:
            return UnknownQuery(path, text)


def _signal(path: str, text: str) -> SignalQuery:
    match = _SIGNAL.fullmatch(text)
    if match is None:
        raise _malformed("signal needs a number")
    number, argument = int(match[1]), match[2] or ""
    pattern = _ARGUMENTS.get(Signal(number)) if number in frozenset(Signal) else None
    if pattern is not None and not pattern.fullmatch(argument):
        raise _malformed(f"signal {number} needs another argument")
    return SignalQuery(path, number, argument)


def write_query(message: Query) -> tuple[bytes, bytes]:
    """The request target and the body.

    Raises LocalProtocolError for a query that a server would not understand as what it is.
    """
    text = _text(message)
    try:
        understood = parse_query(message.path, text) == message
    except RemoteProtocolError as error:
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, error.message) from error
    body = syntax.version_line() + b'"' + syntax.escape(text) + b'"\r\n' + syntax.END
    if not understood or not message.path.startswith("/") or len(body) >= MAX_MESSAGE:
        text = f"a {type(message).__name__} with these values cannot be sent"
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, text)
    return syntax.to_bytes(message.path), body


def _text(message: Query) -> str:
    match message:
        case StatusQuery():
            return "status"
        case CancelQuery():
            return "cancel"
        case RenewQuery():
            return "renew"
        case SignalQuery(signal=number, argument=argument):
            return f"signal {int(number)} {argument}".rstrip(" ")
        case RegisterQuery(mask=mask, url=url):
            return f"register {mask} {url}"
        case UnregisterQuery(url=url):
            return f"unregister {url}"
        case UnknownQuery(text=text):
            return text


def _malformed(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.HTTP_UNPACK_FAILED, text, http_status=400)
