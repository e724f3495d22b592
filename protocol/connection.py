"""One GRAM exchange without IO, in the manner of h11: bytes in, events out; messages in, bytes out.

A connection carries one request and one reply; only the renewal of a credential has two replies,
with raw delegation bytes in between (wire-protocol.md §1.8). Read like this:

    while (event := connection.next_event()) is NEED_DATA:
        connection.receive_data(await stream.receive())     # b"" is the end of the stream

`send` returns the whole message: head and body must leave in one TLS write, or clients hang (§1.9).
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from protocol import body as syntax
from protocol import http, queries, replies, requests
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    HTTP_ERRORS,
    NO_EXTENSIONS,
    Callback,
    CallbackReply,
    Extensions,
    HttpError,
    JobReply,
    JobRequest,
    Message,
    Ping,
    PingReply,
    Query,
    QueryReply,
    RenewQuery,
    Reply,
    Request,
    TooLarge,
    VersionReply,
    VersionRequest,
)
from protocol.tables import MAX_MESSAGE, ErrorCode, JobState


class Role(Enum):
    """Which end of which of the three kinds of connection this is (wire-protocol.md §1.1)."""

    GATEKEEPER_SERVER = auto()
    GATEKEEPER_CLIENT = auto()
    JOB_MANAGER_SERVER = auto()
    JOB_MANAGER_CLIENT = auto()
    CALLBACK_LISTENER = auto()
    CALLBACK_SENDER = auto()


class NeedData(Enum):
    """The type of NEED_DATA."""

    NEED_DATA = auto()


NEED_DATA: Final = NeedData.NEED_DATA
"""The message is not complete: read from the stream and call `receive_data`."""

Event: TypeAlias = Message


@dataclass(frozen=True, slots=True)
class _Statuses:
    """The HTTP status with which a server answers what it cannot read (gatekeeper.md §14)."""

    unreadable: int = 400
    bad_length: int = 400
    too_large: int = 400


_GATEKEEPER_STATUSES = _Statuses(unreadable=404, bad_length=500, too_large=200)
_SERVERS: Final = frozenset(
    {Role.GATEKEEPER_SERVER, Role.JOB_MANAGER_SERVER, Role.CALLBACK_LISTENER}
)


class Connection:
    """One end of one exchange.

    `host` (client roles, required there) goes into the Host header as it is, without port;
    `path` is that of the callback URL (CALLBACK_SENDER).
    """

    def __init__(self, role: Role, *, host: str = "", path: str = "/") -> None:
        self.role = role
        self._server = role in _SERVERS
        self._host = host
        self._path = path
        gatekeeper = role is Role.GATEKEEPER_SERVER
        self._statuses = _GATEKEEPER_STATUSES if gatekeeper else _Statuses()
        self._reader = http.MessageReader(self._body_length, status=self._statuses.unreadable)
        self._pending = b""
        self._target: requests.Target | str = ""
        self._request: Request | None = None
        self._error: RemoteProtocolError | None = None
        self._to_read = 1
        self._to_send = 1

    # --- reading ------------------------------------------------------------------------------

    @property
    def pending(self) -> bytes:
        """What was received after the last message that `next_event` returned.

        Normally nothing, or the NUL that the reference adds to its replies; in the renewal
        exchange the delegation continues in these bytes, and the second reply is read only from
        what `receive_data` gets after them.
        """
        return self._pending

    def receive_data(self, data: bytes) -> None:
        """Take what was read from the stream; b"" is its end.

        Raises LocalProtocolError when called again after the end.
        """
        self._reader.receive_data(data)
        if not self._to_read:
            self._pending += self._reader.take_rest()

    def next_event(self) -> Event | NeedData:
        """The message of the other side, or NEED_DATA.

        Raises RemoteProtocolError for what the other side must not send, again whenever it is
        called; a server answers with `refusal(error)`. A client that leaves before it sent anything
        is no error: the result for a server then is NEED_DATA, also after the end of the stream.
        """
        if self._error is not None:
            raise self._error
        if not self._to_read or (self._request is None and not self._server):
            raise LocalProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, "no message is expected now")
        try:
            event = self._read()
        except RemoteProtocolError as error:
            self._error = error
            raise
        if event is not NEED_DATA:
            self._pending = self._reader.take_rest()
        return event

    def _read(self) -> Event | NeedData:
        message = self._reader.read()
        if message is None:
            if self._reader.finished and not self._server:
                text = "the connection ended without a reply"
                raise RemoteProtocolError(ErrorCode.PROTOCOL_FAILED, text)
            return NEED_DATA
        self._to_read -= 1
        head, body = message
        return self._read_request(body) if self._server else self._read_reply(head, body)

    def _body_length(self, head: http.Head) -> int:
        if self.role is Role.GATEKEEPER_SERVER:
            self._target = requests.read_target(head.line)
        elif self._server:
            self._target = queries.read_path(head.line)
        elif http.status_of(head) != 200 or isinstance(self._request, Callback):
            return 0  # such replies have no body, or none that counts
        length = http.content_length(head, status=self._statuses.bad_length)
        if length is None:
            text, status = "there is no Content-Length", self._statuses.bad_length
            raise RemoteProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text, http_status=status)
        if length >= MAX_MESSAGE:
            text, status = f"a body of {MAX_MESSAGE} bytes or more", self._statuses.too_large
            raise RemoteProtocolError(ErrorCode.PROTOCOL_FAILED, text, http_status=status)
        return length

    def _read_request(self, body: bytes) -> Request:
        if isinstance(self._target, requests.Target):
            self._request = requests.read_request(self._target, body)
        elif self.role is Role.JOB_MANAGER_SERVER:
            self._request = queries.read_query(self._target, body)
        else:
            self._request = replies.read_callback(body)
        self._to_send = 2 if isinstance(self._request, RenewQuery) else 1
        return self._request

    def _read_reply(self, head: http.Head, body: bytes) -> Reply:
        if (status := http.status_of(head)) != 200:
            self._to_read = 0  # nothing follows a failure, also not in a renewal
            return HttpError(status)
        match self._request:
            case Ping():
                return PingReply()
            case VersionRequest():
                return replies.read_version_reply(body)
            case JobRequest():
                return replies.read_job_reply(body)
            case Callback():
                return CallbackReply()
            case _:
                reply = replies.read_query_reply(body)
                self._to_read = 0 if reply.failure_code else self._to_read
                return reply

    # --- sending ------------------------------------------------------------------------------

    def send(self, message: Message) -> bytes:
        """The bytes of our message, to be written at once.

        Raises LocalProtocolError for a message that does not belong here or cannot be sent.
        """
        if not self._to_send:
            raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, "everything was sent already")
        data = self._send_reply(message) if self._server else self._send_request(message)
        self._to_send -= 1
        return data

    def refusal(
        self, error: RemoteProtocolError, extensions: Extensions = NO_EXTENSIONS
    ) -> JobReply | TooLarge | QueryReply | HttpError:
        """The message with which this server answers an error that `next_event` raised."""
        if error.http_status != 200:
            return HttpError(error.http_status)
        if self.role is Role.JOB_MANAGER_SERVER:
            return QueryReply(JobState.FAILED, error.code, 0, extensions)
        if error.code is ErrorCode.PROTOCOL_FAILED:
            return TooLarge()
        return JobReply(error.code, None, extensions)

    def _send_request(self, message: Message) -> bytes:
        match self.role, message:
            case Role.GATEKEEPER_CLIENT, (Ping() | VersionRequest() | JobRequest()) as request:
                target, body = requests.write_request(request)
            case Role.JOB_MANAGER_CLIENT, request if isinstance(request, Query):
                target, body = queries.write_query(request)
            case Role.CALLBACK_SENDER, Callback() as request:
                target, body = syntax.to_bytes(self._path), replies.write(request)
            case _:
                raise self._misplaced(message)
        data = http.request(target, syntax.to_bytes(self._host), body)
        self._request = request
        self._to_read = 2 if isinstance(request, RenewQuery) else 1
        return data

    def _send_reply(self, message: Message) -> bytes:
        if isinstance(message, HttpError):
            return self._send_error(message.status)
        match self._request, message:
            case Ping(), PingReply():
                return http.reply(b"")
            case Callback(), CallbackReply():
                return http.bodiless(200, b"OK", b"Close")
            case VersionRequest(), (VersionReply() | JobReply()) as reply:
                return http.reply(replies.write(reply))
            case JobRequest(), JobReply() as reply:
                return http.reply(replies.write(reply))
            case request, QueryReply() as reply if isinstance(request, Query):
                data = http.reply(replies.write(reply))
                self._to_send = 1 if reply.failure_code else self._to_send
                return data
            case None, (JobReply() | TooLarge() | QueryReply()) as reply if self._error is not None:
                return http.reply(replies.write(reply))
            case _:
                raise self._misplaced(message)

    def _send_error(self, status: int) -> bytes:
        if status not in HTTP_ERRORS:
            text = f"a server does not answer with HTTP status {status}"
            raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, text)
        self._to_send = 1
        reason, _ = HTTP_ERRORS[status]
        # The spellings of the reference's two servers (wire-protocol.md §5.2).
        gatekeeper = self.role is Role.GATEKEEPER_SERVER
        return http.bodiless(status, reason, b"close" if gatekeeper else b"Close")

    def _misplaced(self, message: Message) -> LocalProtocolError:
        text = f"a {type(message).__name__} cannot be sent now as {self.role.name}"
        return LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, text)
