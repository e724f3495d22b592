"""The frames themselves: what is accepted, and whose the descriptors are."""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmanager.spawner import frames
from jobmanager.spawner.channel import Channel, close_all
from jobmanager.spawner.codec import MAX_FRAME, FrameError, decode, encode

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)
NAME = st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z")
ID = st.integers(1, (1 << 63) - 1)
REQUEST = st.builds(
    frames.LaunchRequest,
    container=NAME,
    account=st.just("alice"),
    processes=st.integers(1, 1000),
    argv=st.lists(TEXT, min_size=1, max_size=5).map(tuple),
    environment=st.lists(
        st.tuples(TEXT.map(lambda name: "N" + name.replace("=", "")), TEXT), max_size=5
    ).map(tuple),
    limits=st.builds(
        frames.Limits,
        wall_seconds=st.none() | st.floats(0.001, 1e6),
        cpu_seconds=st.none() | st.integers(1, 10**6),
        memory_bytes=st.none() | st.integers(1, 1 << 40),
    ),
)
FRAMES = st.one_of(
    st.builds(frames.Launch, id=ID, descriptors=st.integers(4, 3001), request=REQUEST),
    st.builds(frames.Signal, id=ID, container=NAME, signum=st.integers(0, 64)),
    st.builds(frames.Kill, id=ID, container=NAME, grace=st.floats(0, 3600)),
    st.builds(frames.StartAgent, id=ID, account=st.just("alice")),
    st.builds(frames.ListRecords, id=ID),
)


@given(FRAMES)
def test_a_frame_survives_the_wire(frame: frames.Frame) -> None:
    payload = encode(frame)
    assert payload.isascii()
    assert decode(payload, frames.REQUESTS) == frame


def test_bytes_survive_as_surrogates() -> None:
    request = frames.LaunchRequest("c", "a", 1, ("\udcff\udc80",), (("N", "é\udcff"),))
    frame = frames.Launch(1, 4, request)
    assert decode(encode(frame), frames.REQUESTS) == frame


@pytest.mark.parametrize(
    ("payload", "request_id"),
    [
        (b"", 0),
        (b"null", 0),
        (b"[]", 0),
        (b"{", 0),
        (b'{"kind":"Ping"}', 0),
        (b'{"kind":"Ping","id":"1"}', 0),
        (b'{"kind":"Ping","id":true}', 0),
        (b'{"kind":"Ping","id":0}', 0),
        (b'{"kind":"Ping","id":9223372036854775808}', 0),
        (b'{"kind":"Ping","id":1.0}', 0),
        (b'{"kind":"Ping","id":1,"id":1}', 0),
        (b'{"kind":"Ping","id":7,"more":1}', 7),
        (b'{"kind":"Pong","id":7}', 7),
        (b'{"kind":["Ping"],"id":7}', 7),
        (b'{"kind":"Done","id":7}', 7),
        (b'{"kind":"Frame","id":7}', 7),
        (b'{"kind":"Ping","id":1}\xc3\xa9', 0),
        (b'{"kind":"Kill","id":7,"container":"c","grace":NaN}', 0),
        (b'{"kind":"Kill","id":7,"container":"c","grace":1e999}', 7),
        (b'{"kind":"Kill","id":7,"container":"c","grace":-1}', 7),
        (b'{"kind":"Kill","id":7,"container":"c","grace":true}', 7),
        (b'{"kind":"Signal","id":7,"container":"c","signum":65}', 7),
        (b'{"kind":"Signal","id":7,"container":"../c","signum":1}', 7),
        (b'{"kind":"Signal","id":7,"container":"c\\n","signum":1}', 7),
        (b'{"kind":"StartAgent","id":7,"account":"a\\u0000b"}', 7),
        (b'{"kind":"StartAgent","id":7,"account":"\\ud800"}', 7),
        (b'{"kind":"StartAgent","id":7,"account":"a:b"}', 7),
        (b'{"kind":"StartAgent","id":7,"account":""}', 7),
        (b"[" * 200_000, 0),
        (b"1" * 10_000, 0),
    ],
)
def test_what_is_not_exactly_a_request_is_refused(payload: bytes, request_id: int) -> None:
    with pytest.raises(FrameError) as caught:
        decode(payload, frames.REQUESTS)
    assert caught.value.request_id == request_id


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": ["a\0b"]},
        {"argv": "a"},
        {"argv": ["x" * 131072]},
        {"environment": [["A"]]},
        {"environment": [["", "x"]]},
        {"environment": [["A=B", "x"]]},
        {"environment": [["A", "x\0"]]},
        {"environment": {"A": "x"}},
        {"processes": 0},
        {"processes": 1001},
        {"container": "x" * 65},
        {"limits": {}},
        {"limits": None},
        {"surplus": 1},
    ],
)
def test_every_field_of_a_launch_is_checked(changes: dict[str, object]) -> None:
    good = frames.Launch(3, 4, frames.LaunchRequest("c", "a", 1, ("/bin/true",), ()))
    document = json.loads(encode(good))
    document["request"] |= changes
    with pytest.raises(FrameError) as caught:
        decode(json.dumps(document).encode("ascii"), frames.REQUESTS)
    assert caught.value.request_id == 3


def test_errors_do_not_repeat_what_was_sent() -> None:
    with pytest.raises(FrameError) as caught:
        decode(b'{"kind":"StartAgent","id":1,"account":"the secret\\n"}', frames.REQUESTS)
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode(payload, frames.REQUESTS)


def test_the_longest_parts_of_listings_fit_into_a_frame() -> None:
    pids = tuple(range((1 << 30) - 1000, 1 << 30))
    info = frames.ContainerInfo("c" * 64, "é" * 256, 1 << 30, pids, 1795245768.1967683, False)
    end = frames.ProcessExit(None, 127, 123456789.123456789, 123456789.123456789, (1 << 63) - 1)
    record = frames.ExitRecord(
        "c" * 64, "é" * 256, (end,) * 1000, 1795245768.1967683, 1795245768.1967683,
        123456789.123456789, 123456789.123456789, (1 << 63) - 1, (1 << 63) - 1, 65535, "x" * 32,
    )  # fmt: skip
    encode(frames.Containers(1 << 62, (info,) * frames.CONTAINER_BATCH, more=True))
    encode(frames.Records(1 << 62, (record,) * frames.RECORD_BATCH, more=True))
    encode(frames.Members(1 << 62, tuple(range(1 << 29, (1 << 29) + frames.MAX_MEMBERS))))


# Channels.


class Ends:
    """Two channels that talk to each other."""

    def __init__(self) -> None:
        left, right = socket.socketpair()
        self.blocked = 0
        self.sender = Channel(left, self._block)
        self.raw = right
        self.receiver = Channel(right, self._block)

    def _block(self, _: Channel) -> None:
        self.blocked += 1


@pytest.fixture
def ends() -> Iterator[Ends]:
    pair = Ends()
    yield pair
    pair.sender.close()
    pair.receiver.close()


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_arrive_close_on_exec_with_their_frame(ends: Ends) -> None:
    read, write = os.pipe()
    ends.sender.send(frames.Ping(1), (write,))
    os.close(write)
    (packet,) = ends.receiver.receive()
    (received,) = packet.descriptors
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    assert os.read(read, 100) == b"through"
    close_all((read, received))


def test_descriptors_stay_with_the_frame_they_came_with(ends: Ends) -> None:
    read, write = os.pipe()
    for number in range(1, 6):
        ends.sender.send(frames.Ping(number), (write,) * (number % 3))
    packets = []
    while len(packets) < 5:
        packets += ends.receiver.receive()
    assert [len(packet.descriptors) for packet in packets] == [1, 2, 0, 1, 2]
    for packet in packets:
        close_all(packet.descriptors)
    close_all((read, write))


@dataclass(frozen=True)
class Sent:
    """A frame of `size` bytes sent in two pieces, its descriptors with the first or second."""

    size: int
    descriptors: int
    cut: int
    with_second: bool
    then_receive: bool


SENT = st.builds(
    Sent, st.integers(0, 40), st.integers(0, 3), st.integers(1, 60), st.booleans(), st.booleans()
)


@given(st.lists(SENT, min_size=1, max_size=8))
def test_ownership_does_not_depend_on_how_bytes_are_cut(plan: list[Sent]) -> None:
    left, right = socket.socketpair()
    receiver = Channel(right, lambda _: None)
    with left, contextlib.closing(receiver):
        before = _open_descriptors()
        packets = []
        for sent in plan:
            _send_in_pieces(left, sent)
            if sent.then_receive:
                packets += receiver.receive()
        for _ in range(2 * len(plan)):  # a read ends at the latest where descriptors came with it
            packets += receiver.receive()
        got = [(len(packet.payload or b""), len(packet.descriptors)) for packet in packets]
        for packet in packets:
            close_all(packet.descriptors)
        assert got == [(sent.size, sent.descriptors) for sent in plan]
        assert _open_descriptors() == before


def _send_in_pieces(sock: socket.socket, sent: Sent) -> None:
    message = struct.pack("!I", sent.size) + b"x" * sent.size
    pieces = [piece for piece in (message[: sent.cut], message[sent.cut :]) if piece]
    chosen = len(pieces) - 1 if sent.with_second else 0
    for index, piece in enumerate(pieces):
        if index == chosen and sent.descriptors:
            socket.send_fds(sock, [piece], [0] * sent.descriptors)
        else:
            sock.sendall(piece)


def test_what_does_not_go_out_at_once_is_sent_later(ends: Ends) -> None:
    read, write = os.pipe()
    before = _open_descriptors()
    request = frames.LaunchRequest("c", "a", 1, ("x" * 100_000,), ())
    for number in range(1, 11):
        ends.sender.send(frames.Launch(number, 4, request), (write,) * 4)
    assert ends.blocked > 0
    packets = []
    while len(packets) < 10:
        packets += ends.receiver.receive()
        ends.sender.flush()
    assert [len(packet.descriptors) for packet in packets] == [4] * 10
    for number, packet in enumerate(packets, 1):
        frame = decode(packet.payload or b"", frames.REQUESTS)
        assert isinstance(frame, frames.Launch)
        assert frame.id == number
        close_all(packet.descriptors)
    assert _open_descriptors() == before
    close_all((read, write))


def test_a_frame_that_is_too_long_is_skipped(ends: Ends) -> None:
    length = MAX_FRAME + 1
    ends.sender._sock.setblocking(True)
    ends.sender._sock.sendall(struct.pack("!I", length))
    (packet,) = ends.receiver.receive()
    assert packet.payload is None
    for _ in range(length // 1024):
        ends.sender._sock.sendall(b"z" * 1024)
        assert ends.receiver.receive() == []
    ends.sender._sock.sendall(b"z" * (length % 1024) + struct.pack("!I", 2) + b"{}")
    assert [packet.payload for packet in ends.receiver.receive()] == [b"{}"]


def test_a_frame_that_is_too_long_is_not_sent(ends: Ends) -> None:
    strings = ("x" * 131071,) * 9
    with pytest.raises(FrameError):
        ends.sender.send(frames.Launch(1, 4, frames.LaunchRequest("c", "a", 1, strings, ())))
    assert ends.receiver.receive() == []


def test_a_dead_peer_is_noticed_by_receive(ends: Ends) -> None:
    before = _open_descriptors()
    ends.receiver.close()
    ends.sender.send(frames.Ping(1), (0,))
    with pytest.raises(EOFError):
        ends.sender.receive()
    ends.sender.close()
    assert _open_descriptors() == before - 2


def test_a_closed_channel_closes_descriptors_that_found_no_frame(ends: Ends) -> None:
    before = _open_descriptors()
    socket.send_fds(ends.sender._sock, [b"\0"], [0, 0, 0])
    assert ends.receiver.receive() == []
    assert _open_descriptors() == before + 3
    ends.receiver.close()
    assert _open_descriptors() == before - 1
