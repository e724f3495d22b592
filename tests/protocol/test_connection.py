"""The order in which a connection may be used."""

from dataclasses import replace

import pytest

from protocol.connection import NEED_DATA, Connection, Role
from protocol.errors import GramError, LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    HttpError,
    JobRequest,
    Message,
    Ping,
    PingReply,
    QueryReply,
    StatusQuery,
    VersionRequest,
)
from protocol.tables import ErrorCode
from tests.protocol.transcripts import CALLBACK, JOB, PATH, ok, post

CLIENTS: dict[Role, Message] = {
    Role.GATEKEEPER_CLIENT: JOB,
    Role.JOB_MANAGER_CLIENT: StatusQuery(PATH),
    Role.CALLBACK_SENDER: CALLBACK,
}
SERVERS = (Role.GATEKEEPER_SERVER, Role.JOB_MANAGER_SERVER, Role.CALLBACK_LISTENER)


@pytest.mark.parametrize("role", CLIENTS)
def test_client_sends_before_it_reads(role: Role) -> None:
    client = Connection(role, host="localhost")
    with pytest.raises(LocalProtocolError):
        client.next_event()
    client.send(CLIENTS[role])
    assert client.next_event() is NEED_DATA


@pytest.mark.parametrize("role", CLIENTS)
def test_client_sends_once(role: Role) -> None:
    client = Connection(role, host="localhost")
    client.send(CLIENTS[role])
    with pytest.raises(LocalProtocolError):
        client.send(CLIENTS[role])


@pytest.mark.parametrize("role", CLIENTS)
@pytest.mark.parametrize("message", [*CLIENTS.values(), PingReply(), HttpError(400)])
def test_client_sends_only_what_its_peer_takes(role: Role, message: Message) -> None:
    if message != CLIENTS[role]:
        with pytest.raises(LocalProtocolError):
            Connection(role, host="localhost").send(message)


@pytest.mark.parametrize("role", CLIENTS)
@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "\0"])
def test_client_needs_a_host(role: Role, host: str) -> None:
    with pytest.raises(LocalProtocolError):
        Connection(role, host=host).send(CLIENTS[role])


def test_a_refused_message_does_not_use_up_the_connection() -> None:
    client = Connection(Role.GATEKEEPER_CLIENT, host="localhost")
    with pytest.raises(LocalProtocolError):
        client.send(Ping("a b"))
    assert client.send(Ping("a"))


@pytest.mark.parametrize("role", SERVERS)
def test_server_can_only_report_an_http_error_before_it_has_a_request(role: Role) -> None:
    """For time-outs: 500 ends the exchange without a request."""
    for message in (PingReply(), QueryReply(2, 0, 0), JOB):
        with pytest.raises(LocalProtocolError):
            Connection(role).send(message)
    assert Connection(role).send(HttpError(500)).startswith(b"HTTP/1.1 500 ")


def test_server_answers_once() -> None:
    server = Connection(Role.GATEKEEPER_SERVER)
    server.receive_data(post(b"ping/j", b""))
    server.next_event()
    server.send(PingReply())
    with pytest.raises(LocalProtocolError):
        server.send(HttpError(500))


def test_server_reads_one_request() -> None:
    server = Connection(Role.GATEKEEPER_SERVER)
    server.receive_data(post(b"ping/j", b"") + post(b"ping/k", b""))
    assert server.next_event() == Ping("j")
    with pytest.raises(LocalProtocolError):
        server.next_event()
    assert server.pending == post(b"ping/k", b"")


def test_bytes_after_the_message_are_pending_whenever_they_come() -> None:
    client = Connection(Role.GATEKEEPER_CLIENT, host="localhost")
    client.send(Ping("j"))
    client.receive_data(ok(b""))
    assert client.next_event() == PingReply()
    client.receive_data(b"\0")
    client.receive_data(b"\1")
    client.receive_data(b"")
    assert client.pending == b"\0\1"


@pytest.mark.parametrize("role", SERVERS)
def test_end_without_a_word_leaves_need_data_and_cannot_be_looped_over(role: Role) -> None:
    server = Connection(role)
    server.receive_data(b"")
    assert server.next_event() is NEED_DATA
    with pytest.raises(LocalProtocolError):
        server.receive_data(b"")


@pytest.mark.parametrize(
    "request_",
    [
        Ping("a b"),
        Ping("a@b"),
        Ping("a\r\nb"),
        Ping("a", ""),
        Ping("a", "b c"),
        VersionRequest("a", "b\n"),
        JobRequest("a", None, "x\0y", "", 0),
        JobRequest("a", None, "x", "https://vm:1/\r\nrsl: y", 0),
        JobRequest("a", None, "x", "", -1),
        JobRequest("a", None, "x", "", 2**32),
        JobRequest("a", None, "\ud800", "", 0),
    ],
)
def test_requests_that_cannot_be_sent(request_: Message) -> None:
    with pytest.raises(LocalProtocolError):
        Connection(Role.GATEKEEPER_CLIENT, host="localhost").send(request_)


def test_job_request_that_is_too_long_is_error_2() -> None:
    with pytest.raises(LocalProtocolError) as raised:
        Connection(Role.GATEKEEPER_CLIENT, host="vm").send(
            JobRequest("j", None, "x" * 64_000, "", 0)
        )
    assert raised.value.code is ErrorCode.INVALID_REQUEST


def test_the_longest_job_request_is_one_piece() -> None:
    """P4, §1.9: also a request of several TLS records is given out at once."""
    shell = len(b'protocol-version: 2\r\njob-state-mask: 0\r\ncallback-url: ""\r\nrsl: ""\r\n\0')
    request = JobRequest("j", None, "x" * (63_999 - shell), "", 0)
    with pytest.raises(LocalProtocolError):
        Connection(Role.GATEKEEPER_CLIENT, host="vm").send(replace(request, rsl=request.rsl + "x"))
    data = Connection(Role.GATEKEEPER_CLIENT, host="vm").send(request)
    server = Connection(Role.GATEKEEPER_SERVER)
    server.receive_data(data)
    assert server.next_event() == request


def test_empty_service_can_be_sent() -> None:
    """A contact `host:port/` asks for the service without a name (§4.1)."""
    data = Connection(Role.GATEKEEPER_CLIENT, host="vm").send(Ping(""))
    assert data.startswith(b"POST ping/ HTTP/1.1\r\n")


def test_errors_say_what_and_why() -> None:
    error = RemoteProtocolError(ErrorCode.BAD_RSL)
    assert str(error) == error.message == ErrorCode.BAD_RSL.text
    assert isinstance(error, GramError)
    assert error.http_status == 400
    assert RemoteProtocolError(ErrorCode.BAD_RSL, "why", http_status=200).http_status == 200
