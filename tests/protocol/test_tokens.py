"""GSI token framing (wire-protocol.md 1.4; abuse rows 4 to 9 of gatekeeper.md 22)."""

import tracemalloc

import pytest

from protocol.errors import RemoteProtocolError
from protocol.gsi.tokens import MAX_RECORD, MAX_TOKEN, Framing, TokenError, TokenReader, wrap_token
from protocol.tables import ErrorCode


def record(body: bytes = b"x" * 10, kind: int = 22) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


HELLO = record(b"h" * 320)
FINISHED = record(b"\1", 20) + record(b"f" * 40, 23)


def test_bare_records_pass_as_they_are() -> None:
    reader = TokenReader()
    assert reader.feed(HELLO + FINISHED) == HELLO + FINISHED
    assert reader.framing is Framing.BARE


def test_the_length_in_front_of_a_token_is_taken_off() -> None:
    reader = TokenReader()
    assert wrap_token(HELLO)[:6] == b"\x00\x00\x01\x45\x16\x03"
    assert reader.feed(wrap_token(HELLO)) == HELLO
    assert reader.framing is Framing.PREFIXED


def test_p10_prefixes_stop_and_framing_is_decided_at_each_token() -> None:
    flag, request = record(b"0" * 17, 23), record(b"POST" * 30, 23)
    reader = TokenReader()
    stream = wrap_token(HELLO) + wrap_token(FINISHED) + wrap_token(flag) + request + request
    assert reader.feed(stream) == HELLO + FINISHED + flag + request + request
    assert reader.feed(wrap_token(flag) + request) == flag + request


def test_framing_names_the_first_token() -> None:
    reader = TokenReader()
    assert reader.framing is None
    reader.feed(wrap_token(HELLO) + FINISHED)
    assert reader.framing is Framing.PREFIXED


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 324, 325, 326])
def test_any_segmentation_gives_whole_records(size: int) -> None:
    stream = wrap_token(HELLO) + FINISHED + wrap_token(FINISHED + HELLO)
    reader = TokenReader()
    pieces = [reader.feed(stream[i : i + size]) for i in range(0, len(stream), size)]
    assert b"".join(pieces) == HELLO + FINISHED + FINISHED + HELLO
    for piece in pieces:
        while piece:
            length = 5 + int.from_bytes(piece[3:5], "big")
            assert len(piece) >= length
            piece = piece[length:]


def test_an_incomplete_record_waits() -> None:
    reader = TokenReader()
    assert reader.feed(HELLO[:-1]) == b""
    assert reader.feed(HELLO[-1:]) == HELLO


@pytest.mark.parametrize(
    "data",
    [
        b"POST /x HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO example.org\r\n",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",  # SSLv2 hello
        b"\x1a\x03\x7f\xff\xff\xff",  # record type 26, which the reference knows
        b"\x18\x03\x03\x00\x03\x01\x40\x00",  # heartbeat
        b"\x16\x02\x00\x00\x10",
        b"\x01",
        b"\xff",
    ],
)
def test_what_is_not_tls_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(TokenError):
        TokenReader().feed(data)
    with pytest.raises(TokenError):
        TokenReader().feed(wrap_token(data))


@pytest.mark.parametrize("length", [0, 5, MAX_TOKEN + 1, 2**24, 2**24 - 1])
def test_unacceptable_token_lengths(length: int) -> None:
    with pytest.raises(TokenError) as error:
        TokenReader().feed(length.to_bytes(4, "big"))
    assert error.value.code is ErrorCode.PROTOCOL_FAILED
    assert isinstance(error.value, RemoteProtocolError)


@pytest.mark.parametrize("length", [0, MAX_RECORD + 1, 65535])
def test_unacceptable_record_lengths(length: int) -> None:
    with pytest.raises(TokenError):
        TokenReader().feed(b"\x16\x03\x01" + length.to_bytes(2, "big"))


def test_the_longest_record_and_token_pass() -> None:
    longest = record(b"y" * MAX_RECORD, 23)
    assert TokenReader().feed(longest) == longest
    token = longest * (MAX_TOKEN // len(longest))
    assert TokenReader().feed(wrap_token(token)) == token


def test_a_record_may_not_cross_its_token() -> None:
    with pytest.raises(TokenError):
        TokenReader().feed(b"\0\0\0\x20" + HELLO)


def test_a_prefix_inside_a_token_is_not_a_token() -> None:
    with pytest.raises(TokenError):
        TokenReader().feed(wrap_token(HELLO + wrap_token(HELLO)))


def test_a_length_field_allocates_nothing() -> None:
    reader = TokenReader(limit=2**24)
    tracemalloc.start()
    try:
        assert reader.feed((2**24 - 1).to_bytes(4, "big")) == b""
        for _ in range(1000):
            assert reader.feed(b"") == b""
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_only_an_incomplete_record_is_kept() -> None:
    reader = TokenReader()
    data = record(b"z" * 16384, 23)
    tracemalloc.start()
    try:
        for _ in range(200):
            assert reader.feed(data + data[:3]) == data
            assert reader.feed(data[3:]) == data
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
