"""What a client makes of any reply, and a listener of any callback: wire-protocol.md §5.2-5.10."""

import pytest

from protocol.connection import NEED_DATA, Connection, Role
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    Callback,
    CallbackReply,
    Extensions,
    HttpError,
    JobReply,
    Ping,
    PingReply,
    QueryReply,
    Reply,
    Request,
    StatusQuery,
    TooLarge,
    VersionReply,
    VersionRequest,
)
from protocol.tables import ErrorCode, JobState
from tests.protocol.transcripts import CALLBACK, CONTACT, JOB, PATH, VERSION, ok, post

ROLES: dict[type, Role] = {
    StatusQuery: Role.JOB_MANAGER_CLIENT,
    Callback: Role.CALLBACK_SENDER,
}
STATUS = StatusQuery(PATH)


def client_after(request: Request) -> Connection:
    client = Connection(ROLES.get(type(request), Role.GATEKEEPER_CLIENT), host="localhost")
    client.send(request)
    return client


def reply_to(request: Request, data: bytes) -> object:
    client = client_after(request)
    client.receive_data(data)
    return client.next_event()


def error_of(request: Request, data: bytes, *, ended: bool = False) -> ErrorCode:
    client = client_after(request)
    if data:
        client.receive_data(data)
    if ended:
        client.receive_data(b"")
    with pytest.raises(RemoteProtocolError) as raised:
        client.next_event()
    return raised.value.code


def body(*lines: str) -> bytes:
    return ok("".join(line + "\r\n" for line in ("protocol-version: 2", *lines)).encode() + b"\0")


# --- HTTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ErrorCode.PROTOCOL_FAILED),
        (403, ErrorCode.AUTHORIZATION),
        (404, ErrorCode.SERVICE_NOT_FOUND),
        (500, ErrorCode.GATEKEEPER_MISCONFIGURED),
        (302, ErrorCode.HTTP_UNFRAME_FAILED),
        (503, ErrorCode.HTTP_UNFRAME_FAILED),
    ],
)
@pytest.mark.parametrize("request_", [JOB, Ping("jobmanager"), STATUS])
def test_http_status_is_a_gram_error(request_: Request, status: int, code: ErrorCode) -> None:
    reply = reply_to(request_, b"HTTP/1.1 %d Whatever\r\nConnection: close\r\n\r\n\0" % status)
    assert reply == HttpError(status)
    assert isinstance(reply, HttpError)
    assert reply.code is code


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 Ok", b"HTTP/1.1 200", b"HTTP/1.0 200 OK"])
def test_reason_is_free(line: bytes) -> None:
    assert reply_to(Ping("j"), line + b"\r\nContent-Length: 0\r\n\r\n") == PingReply()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-globus-gram\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
        b"220 mail.example.org ESMTP\r\n\r\n",
        b"D",
        b"A" * 9000,
    ],
)
def test_malformed_head_is_error_89(data: bytes) -> None:
    if data == b"D":  # a stray byte before a reply (§1.3)
        data += ok(b"")
    assert error_of(Ping("j"), data) is ErrorCode.HTTP_UNFRAME_FAILED


def test_no_reply_is_error_10() -> None:
    assert error_of(JOB, b"", ended=True) is ErrorCode.PROTOCOL_FAILED


@pytest.mark.parametrize("cut", [1, 20, 100, 113])
def test_incomplete_reply_is_error_10(cut: int) -> None:
    data = body("status: 48")[:cut]
    assert error_of(JOB, data, ended=True) is ErrorCode.PROTOCOL_FAILED


def test_reply_of_unbounded_length_is_refused() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 64000\r\n\r\n"
    assert error_of(JOB, data) is ErrorCode.PROTOCOL_FAILED


def test_client_waits_for_the_announced_length() -> None:
    client = client_after(JOB)
    for byte in body("status: 48")[:-1]:
        client.receive_data(bytes([byte]))
        assert client.next_event() is NEED_DATA
    client.receive_data(b"\0")
    assert client.next_event() == JobReply(ErrorCode.BAD_RSL)


# --- bodies ---------------------------------------------------------------------------------------


def test_too_large_reaches_the_client_as_error_10() -> None:
    data = ok(b"protocol-version: 2\r\nstatus: 10\r\n")
    assert reply_to(JOB, data) == JobReply(ErrorCode.PROTOCOL_FAILED)


@pytest.mark.parametrize("status", [0, 110])
def test_accepted_job_needs_a_contact(status: int) -> None:
    assert error_of(JOB, body(f"status: {status}")) is ErrorCode.PROTOCOL_FAILED
    url = 'job-manager-url: ""'
    assert error_of(JOB, body(f"status: {status}", url)) is ErrorCode.PROTOCOL_FAILED


def test_unknown_status_stays_a_number() -> None:
    assert reply_to(JOB, body("status: 4711")) == JobReply(4711)


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        (('version: "1"', 'toolkit-version: "2"', "status: 0"), VersionReply("1", "2")),
        (("status: 29", 'version: "1"'), VersionReply("1", None)),
        (("status: 29",), JobReply(ErrorCode.USER_PROXY_NOT_FOUND)),
        (("status: 0",), VersionReply(None, None)),
        (
            ("status: 0", "failure-code: 7", 'version: "1"'),
            JobReply(ErrorCode.AUTHORIZATION, None, Extensions(version="1")),
        ),
        (("failure-code: 0", 'version: "1"'), VersionReply("1", None)),
    ],
)
def test_version_reply(lines: tuple[str, ...], reply: Reply) -> None:
    """§5.6: a failure code, or a status without versions, is the error."""
    assert reply_to(VersionRequest("j"), body(*lines)) == reply


@pytest.mark.parametrize("missing", ["status", "failure-code", "job-failure-code"])
def test_query_reply_needs_all_standard_attributes(missing: str) -> None:
    names = {"status", "failure-code", "job-failure-code"} - {missing}
    lines = [f"{name}: 2" for name in names]
    assert error_of(STATUS, body(*lines)) is ErrorCode.HTTP_UNPACK_FAILED


@pytest.mark.parametrize("request_", [JOB, STATUS, VersionRequest("j")])
def test_other_protocol_version_is_error_49(request_: Request) -> None:
    data = ok(b"protocol-version: 3\r\nstatus: 0\r\n\0")
    assert error_of(request_, data) is ErrorCode.VERSION_MISMATCH


@pytest.mark.parametrize("request_", [JOB, STATUS, VersionRequest("j")])
@pytest.mark.parametrize("data", [b"", b"garbage", b"protocol-version: 2\r\n\0"])
def test_unreadable_reply_is_error_91(request_: Request, data: bytes) -> None:
    assert error_of(request_, ok(data)) is ErrorCode.HTTP_UNPACK_FAILED


def test_all_extensions_are_read() -> None:
    lines = (
        "status: 4",
        "failure-code: 0",
        "job-failure-code: 135",
        'gt3-failure-type: "filestagein"',
        'gt3-failure-message: "no such\\\\file \\"x\\""',
        'gt3-failure-source: "https://vm:1/x"',
        'gt3-failure-destination: "/tmp/x"',
        'exit-code: "-11"',
        'version: "1"',
        "toolkit-version: 2",
        'something-else: "y"',
        'something-else: "the first counts"',
    )
    extensions = Extensions(
        version="1",
        toolkit_version="2",
        exit_code=-11,
        failure_message='no such\\file "x"',
        failure_type="filestagein",
        failure_source="https://vm:1/x",
        failure_destination="/tmp/x",
        others=(("something-else", "y"),),
    )
    assert reply_to(STATUS, body(*lines)) == QueryReply(4, 0, 135, extensions)


def test_unreadable_exit_code_is_none() -> None:
    lines = ("status: 8", "failure-code: 0", "job-failure-code: 0", 'exit-code: "?"')
    assert reply_to(STATUS, body(*lines)) == QueryReply(8, 0, 0)


# --- writing --------------------------------------------------------------------------------------


def server_after(request: Request) -> Connection:
    client = Connection(ROLES.get(type(request), Role.GATEKEEPER_CLIENT), host="localhost")
    server = Connection(
        {
            Role.GATEKEEPER_CLIENT: Role.GATEKEEPER_SERVER,
            Role.JOB_MANAGER_CLIENT: Role.JOB_MANAGER_SERVER,
            Role.CALLBACK_SENDER: Role.CALLBACK_LISTENER,
        }[client.role]
    )
    server.receive_data(client.send(request))
    assert server.next_event() == request
    return server


@pytest.mark.parametrize(
    "reply",
    [
        JobReply(ErrorCode.SUCCESS),
        JobReply(ErrorCode.WAITING_FOR_COMMIT, ""),
        JobReply(ErrorCode.BAD_RSL, CONTACT),
        JobReply(-1),
        JobReply(ErrorCode.SUCCESS, "https://vm:1/\r\nx: y"),
        JobReply(ErrorCode.BAD_RSL, None, Extensions(failure_message="a\0b")),
        JobReply(ErrorCode.BAD_RSL, None, Extensions(others=(("version", "1"),))),
        JobReply(ErrorCode.BAD_RSL, None, Extensions(others=(("a:b", "1"),))),
        JobReply(ErrorCode.BAD_RSL, None, Extensions(others=(("a\r\nb", "1"),))),
        JobReply(ErrorCode.BAD_RSL, None, Extensions(others=tuple([("a", "x" * 500)] * 50))),
        HttpError(200),
        HttpError(302),
    ],
)
def test_replies_that_clients_do_not_understand_are_not_sent(reply: Reply) -> None:
    server = server_after(JOB)
    with pytest.raises(LocalProtocolError):
        server.send(reply)
    assert server.send(HttpError(500))


def test_long_texts_are_cut_so_that_a_reply_fits_into_a_tls_record() -> None:
    """P4: a second record could come late, and clients hang."""
    long = '\\"' * 10_000
    extensions = Extensions("1", "2", 3, long, long, long, long)
    data = server_after(STATUS).send(QueryReply(4, 0, 135, extensions))
    assert len(data) <= 16 * 1024
    reply = reply_to(STATUS, data)
    assert isinstance(reply, QueryReply)
    assert reply.extensions.failure_source == long[:500]


def test_texts_that_fit_are_not_cut() -> None:
    extensions = Extensions(failure_message="x" * 12_000)
    reply = QueryReply(4, 0, 135, extensions)
    assert reply_to(STATUS, server_after(STATUS).send(reply)) == reply


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (Ping("j"), JobReply(ErrorCode.BAD_RSL)),
        (Ping("j"), CallbackReply()),
        (JOB, PingReply()),
        (JOB, VersionReply("1", "2")),
        (JOB, QueryReply(2, 0, 0)),
        (JOB, TooLarge()),
        (JOB, Ping("j")),
        (STATUS, JobReply(ErrorCode.BAD_RSL)),
        (STATUS, CallbackReply()),
        (CALLBACK, PingReply()),
        (CALLBACK, QueryReply(2, 0, 0)),
    ],
)
def test_replies_belong_to_their_requests(request_: Request, reply: Reply | Ping) -> None:
    with pytest.raises(LocalProtocolError):
        server_after(request_).send(reply)


# --- callbacks ------------------------------------------------------------------------------------


def heard(data: bytes) -> object:
    listener = Connection(Role.CALLBACK_LISTENER)
    listener.receive_data(data)
    return listener.next_event()


def callback_body(*lines: str) -> bytes:
    return post(b"/", "".join(f"{line}\r\n" for line in ("protocol-version: 2", *lines)).encode())


CALLBACK_LINES = (f"job-manager-url: {CONTACT}", "status: 8", "failure-code: 0")


def test_callback_is_heard() -> None:
    assert heard(callback_body(*CALLBACK_LINES)) == Callback(CONTACT, 8)


@pytest.mark.parametrize("index", range(len(CALLBACK_LINES)))
def test_p16_callback_with_missing_attributes_is_refused(index: int) -> None:
    """P16: the reference client crashes here."""
    lines = CALLBACK_LINES[:index] + CALLBACK_LINES[index + 1 :]
    listener = Connection(Role.CALLBACK_LISTENER)
    listener.receive_data(callback_body(*lines))
    with pytest.raises(RemoteProtocolError) as raised:
        listener.next_event()
    assert raised.value.code is ErrorCode.HTTP_UNPACK_FAILED
    assert listener.refusal(raised.value) == HttpError(400)
    assert listener.send(HttpError(400))


@pytest.mark.parametrize("state", [0, 3, 32, 256])
def test_p16_callback_with_a_state_that_is_not_posted_is_refused(state: int) -> None:
    lines = (CALLBACK_LINES[0], f"status: {state}", "failure-code: 0")
    with pytest.raises(RemoteProtocolError):
        heard(callback_body(*lines))


@pytest.mark.parametrize("state", [JobState.UNSUBMITTED, 32, 0, 3, 256, -1])
def test_p16_no_callback_can_be_made_for_such_a_state(state: int) -> None:
    """P16: `globusrun` exits with 0, as if the job were done, on a callback with state 32."""
    with pytest.raises(LocalProtocolError):
        Callback(CONTACT, state)


def test_p16_no_callback_can_be_made_without_its_attributes() -> None:
    """P16: `globusrun` dies on a callback with missing attributes."""
    with pytest.raises(LocalProtocolError):
        Callback("", JobState.DONE)
    data = Connection(Role.CALLBACK_SENDER, host="vm").send(Callback(CONTACT, JobState.DONE))
    for name in (b"protocol-version", b"job-manager-url", b"status", b"failure-code"):
        assert b"\n" + name + b": " in data


@pytest.mark.parametrize("state", set(JobState) - {JobState.UNSUBMITTED})
def test_callbacks_for_all_other_states(state: JobState) -> None:
    callback = Callback(CONTACT, state, 8)
    assert heard(Connection(Role.CALLBACK_SENDER, host="vm").send(callback)) == callback


def test_callback_goes_to_the_path_of_the_url() -> None:
    sender = Connection(Role.CALLBACK_SENDER, host="vm", path="/some/where")
    assert sender.send(CALLBACK).startswith(b"POST /some/where HTTP/1.1\r\nHost: vm\r\n")


def test_what_the_listener_answers_does_not_matter() -> None:
    for data in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"):
        assert reply_to(CALLBACK, data) == CallbackReply()


def test_p18_contact_with_a_subject_passes_through_a_job_reply_and_a_callback() -> None:
    """P18: blanks and slashes of the subject arrive intact, in bare values."""
    contact = "https://ce.example.org:7512/16001/2002/:/C=SE/O=Wire Test/CN=ce.example.org"
    reply = JobReply(ErrorCode.SUCCESS, contact, VERSION)
    data = server_after(JOB).send(reply)
    assert f"job-manager-url: {contact}\r\n".encode() in data
    assert reply_to(JOB, data) == reply
    callback = Callback(contact, 2)
    assert heard(Connection(Role.CALLBACK_SENDER, host="vm").send(callback)) == callback
