"""Any bytes give an event, NEED_DATA or RemoteProtocolError, and the same at any cut."""

from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.connection import NEED_DATA, Connection, Role
from protocol.contacts import GatekeeperContact, JobContact
from protocol.errors import GramError, RemoteProtocolError
from protocol.gass import GassRequestReader, GassResponseReader
from protocol.gass_body import BodyData, EndOfBody
from protocol.messages import (
    Callback,
    HttpError,
    JobRequest,
    Message,
    Ping,
    StatusQuery,
    VersionRequest,
)
from protocol.tables import ErrorCode

ROLES: list[tuple[Role, Message | None]] = [
    (Role.GATEKEEPER_SERVER, None),
    (Role.JOB_MANAGER_SERVER, None),
    (Role.CALLBACK_LISTENER, None),
    (Role.GATEKEEPER_CLIENT, Ping("j")),
    (Role.GATEKEEPER_CLIENT, VersionRequest("j")),
    (Role.GATEKEEPER_CLIENT, JobRequest("j", None, "&", "", 0)),
    (Role.JOB_MANAGER_CLIENT, StatusQuery("/1/2/")),
    (Role.CALLBACK_SENDER, Callback("https://vm:1/", 8)),
]
FRAGMENTS = [
    b"POST ping/j HTTP/1.1\r\n",
    b"POST /jobmanager@u HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n",
    b"GET /a%20b HTTP/1.1\r\n",
    b"PUT /x HTTP/1.1\r\n",
    b"POST /globus-bins/GASSappend?/x HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 404 Not Found\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Content-Type: application/x-globus-gram\r\n",
    b"Content-Length: 40\r\n",
    b"Content-Length: 7\r\n",
    b"Content-Length: 64000\r\n",
    b"content-length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n",
    b"protocol-version: 2\r\n",
    b"protocol-version: 3\r\n",
    b"status: 8\r\n",
    b"failure-code: 0\r\n",
    b"job-failure-code: 0\r\n",
    b"job-manager-url: https://vm:1/\r\n",
    b'"status"\r\n',
    b'"signal 6 x"\r\n',
    b"command: version\r\n",
    b'rsl: "&(a=\\"b\\")"\r\n',
    b"callback-url: \r\n",
    b"job-state-mask: 1048575\r\n",
    b'exit-code: "x"\r\n',
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b"\\",
]
wire = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=20), max_size=14).map(b"".join)


def connection(role: Role, request: Message | None) -> Connection:
    made = Connection(role, host="localhost")
    if request is not None:
        made.send(request)
    return made


Outcome = tuple[object, ...]


def outcome(made: Connection, pieces: list[bytes]) -> Outcome:
    """What comes of the pieces: an event and what is left, or the error."""
    try:
        for number, piece in enumerate(pieces, 1):
            made.receive_data(piece)
            event = made.next_event()
            if event is not NEED_DATA:
                return event, made.pending + b"".join(pieces[number:])
    except RemoteProtocolError as error:
        return error.code, error.http_status
    return (NEED_DATA,)


@settings(deadline=None)
@given(st.sampled_from(ROLES), wire | st.binary(max_size=200))
@example(ROLES[0], b"A" * 10_000)
@example(ROLES[3], b"HTTP/1.1 200 OK\r\nX: " + b"A" * 10_000)
def test_any_bytes(role: tuple[Role, Message | None], data: bytes) -> None:
    once = outcome(connection(*role), [data] if data else [])
    single = outcome(connection(*role), [bytes([byte]) for byte in data])
    assert once == single
    if isinstance(once[0], ErrorCode):
        assert once[1] in (200, 400, 404, 500)


@settings(deadline=None)
@given(st.sampled_from(ROLES), wire)
def test_any_bytes_and_the_end(role: tuple[Role, Message | None], data: bytes) -> None:
    """At the end nothing waits any more, except a server whose client left without a word."""
    made = connection(*role)
    if outcome(made, [data] if data else []) == (NEED_DATA,):
        at_end = outcome(made, [b""])
        assert (at_end == (NEED_DATA,)) == (role[1] is None and not data)


@settings(deadline=None)
@given(st.sampled_from(ROLES[:3]), wire)
def test_every_refusal_can_be_sent(role: tuple[Role, None], data: bytes) -> None:
    made = connection(*role)
    made.receive_data(data or b"\0")
    refusal: Message = HttpError(500)
    try:
        made.next_event()
    except RemoteProtocolError as error:
        refusal = made.refusal(error)
    assert made.send(refusal).startswith(b"HTTP/1.1 ")


CHUNKED = b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
Reader = type[GassRequestReader] | type[GassResponseReader]


def transfer(reader: GassRequestReader | GassResponseReader, pieces: list[bytes]) -> Outcome:
    """The start, the whole body, and how it ended."""
    start: object = None
    body = b""
    waiting = list(pieces)
    try:
        while True:
            event = reader.next_event()
            if event is NEED_DATA:
                if not waiting:
                    return start, body, NEED_DATA
                reader.receive_data(waiting.pop(0))
            elif isinstance(event, BodyData):
                assert event.data
                body += event.data
            elif isinstance(event, EndOfBody):
                return start, body, event
            else:
                assert start is None
                start = event
    except RemoteProtocolError as error:
        return start, body, error.code, error.http_status


@settings(deadline=None)
@given(st.sampled_from([GassRequestReader, GassResponseReader]), wire, st.booleans())
@example(
    GassRequestReader, b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 9000, True
)
def test_any_gass_bytes(kind: Reader, data: bytes, ended: bool) -> None:
    end = [b""] if ended else []
    once = transfer(kind(), ([data] if data else []) + end)
    single = transfer(kind(), [bytes([byte]) for byte in data] + end)
    assert once == single
    assert not (ended and once[-1] is NEED_DATA)


contact_texts = st.text(alphabet="hp:/1290.@[] =aZ-\n\0\u00e9", max_size=30) | st.text(max_size=30)


def code_of(parse: Callable[[str], object], text: str) -> ErrorCode | None:
    try:
        parse(text)
    except GramError as error:
        return error.code
    return None


@settings(deadline=None)
@given(contact_texts)
def test_any_gatekeeper_contact(text: str) -> None:
    code = code_of(GatekeeperContact.parse, text)
    assert code in (None, ErrorCode.BAD_GATEKEEPER_CONTACT)
    if code is None:
        contact = GatekeeperContact.parse(text)
        assert GatekeeperContact.parse(str(contact)) == contact


@settings(deadline=None)
@given(contact_texts | contact_texts.map(lambda text: "https://vm:7512/" + text))
def test_any_job_contact(text: str) -> None:
    code = code_of(JobContact.parse, text)
    assert code in (None, ErrorCode.INVALID_JOB_CONTACT)
    if code is None:
        contact = JobContact.parse(text)
        assert JobContact.parse(contact.url) == contact
