"""Any message that can be sent is read as the same message, however its bytes are cut."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.body import to_text
from protocol.connection import NEED_DATA, Connection, Role
from protocol.messages import (
    Callback,
    CallbackReply,
    CancelQuery,
    Extensions,
    HttpError,
    JobReply,
    JobRequest,
    Message,
    Ping,
    PingReply,
    QueryReply,
    RegisterQuery,
    RenewQuery,
    Reply,
    Request,
    SignalQuery,
    StatusQuery,
    UnknownQuery,
    UnregisterQuery,
    VersionReply,
    VersionRequest,
)
from protocol.tables import POSTED_STATES, ErrorCode

PEERS = {
    Role.GATEKEEPER_CLIENT: Role.GATEKEEPER_SERVER,
    Role.JOB_MANAGER_CLIENT: Role.JOB_MANAGER_SERVER,
    Role.CALLBACK_SENDER: Role.CALLBACK_LISTENER,
}


def octets(exclude: bytes, *, least: int = 0) -> st.SearchStrategy[str]:
    """Text of any bytes but these."""
    allowed = [byte for byte in range(256) if byte not in exclude]
    data = st.lists(st.sampled_from(allowed), min_size=least, max_size=60)
    return data.map(lambda octets: to_text(bytes(octets)))


CONTROL = bytes([*range(0x20), 0x7F])
free = octets(b"\0") | st.text(max_size=30).filter(
    lambda text: "\0" not in text and text.isprintable()
)
bare = octets(CONTROL, least=1)
word = octets(CONTROL + b" ", least=1)
services = octets(CONTROL + b" @/", least=1)
users = st.none() | word
numbers = st.integers(0, 2**32 - 1)
paths = word.map(lambda text: "/" + text)

GATEKEEPER_REQUESTS = st.one_of(
    st.builds(Ping, services, users),
    st.builds(VersionRequest, services, users),
    st.builds(JobRequest, services, users, free, st.just("") | bare, numbers),
)
SIGNALS = st.one_of(
    st.builds(SignalQuery, paths, st.integers(1, 4) | st.just(7), word),
    st.builds(SignalQuery, paths, st.sampled_from([5, 9, 10]), st.just("") | word),
    st.builds(SignalQuery, paths, st.just(6), st.integers(-(10**9), 10**9).map(str)),
    st.builds(SignalQuery, paths, st.just(8), st.just("-1 17") | st.just("5")),
    st.builds(SignalQuery, paths, st.integers(11, 10**9), st.just("") | word),
)
QUERIES = st.one_of(
    st.builds(StatusQuery, paths),
    st.builds(CancelQuery, paths),
    st.builds(RenewQuery, paths),
    SIGNALS,
    st.builds(RegisterQuery, paths, numbers, word),
    st.builds(UnregisterQuery, paths, word),
    st.builds(UnknownQuery, paths, free.map(lambda text: "x" + text)),
)
others = st.lists(
    st.tuples(st.from_regex(r"x-[a-z0-9]{1,10}", fullmatch=True), free),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(tuple)
texts = st.none() | free
EXTENSIONS = st.builds(
    Extensions,
    version=texts,
    toolkit_version=texts,
    exit_code=st.none() | st.integers(-(10**9), 10**9),
    failure_message=texts,
    failure_type=texts,
    failure_source=texts,
    failure_destination=texts,
    others=others,
)
CALLBACKS = st.builds(Callback, bare, st.sampled_from(sorted(POSTED_STATES)), numbers, EXTENSIONS)

REQUESTS = st.one_of(
    st.tuples(st.just(Role.GATEKEEPER_CLIENT), GATEKEEPER_REQUESTS),
    st.tuples(st.just(Role.JOB_MANAGER_CLIENT), QUERIES),
    st.tuples(st.just(Role.CALLBACK_SENDER), CALLBACKS),
)
rejections = st.builds(JobReply, st.sampled_from(list(ErrorCode)), st.none(), EXTENSIONS).filter(
    lambda reply: not reply.accepted
)
acceptances = st.builds(
    JobReply,
    st.sampled_from([ErrorCode.SUCCESS, ErrorCode.WAITING_FOR_COMMIT]),
    bare,
    EXTENSIONS,
)
errors = st.builds(HttpError, st.sampled_from([400, 403, 404, 500]))
EXCHANGES = st.one_of(
    st.tuples(
        st.just(Role.GATEKEEPER_CLIENT), st.builds(Ping, services), st.just(PingReply()) | errors
    ),
    st.tuples(
        st.just(Role.GATEKEEPER_CLIENT),
        st.builds(VersionRequest, services),
        st.builds(VersionReply, free, free) | errors,
    ),
    st.tuples(
        st.just(Role.GATEKEEPER_CLIENT),
        st.just(JobRequest("j", None, "&", "", 0)),
        rejections | acceptances | errors,
    ),
    st.tuples(
        st.just(Role.JOB_MANAGER_CLIENT),
        QUERIES,
        st.builds(QueryReply, numbers, numbers, numbers, EXTENSIONS) | errors,
    ),
    st.tuples(st.just(Role.CALLBACK_SENDER), CALLBACKS, st.just(CallbackReply()) | errors),
)
cuts = st.lists(st.integers(0, 400), max_size=5)


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    """The data cut at these places."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


def fed(connection: Connection, data: list[bytes]) -> Message:
    """The event of these pieces; there is none before the last piece."""
    for piece in data[:-1]:
        connection.receive_data(piece)
        assert connection.next_event() is NEED_DATA
    connection.receive_data(data[-1])
    event = connection.next_event()
    assert event is not NEED_DATA
    return event


@settings(deadline=None)
@given(REQUESTS, cuts)
def test_requests_survive(request: tuple[Role, Request], at: list[int]) -> None:
    role, message = request
    data = Connection(role, host="localhost").send(message)
    assert fed(Connection(PEERS[role]), pieces(data, at)) == message


@settings(deadline=None)
@given(EXCHANGES, cuts)
def test_replies_survive(exchange: tuple[Role, Request, Reply], at: list[int]) -> None:
    role, request, reply = exchange
    client, server = Connection(role, host="localhost"), Connection(PEERS[role])
    server.receive_data(client.send(request))
    assert server.next_event() == request
    data = server.send(reply)
    assert fed(client, pieces(data, at)) == reply


@settings(deadline=None)
@given(REQUESTS)
def test_byte_by_byte_is_the_same_as_at_once(request: tuple[Role, Request]) -> None:
    role, message = request
    data = Connection(role, host="localhost").send(message)
    assert fed(Connection(PEERS[role]), [bytes([byte]) for byte in data]) == message
