"""What a gatekeeper makes of any request: gatekeeper.md §5, §14 and the HTTP rows of §22."""

import pytest

from protocol.connection import NEED_DATA, Connection, Role
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    Extensions,
    HttpError,
    JobReply,
    JobRequest,
    Ping,
    Request,
    TooLarge,
    VersionRequest,
)
from protocol.tables import ErrorCode
from tests.protocol.transcripts import JOB_BODY, VERSION, post


def served(data: bytes, *, ended: bool = False) -> object:
    """The request read from these bytes, the refusal it gets, or NEED_DATA."""
    server = Connection(Role.GATEKEEPER_SERVER)
    if data:
        server.receive_data(data)
    if ended:
        server.receive_data(b"")
    try:
        return server.next_event()
    except RemoteProtocolError as error:
        refusal = server.refusal(error)
        assert server.send(refusal)
        return refusal


def head(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([line, *headers, b"", b""])


def ping(line: bytes) -> object:
    return served(head(line, b"Content-Length: 0"))


def job(body: bytes) -> object:
    return served(post(b"/jobmanager", body))


# --- request lines --------------------------------------------------------------------------------


def test_p11_ping_has_no_leading_slash() -> None:
    """P11: HTTP libraries refuse this request line; it is how every client pings."""
    assert ping(b"POST ping/jobmanager HTTP/1.1") == Ping("jobmanager")


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"POST ping/jobmanager@alice HTTP/1.1", Ping("jobmanager", "alice")),
        (b"POST ping/jobmanager@ HTTP/1.1", Ping("jobmanager")),
        (b"POST ping/jobmanager HTTP/1.0", Ping("jobmanager")),
        (b"POST ping/jobmanager whatever", Ping("jobmanager")),
        (b"POST ping/a?b%20c HTTP/1.1", Ping("a?b%20c")),
        (b"POST ping/j@a@b HTTP/1.1", Ping("j", "a@b")),
        (b"POST ping/j@a/b HTTP/1.1", Ping("j", "a/b")),
        (b"POST ping/j@- HTTP/1.1", Ping("j", "-")),
        (b"POST ping/j@.pool HTTP/1.1", Ping("j", ".pool")),
        (b"POST ping/j@" + b"u" * 5000 + b" HTTP/1.1", Ping("j", "u" * 5000)),
        (b"POST ping/" + b"s" * 256 + b" HTTP/1.1", Ping("s" * 256)),
        (b"POST ping/%n%s HTTP/1.1", Ping("%n%s")),
        (b"POST ping/.. HTTP/1.1", Ping("..")),
        (b"POST ping/a\xff HTTP/1.1", Ping("a\udcff")),
    ],
)
def test_request_line_is_understood(line: bytes, request_: Request) -> None:
    assert ping(line) == request_


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"POST",
        b"POST ",
        b"POST / HTTP/1.1",
        b"POST /@u HTTP/1.1",
        b"POST ping HTTP/1.1",
        b"POST pingx/y HTTP/1.1",
        b"POST /ping/y HTTP/1.1",
        b"POST ping//y HTTP/1.1",
        b"POST https://host/jobmanager HTTP/1.1",
        b"POST  /jobmanager HTTP/1.1",
        b" POST /jobmanager HTTP/1.1",
        b"GET /jobmanager HTTP/1.1",
        b"PUT /jobmanager HTTP/1.1",
        b"post /jobmanager HTTP/1.1",
        b"POST /jobmanager",
        b"POST /jobmanager@alice",
        b"POST /a/b HTTP/1.1",
        b"POST /../x HTTP/1.1",
        b"POST /a\tb HTTP/1.1",
        b"POST /a\x7f HTTP/1.1",
        b"POST /j@a\tb HTTP/1.1",
        b"POST /" + b"s" * 257 + b" HTTP/1.1",
        b"POST /" + b"s" * 5000 + b" HTTP/1.1",
    ],
)
def test_malformed_request_line_gets_404(line: bytes) -> None:
    """Abuse 43-45: never a ping, never another service."""
    assert ping(line) == HttpError(404)


def test_leading_line_end_gets_404() -> None:
    """Abuse 43."""
    assert served(b"\r\n" + post(b"ping/jobmanager", b"")) == HttpError(404)


def test_malformed_line_is_refused_before_the_body_is_there() -> None:
    assert served(head(b"GET / HTTP/1.1", b"Content-Length: 60000")) == HttpError(404)


# --- heads ----------------------------------------------------------------------------------------


def test_abuse_40_endless_header_is_cut() -> None:
    assert served(b"A" * 8191) is NEED_DATA
    assert served(b"A" * 8192) == HttpError(404)
    assert served(b"A" * 100_000) == HttpError(404)


def test_header_of_exactly_the_limit_is_read() -> None:
    start, rest = b"POST ping/j HTTP/1.1\r\nX: ", b"\r\nContent-Length: 0\r\n\r\n"
    filler = 8192 - len(start) - len(rest)
    assert served(start + b"x" * filler + rest) == Ping("j")
    assert served(start + b"x" * (filler + 1) + rest) == HttpError(404)


@pytest.mark.parametrize(
    "data",
    [
        b"\0POST ping/j HTTP/1.1\r\n",
        b"POST ping/j\0 HTTP/1.1\r\n",
        b"POST ping/j HTTP/1.1\r\nHost: \0",
    ],
)
def test_abuse_41_nul_in_the_header_is_refused_at_once(data: bytes) -> None:
    assert served(data) == HttpError(404)


@pytest.mark.parametrize(
    "data",
    [
        b"POST ping/j HTTP/1.1\nContent-Length: 0\n\n",
        b"POST ping/j HTTP/1.1\rContent-Length: 0\r\r",
        b"POST ping/j\rx HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST ping/j\nx HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_abuse_42_lone_line_ends_are_refused_at_once(data: bytes) -> None:
    assert served(data) == HttpError(404)


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 0",
        b"content-length: 0",
        b"CONTENT-LENGTH:0",
        b"Content-Length: \t0 ",
        b"Content-Length: 000",
        b"Content-Length: 0\r\nContent-Length: 00",
    ],
)
def test_abuse_48_good_lengths(header: bytes) -> None:
    assert served(head(b"POST ping/j HTTP/1.1", header)) == Ping("j")


@pytest.mark.parametrize(
    "header",
    [
        b"X: y",
        b"Content-Length",
        b"Content-Length:",
        b"Content-Length: ",
        b"Content-Length: abc",
        b"Content-Length: -1",
        b"Content-Length: +5",
        b"Content-Length: 0x10",
        b"Content-Length: 5junk",
        b"Content-Length: 5, 5",
        b"Content-Length: 1_0",
        b"Content-Length: \xb2",
        b"Content-Length : 5",
        b"Content-Length: 0\r\nContent-Length: 1",
        b"Content-Length: 5\r\ncontent-length: 6",
        b"Transfer-Encoding: chunked",
    ],
)
def test_abuse_48_bad_or_missing_length_gets_500(header: bytes) -> None:
    assert served(head(b"POST ping/j HTTP/1.1", header)) == HttpError(500)


def test_abuse_48_length_only_in_the_body_gets_500() -> None:
    assert served(head(b"POST /j HTTP/1.1") + b"\r\nContent-Length: 5\r\n") == HttpError(500)


@pytest.mark.parametrize(
    "length",
    [b"64000", b"64001", b"1000000", b"2147483648", b"9223372036854775808", b"1" + b"0" * 30],
)
def test_abuse_48_and_51_too_large_is_refused_from_the_announced_length(length: bytes) -> None:
    assert served(head(b"POST /j HTTP/1.1", b"Content-Length: " + length)) == TooLarge()


def test_length_with_thousands_of_digits_is_too_large() -> None:
    assert served(head(b"POST /j HTTP/1.1", b"Content-Length: " + b"9" * 7000)) == TooLarge()
    zeros = b"Content-Length: " + b"0" * 7000
    assert served(head(b"POST ping/j HTTP/1.1", zeros)) == Ping("j")


def test_too_large_is_answered_with_the_33_byte_body() -> None:
    server = Connection(Role.GATEKEEPER_SERVER)
    server.receive_data(head(b"POST /j HTTP/1.1", b"Content-Length: 64000"))
    with pytest.raises(RemoteProtocolError) as raised:
        server.next_event()
    assert raised.value.code is ErrorCode.PROTOCOL_FAILED
    assert raised.value.http_status == 200
    assert server.send(server.refusal(raised.value)) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-globus-gram\r\nContent-Length: 33\r\n\r\n"
        b"protocol-version: 2\r\nstatus: 10\r\n"
    )


def test_abuse_51_the_largest_body_is_read() -> None:
    shell = len(JOB_BODY) - len(b'&(\\"executable\\" = \\"/bin/date\\" )')
    rsl = b"x" * (63_999 - shell)
    body = JOB_BODY.replace(b'&(\\"executable\\" = \\"/bin/date\\" )', rsl)
    assert len(body) == 63_999
    request = job(body)
    assert isinstance(request, JobRequest)
    assert request.rsl == rsl.decode()


def test_abuse_49_end_within_a_message_gets_404() -> None:
    data = post(b"/jobmanager", JOB_BODY)
    assert served(data[:-1]) is NEED_DATA
    for cut in (1, 30, len(data) - len(JOB_BODY), len(data) - 1):
        assert served(data[:cut], ended=True) == HttpError(404)


def test_a_client_that_leaves_without_a_word_is_no_error() -> None:
    assert served(b"", ended=True) is NEED_DATA


@pytest.mark.parametrize("surplus", [b"\0", b"more", post(b"ping/jobmanager", b"")])
def test_abuse_50_and_53_what_follows_the_message_is_ignored(surplus: bytes) -> None:
    assert isinstance(served(post(b"/jobmanager", JOB_BODY) + surplus), JobRequest)


def test_abuse_52_other_headers_are_ignored() -> None:
    many = [b"a:b"] * 1000
    line, length = b"POST ping/j HTTP/1.1", b"Content-Length: 0"
    assert served(head(line, *many, length)) == Ping("j")
    assert served(head(line, b"Expect: 100-continue", length)) == Ping("j")
    assert served(head(line, b"Transfer-Encoding: chunked", length)) == Ping("j")
    assert served(head(line, b"no colon", b" folded", length)) == Ping("j")
    assert served(head(line, b"X: " + b"y" * 1_000_000, length)) == HttpError(404)


def test_host_is_not_needed_and_not_evaluated() -> None:
    assert served(head(b"POST ping/j HTTP/1.1", b"Content-Length: 0")) == Ping("j")


def test_body_of_a_ping_is_read_over() -> None:
    assert served(post(b"ping/j", b"garbage")) == Ping("j")


# --- bodies ---------------------------------------------------------------------------------------


def attributes(**changes: bytes | None) -> bytes:
    lines = {
        "protocol_version": b"2",
        "job_state_mask": b"1048575",
        "callback_url": b"https://vm:40819/",
        "rsl": b'"&(executable=/bin/date)"',
    }
    body = b""
    for name, value in (lines | changes).items():
        if value is not None:
            body += name.replace("_", "-").encode() + b": " + value + b"\r\n"
    return body + b"\0"


BASE = JobRequest("jobmanager", None, "&(executable=/bin/date)", "https://vm:40819/", 1048575)


def test_job_request_is_read() -> None:
    assert job(attributes()) == BASE


@pytest.mark.parametrize(
    "body",
    [
        attributes().removesuffix(b"\0"),
        attributes() + b"behind the NUL nothing counts",
        attributes(extra=b'"is harmless"'),
        attributes(rsl=b"&(executable=/bin/date)"),
        attributes(rsl=b'"&(execu\\table=/bin/date)"'),
        attributes(rsl=b"&(execu\\table=/bin/date)"),
        attributes(job_state_mask=b'"1048575"'),
        attributes(callback_url=b'"https://vm:40819/"'),
        attributes().removesuffix(b"\0") + b"rsl: the first counts\r\n\0",
        b"\r\n".join(reversed(attributes().removesuffix(b"\r\n\0").split(b"\r\n"))) + b"\r\n\0",
    ],
)
def test_liberal_bodies(body: bytes) -> None:
    """§5.4: any order, unknown names, bare or quoted, backslashes removed everywhere, no NUL."""
    assert job(body) == BASE


def test_rsl_may_hold_line_ends_and_any_other_byte() -> None:
    request = job(attributes(rsl=b'"a\r\nb: c\r\n\\"\\\\\xff\xc3\xa9"'))
    assert isinstance(request, JobRequest)
    assert request.rsl == 'a\r\nb: c\r\n"\\\udcff\u00e9'


@pytest.mark.parametrize("empty", [b"", b'""'])
def test_empty_callback_url_means_no_callbacks(empty: bytes) -> None:
    request = job(attributes(callback_url=empty))
    assert isinstance(request, JobRequest)
    assert request.callback_url == ""


UNPACK_FAILED = JobReply(ErrorCode.HTTP_UNPACK_FAILED)


@pytest.mark.parametrize("name", ["protocol_version", "job_state_mask", "callback_url", "rsl"])
def test_missing_attribute_gets_status_91(name: str) -> None:
    assert job(attributes(**{name: None})) == UNPACK_FAILED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"garbage",
        b"garbage\r\n\0",
        b"\0" + attributes(),
        attributes(protocol_version=b"1"),
        attributes(protocol_version=b"3"),
        attributes(protocol_version=b"two"),
        attributes(job_state_mask=b"-1"),
        attributes(job_state_mask=b""),
        attributes(job_state_mask=b"4294967296"),
        attributes(job_state_mask=b"1" * 5000),
        attributes(job_state_mask="\u0661".encode()),
        attributes(rsl=b'"not closed'),
        attributes(rsl=b'"a\0b"'),
        attributes(rsl=b'"closed" too early'),
        attributes().replace(b": ", b":"),
        attributes().replace(b"\r\n", b"\n"),
        attributes().removesuffix(b"\r\n\0"),
        b"command: status\r\n\0",
        b"Command: version\r\n\0",
    ],
)
def test_unreadable_body_gets_status_91(body: bytes) -> None:
    """Appendix A.3: "garbage" and its kind; another protocol version is no different (§5.7)."""
    assert job(body) == UNPACK_FAILED


def test_refusal_can_carry_the_version() -> None:
    server = Connection(Role.GATEKEEPER_SERVER)
    server.receive_data(post(b"/jobmanager", b"garbage"))
    with pytest.raises(RemoteProtocolError) as raised:
        server.next_event()
    refusal = server.refusal(raised.value, VERSION)
    assert refusal == JobReply(ErrorCode.HTTP_UNPACK_FAILED, None, VERSION)
    assert b'version: "15.8 (1653033972-1)"' in server.send(refusal)


@pytest.mark.parametrize(
    "body", [b"command: version\r\n\0", b"command: version\r\n", b'command: "version"\r\n\0']
)
def test_version_request(body: bytes) -> None:
    assert job(body) == VersionRequest("jobmanager")


def test_abuse_54_format_strings_are_text() -> None:
    request = served(post(b"/%s%n@%x", attributes(rsl=b'"%n%n%n"', callback_url=b"%s")))
    assert request == JobRequest("%s%n", "%x", "%n%n%n", "%s", 1048575)


def test_errors_stay() -> None:
    server = Connection(Role.GATEKEEPER_SERVER)
    server.receive_data(b"\0")
    with pytest.raises(RemoteProtocolError):
        server.next_event()
    with pytest.raises(RemoteProtocolError) as raised:
        server.next_event()
    assert server.refusal(raised.value, Extensions()) == HttpError(404)
