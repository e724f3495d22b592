"""GASS over HTTP, both roles: job-manager.md §5.5."""

from collections.abc import Iterable

import pytest

from protocol import gass
from protocol.connection import NEED_DATA
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.gass import (
    LAST_CHUNK,
    MAX_CHUNK,
    GassRequestReader,
    GassResponse,
    GassResponseReader,
    Get,
    Put,
)
from protocol.gass_body import BodyData, EndOfBody


def read(reader: GassRequestReader | GassResponseReader, pieces: Iterable[bytes]) -> list[object]:
    """The events of these pieces up to the end; neighbouring data put together."""
    events: list[object] = []
    waiting = list(pieces)
    while True:
        event = reader.next_event()
        if event is NEED_DATA:
            if not waiting:
                return events
            reader.receive_data(waiting.pop(0))
        elif isinstance(event, BodyData) and events and isinstance(events[-1], BodyData):
            events[-1] = BodyData(events[-1].data + event.data)
        else:
            events.append(event)
            if event == EndOfBody():
                return events


def response(*pieces: bytes) -> list[object]:
    return read(GassResponseReader(), pieces)


def request(*pieces: bytes) -> list[object]:
    return read(GassRequestReader(), pieces)


HEADERS = b"User-Agent: Globus-GASS-HTTP/1.1.0\r\nHost: vm\r\nConnection: close\r\n"
UPLOAD = b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"

# --- client: writing ------------------------------------------------------------------------------


def test_request_heads() -> None:
    assert gass.get_request("/dev/x", "vm") == b"GET /dev/x HTTP/1.1\r\n" + HEADERS + b"\r\n"
    assert gass.put_request("/dev/stdout", "vm") == (
        b"PUT /dev/stdout HTTP/1.1\r\n" + HEADERS + UPLOAD + b"\r\n"
    )
    assert gass.append_request("/dev/stdout", "vm") == (
        b"POST /globus-bins/GASSappend?/dev/stdout HTTP/1.1\r\n" + HEADERS + UPLOAD + b"\r\n"
    )


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/a%20b", b"/a%20b"),
        ("/a b", b"/a%20b"),
        ("/\u00e9\udcff", b"/%C3%A9%FF"),
        ("/a\r\nX: y", b"/a%0D%0AX:%20y"),
        ("//usr/bin/x", b"//usr/bin/x"),
        ("/~/x", b"/~/x"),
        ("/./x", b"/./x"),
        ("/a?b&c=d#e", b"/a?b&c=d#e"),
    ],
)
def test_paths_of_urls_are_kept_and_made_safe(path: str, target: bytes) -> None:
    assert gass.get_request(path, "vm").split(b"\r\n")[0] == b"GET " + target + b" HTTP/1.1"


@pytest.mark.parametrize(
    ("path", "host"), [("", "vm"), ("x", "vm"), ("/x", ""), ("/x", "a b"), ("/x", "a\r\nb")]
)
def test_requests_that_cannot_be_sent(path: str, host: str) -> None:
    for write in (gass.get_request, gass.put_request):
        with pytest.raises(LocalProtocolError):
            write(path, host)


def test_chunks() -> None:
    assert gass.chunk(b"hello") == b"5\r\nhello\r\n"
    assert gass.chunk(b"x" * MAX_CHUNK).startswith(b"100000\r\n")
    assert LAST_CHUNK == b"0\r\n\r\n"
    for data in (b"", b"x" * (MAX_CHUNK + 1)):  # an empty chunk would end the upload
        with pytest.raises(LocalProtocolError):
            gass.chunk(data)


# --- client: reading ------------------------------------------------------------------------------

OK = GassResponse(200, "Ok")
HELLO = [OK, BodyData(b"hello"), EndOfBody()]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.0 200 Ok\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",),
        (b"HTTP/1.1 200 Ok\r\nCONTENT-length:5\r\n\r\nhel", b"lo"),
        (b"HTTP/1.0 200 Ok\r\nConnection: close\r\n\r\nhello", b""),
        (b"HTTP/1.0 200 Ok\r\n\r\n", b"hel", b"lo", b""),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Ok\r\nContent-Length: 5\r\n\r\nhello",),
        (b"HTTP/1.0 200 Ok\r\nContent-Length: 5\r\n\r\nhello and more",),
    ],
)
def test_download(pieces: tuple[bytes, ...]) -> None:
    assert response(*pieces) == HELLO


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.0 200 Ok\r\nConnection: close\r\n\r\n", b""),
        (b"HTTP/1.0 200 Ok\r\nContent-Length: 0\r\n\r\n",),
    ],
)
def test_empty_download(pieces: tuple[bytes, ...]) -> None:
    assert response(*pieces) == [OK, EndOfBody()]


def test_status_comes_before_the_body() -> None:
    """After an upload nobody has to wait for the close."""
    assert response(b"HTTP/1.0 200 Ok\r\nConnection: close\r\n\r\n") == [OK]


@pytest.mark.parametrize("sent", [b"", b"not found"])
def test_short_404_is_a_status_and_no_transport_error(sent: bytes) -> None:
    head = b"HTTP/1.1 404 File Not Found\r\nConnection: close\r\nContent-Length: 500\r\n\r\n"
    events = response(head + sent, b"")
    assert events[0] == GassResponse(404, "File Not Found")
    assert events[-1] == EndOfBody()


def test_broken_chunks_do_not_hide_a_status() -> None:
    events = response(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
    assert events == [GassResponse(400, "No"), EndOfBody()]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"HTTP/1.1 200 Ok\r\n", b""),
        (b"HTTP/1.1 200 Ok\r\nContent-Length: 5\r\n\r\nhell", b""),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b""),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell", b""),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",),
        (b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: gzip\r\n\r\n",),
        (b"HTTP/1.1 200 Ok\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",),
        (b"HTTP/1.1 200 Ok\r\nContent-Length: -5\r\n\r\n",),
        (b"220 ESMTP\r\n\r\n",),
        (b"A" * 8192,),
    ],
)
def test_broken_and_truncated_responses(pieces: tuple[bytes, ...]) -> None:
    reader = GassResponseReader()
    with pytest.raises(RemoteProtocolError):
        read(reader, pieces)
    with pytest.raises(RemoteProtocolError):  # and it stays so
        reader.next_event()


def test_nothing_is_read_after_the_end() -> None:
    reader = GassResponseReader()
    read(reader, [b"HTTP/1.1 200 Ok\r\nContent-Length: 0\r\n\r\n"])
    with pytest.raises(LocalProtocolError):
        reader.next_event()


def test_data_is_given_out_as_it_comes() -> None:
    """Bounded memory: a chunk of any size is never collected."""
    reader = GassResponseReader()
    reader.receive_data(b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\n")
    assert reader.next_event() == OK
    for _ in range(3):
        reader.receive_data(b"x" * 65536)
        assert reader.next_event() == BodyData(b"x" * 65536)
        assert reader.next_event() is NEED_DATA


# --- server ---------------------------------------------------------------------------------------


def test_what_a_client_writes_is_read() -> None:
    assert request(gass.get_request("/a%20b", "vm")) == [Get("/a b"), EndOfBody()]
    body = gass.chunk(b"hel") + gass.chunk(b"lo") + LAST_CHUNK
    hello = [BodyData(b"hello"), EndOfBody()]
    put, append = gass.put_request("/x", "vm"), gass.append_request("/dev/stdout", "vm")
    assert request(put, body) == [Put("/x", append=False), *hello]
    assert request(append, body) == [Put("/dev/stdout", append=True), *hello]
    assert request(put, LAST_CHUNK) == [Put("/x", append=False), EndOfBody()]


def test_head_of_globus_url_copy() -> None:
    data = (
        b"PUT /tmp/target HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"User-Agent: Globus-GASS-HTTP/1.1.0\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    put = Put("/tmp/target", append=False)
    assert request(data) == [put, BodyData(b"hello"), EndOfBody()]


@pytest.mark.parametrize(
    "body",
    [
        b"5;name=value\r\nhello\r\n0;last\r\n\r\n",
        b"05 \r\nhello\r\n000\r\nTrailer: x\r\nOther: y\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_chunk_extensions_and_trailers(body: bytes) -> None:
    assert request(b"PUT /x HTTP/1.1\r\ntransfer-encoding: CHUNKED\r\n\r\n" + body) == [
        Put("/x", append=False),
        BodyData(b"hello"),
        EndOfBody(),
    ]


def test_counted_upload() -> None:
    assert request(b"PUT /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhel", b"lo!") == [
        Put("/x", append=False),
        BodyData(b"hello"),
        EndOfBody(),
    ]
    empty = b"PUT /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    assert request(empty) == [Put("/x", append=False), EndOfBody()]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a%20b%2Fc", "/a b/c"),
        (b"/%c3%A9%ff", "/\u00e9\udcff"),
        (b"/a+b", "/a+b"),
        (b"/100%", "/100%"),
        (b"/a?b", "/a?b"),
        (b"https://vm:50155/dev/x", "/dev/x"),
        (b"//usr/bin/x", "//usr/bin/x"),
        (b"/../x", "/../x"),
    ],
)
def test_paths_are_decoded(target: bytes, path: str) -> None:
    assert request(b"GET " + target + b" HTTP/1.1\r\n\r\n") == [Get(path), EndOfBody()]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD /x HTTP/1.1\r\n\r\n", 400),
        (b"DELETE /x HTTP/1.1\r\n\r\n", 400),
        (b"get /x HTTP/1.1\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
        (b"GET /x\r\n\r\n", 400),
        (b"GET /a%00b HTTP/1.1\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /globus-bins/GASSappend HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /globus-bins/GASSappend?x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: abc\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000, 400),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 9000, 400),
        (
            b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 2000,
            400,
        ),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\n", 400),
    ],
)
def test_bad_requests(data: bytes, status: int) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        request(data)
    assert raised.value.http_status == status
    assert gass.response(raised.value.http_status, 0)


@pytest.mark.parametrize("body", [b"", b"5\r\nhel", b"5\r\nhello\r\n", b"0\r\n"])
def test_truncated_upload_is_an_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        request(b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body, b"")


def test_responses() -> None:
    assert gass.response(200, 5) == (
        b"HTTP/1.1 200 Ok\r\nConnection: close\r\nServer: Gram\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\n"
    )
    assert b"Content-Length" not in gass.response(200)
    assert gass.response(404, 0).startswith(b"HTTP/1.1 404 Not Found\r\n")
    with pytest.raises(LocalProtocolError):
        gass.response(302, 0)


@pytest.mark.parametrize("status", [200, 400, 403, 404])
def test_own_responses_are_read(status: int) -> None:
    events = response(gass.response(status, 5) + b"hello")
    assert isinstance(events[0], GassResponse)
    assert events[0].status == status
    assert events[1:] == [BodyData(b"hello"), EndOfBody()]
    assert response(gass.response(status) + b"hello", b"")[1:] == events[1:]
