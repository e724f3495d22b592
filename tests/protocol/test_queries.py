"""What a job contact makes of any query: wire-protocol.md §5.8, §7.4; job-manager.md §2.5."""

import pytest

from protocol.connection import NEED_DATA, Connection, Role
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    CancelQuery,
    Extensions,
    HttpError,
    Query,
    QueryReply,
    RegisterQuery,
    RenewQuery,
    SignalQuery,
    StatusQuery,
    UnknownQuery,
    UnregisterQuery,
)
from protocol.tables import ErrorCode
from tests.protocol.transcripts import PATH, VERSION, post

BAD_REQUEST = HttpError(400)


def refused(code: ErrorCode) -> QueryReply:
    return QueryReply(4, code, 0)


def served(data: bytes) -> object:
    """The query read from these bytes, the refusal it gets, or NEED_DATA."""
    server = Connection(Role.JOB_MANAGER_SERVER)
    server.receive_data(data)
    try:
        return server.next_event()
    except RemoteProtocolError as error:
        refusal = server.refusal(error)
        assert server.send(refusal)
        return refusal


def asked(text: bytes) -> object:
    return served(post(PATH.encode(), b'protocol-version: 2\r\n"' + text + b'"\r\n\0'))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (b"status", StatusQuery(PATH)),
        (b"status ", StatusQuery(PATH)),
        (b"cancel", CancelQuery(PATH)),
        (b"renew", RenewQuery(PATH)),
        (b"signal 1 x", SignalQuery(PATH, 1, "x")),
        (b"signal 2 a b", SignalQuery(PATH, 2, "a b")),
        (b"signal 5", SignalQuery(PATH, 5)),
        (b"signal 5 ", SignalQuery(PATH, 5)),
        (b"signal 5 commit", SignalQuery(PATH, 5, "commit")),
        (b"signal 6 30", SignalQuery(PATH, 6, "30")),
        (b"signal 6 -30", SignalQuery(PATH, 6, "-30")),
        (b'signal 7 &(stdout=\\"a  b\\")', SignalQuery(PATH, 7, '&(stdout="a  b")')),
        (b"signal 7 &(stdout=a)\r\n(stderr=b)", SignalQuery(PATH, 7, "&(stdout=a)\r\n(stderr=b)")),
        (b"signal 8 100", SignalQuery(PATH, 8, "100")),
        (b"signal 8 -1 200", SignalQuery(PATH, 8, "-1 200")),
        (b"signal 9", SignalQuery(PATH, 9)),
        (b"signal 10 commit", SignalQuery(PATH, 10, "commit")),
        (b"signal 0", SignalQuery(PATH, 0)),
        (b"signal 99", SignalQuery(PATH, 99)),
        (b"signal -1", SignalQuery(PATH, -1)),
        (b"signal 9999999999", SignalQuery(PATH, 9999999999)),
        (b"register 1048575 https://vm:1/", RegisterQuery(PATH, 1048575, "https://vm:1/")),
        (b"register 0  https://vm:1/", RegisterQuery(PATH, 0, "https://vm:1/")),
        (b"unregister https://vm:1/", UnregisterQuery(PATH, "https://vm:1/")),
        (b"foo", UnknownQuery(PATH, "foo")),
        (b"", UnknownQuery(PATH, "")),
        (b"Status", UnknownQuery(PATH, "Status")),
        (b"status now", UnknownQuery(PATH, "status now")),
        (b"statusx", UnknownQuery(PATH, "statusx")),
        (b"\\s\\t\\atus", StatusQuery(PATH)),
        (b"%n%s\xff", UnknownQuery(PATH, "%n%s\udcff")),
    ],
)
def test_query_is_understood(text: bytes, query: Query) -> None:
    assert asked(text) == query


@pytest.mark.parametrize(
    "text",
    [
        b"signal",
        b"signal ",
        b"signal abc",
        b"signal 5commit",
        b"signal 99999999999",
        b"signal 1",
        b"signal 2 ",
        b"signal 3",
        b"signal 4",
        b"signal 6",
        b"signal 6 abc",
        b"signal 6 1.5",
        b"signal 6 1 2",
        b"signal 6 " + b"9" * 5000,
        "signal 6 \u0661".encode(),
        b"signal 7",
        b"signal 7  ",
        b"signal 8",
        b"signal 8 a b",
        b"signal 8 1 b",
        b"signal 8 1 2 3",
        b"register",
        b"register abc",
        b"register 5",
        b"register 5 ",
        b"register abc https://vm:1/",
        b"register -1 https://vm:1/",
        b"register 4294967296 https://vm:1/",
        b"unregister",
        b"unregister ",
    ],
)
def test_wrong_arguments_get_http_400(text: bytes) -> None:
    assert asked(text) == BAD_REQUEST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"garbage",
        b"protocol-version: 2\r\n",
        b"protocol-version: 2\r\n\0",
        b'protocol-version: 2\r\n"status',
        b'protocol-version: 2\r\n"status"',
        b'protocol-version: 2\r\n"status"\n\0',
        b'protocol-version: 2\r\n"sta\0tus"\r\n\0',
        b'protocol-version: two\r\n"status"\r\n\0',
        b'"status"\r\n\0',
        b'"status"\r\nprotocol-version: 2\r\n\0',
        b"command: version\r\n\0",
    ],
)
def test_unreadable_body_gets_http_400(body: bytes) -> None:
    assert served(post(b"/1/2/", body)) == BAD_REQUEST


def test_unquoted_query_is_error_92() -> None:
    body = b"protocol-version: 2\r\nstatus\r\n\0"
    assert served(post(b"/1/2/", body)) == refused(ErrorCode.INVALID_JOB_QUERY)


@pytest.mark.parametrize("version", [b"0", b"1", b"3", b"4294967297"])
def test_other_protocol_version_is_error_49(version: bytes) -> None:
    body = b"protocol-version: " + version + b'\r\n"status"\r\n\0'
    assert served(post(b"/1/2/", body)) == refused(ErrorCode.VERSION_MISMATCH)


def test_refusal_reports_state_4_and_no_job_failure() -> None:
    server = Connection(Role.JOB_MANAGER_SERVER)
    server.receive_data(post(b"/1/2/", b"protocol-version: 2\r\nstatus\r\n\0"))
    with pytest.raises(RemoteProtocolError) as raised:
        server.next_event()
    refusal = server.refusal(raised.value, VERSION)
    assert refusal == QueryReply(4, 92, 0, VERSION)
    assert server.send(refusal).endswith(
        b"status: 4\r\nfailure-code: 92\r\njob-failure-code: 0\r\n"
        b'version: "15.8 (1653033972-1)"\r\ntoolkit-version: "6.2"\r\n\0'
    )


@pytest.mark.parametrize("body", [b'protocol-version: 2\r\n"status"\r\n', b"%s\0\0garbage"])
def test_final_nul_may_be_missing_and_nothing_counts_behind_it(body: bytes) -> None:
    data = body.replace(b"%s", b'protocol-version: 2\r\n"status"\r\n')
    assert served(post(b"/1/2/", data)) == StatusQuery("/1/2/")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/16001/2002/", "/16001/2002/"),
        (b"https://host:7512/16001/2002/", "/16001/2002/"),
        (b"HTTPS://host/16001/2002/", "/16001/2002/"),
        (b"/", "/"),
        (b"/a%20b", "/a%20b"),
        (b"/\xc3\xa9", "/\u00e9"),
    ],
)
def test_request_line_names_a_path_or_a_whole_url(target: bytes, path: str) -> None:
    assert served(post(target, b'protocol-version: 2\r\n"status"\r\n\0')) == StatusQuery(path)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET / HTTP/1.1",
        b"post / HTTP/1.1",
        b"POST  / HTTP/1.1",
        b"POST 1/2/ HTTP/1.1",
        b"POST https://host HTTP/1.1",
        b"POST ftp://host/ HTTP/1.1",
        b"POST /a b HTTP/1.1",
        b"POST /a\tb HTTP/1.1",
        b"POST /",
        b"POST / HTTP/2.0",
    ],
)
def test_other_request_lines_get_http_400(line: bytes) -> None:
    assert served(line + b"\r\nContent-Length: 0\r\n\r\n") == BAD_REQUEST


@pytest.mark.parametrize(
    "headers",
    [b"", b"Content-Length: x\r\n", b"Content-Length: -1\r\n", b"Content-Length: 64000\r\n"],
)
def test_bad_lengths_get_http_400(headers: bytes) -> None:
    assert served(b"POST /1/2/ HTTP/1.1\r\n" + headers + b"\r\n") == BAD_REQUEST


def test_end_within_a_query_gets_http_400() -> None:
    server = Connection(Role.JOB_MANAGER_SERVER)
    server.receive_data(b"POST /1")
    server.receive_data(b"")
    with pytest.raises(RemoteProtocolError) as raised:
        server.next_event()
    assert server.refusal(raised.value, Extensions()) == BAD_REQUEST


@pytest.mark.parametrize(
    "query",
    [
        SignalQuery(PATH, 1),
        SignalQuery(PATH, 6, "soon"),
        SignalQuery(PATH, 7, ""),
        SignalQuery(PATH, 5, " commit"),
        SignalQuery(PATH, 7, "x" * 64_000),
        RegisterQuery(PATH, -1, "https://vm:1/"),
        RegisterQuery(PATH, 1, ""),
        RegisterQuery(PATH, 1, " https://vm:1/"),
        UnregisterQuery(PATH, ""),
        UnknownQuery(PATH, "status"),
        UnknownQuery(PATH, "a\0b"),
        UnknownQuery(PATH, "\ud800"),
        StatusQuery("1/2/"),
        StatusQuery("/a b"),
        StatusQuery("/a\r\nHost: b"),
        StatusQuery("/" + "a" * 9000),
    ],
)
def test_client_does_not_send_what_would_be_misunderstood(query: Query) -> None:
    client = Connection(Role.JOB_MANAGER_CLIENT, host="localhost")
    with pytest.raises(LocalProtocolError):
        client.send(query)


def test_renew_has_two_replies_with_raw_bytes_in_between() -> None:
    """§1.8, both ends: reply, delegation in `pending` and in the stream, reply."""
    client = Connection(Role.JOB_MANAGER_CLIENT, host="localhost")
    server = Connection(Role.JOB_MANAGER_SERVER)
    server.receive_data(client.send(RenewQuery(PATH)) + b"\0\0\0\1D")
    assert server.next_event() == RenewQuery(PATH)
    assert server.pending == b"\0\0\0\1D"

    client.receive_data(server.send(QueryReply(0, 0, 0)) + b"\0\0\2")
    assert client.next_event() == QueryReply(0, 0, 0)
    assert client.pending == b"\0\0\2"

    assert client.next_event() is NEED_DATA
    client.receive_data(server.send(QueryReply(2, 0, 0, VERSION)) + b"\0")
    assert client.next_event() == QueryReply(2, 0, 0, VERSION)
    assert client.pending == b"\0"
    for connection in (client, server):
        with pytest.raises(LocalProtocolError):
            connection.next_event()
    with pytest.raises(LocalProtocolError):
        server.send(QueryReply(2, 0, 0))


@pytest.mark.parametrize("refusal", [QueryReply(4, 162, 0), HttpError(400)])
def test_refused_renewal_has_one_reply(refusal: QueryReply | HttpError) -> None:
    client = Connection(Role.JOB_MANAGER_CLIENT, host="localhost")
    server = Connection(Role.JOB_MANAGER_SERVER)
    server.receive_data(client.send(RenewQuery(PATH)))
    server.next_event()
    client.receive_data(server.send(refusal))
    assert client.next_event() == refusal
    with pytest.raises(LocalProtocolError):
        server.send(QueryReply(2, 0, 0))
    with pytest.raises(LocalProtocolError):
        client.next_event()
