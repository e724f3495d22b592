"""Every message is written, and read, to the byte as the transcripts show it."""

import pytest

from protocol.connection import NEED_DATA, Connection
from tests.protocol.transcripts import PEERS, REPLIES, REQUESTS, Answered, Sent

requests = pytest.mark.parametrize("sent", REQUESTS.values(), ids=list(REQUESTS))
replies = pytest.mark.parametrize("answered", REPLIES.values(), ids=list(REPLIES))


def server_with(answered: Answered) -> Connection:
    """A server that has read the request."""
    client = Connection(answered.role, host="localhost")
    server = Connection(PEERS[answered.role])
    server.receive_data(client.send(answered.request))
    assert server.next_event() == answered.request
    return server


def client_with(answered: Answered) -> Connection:
    """A client that has sent the request."""
    client = Connection(answered.role, host="localhost")
    client.send(answered.request)
    return client


@requests
def test_request_is_written(sent: Sent) -> None:
    assert Connection(sent.role, host="localhost").send(sent.message) == sent.data


@requests
def test_request_is_read(sent: Sent) -> None:
    server = Connection(PEERS[sent.role])
    assert server.next_event() is NEED_DATA
    server.receive_data(sent.data)
    assert server.next_event() == sent.message
    assert server.pending == b""


@replies
def test_reply_is_written(answered: Answered) -> None:
    assert server_with(answered).send(answered.message) == answered.data


@replies
def test_reply_is_read(answered: Answered) -> None:
    client = client_with(answered)
    client.receive_data(answered.data)
    assert client.next_event() == answered.message


examples: list[Sent | Answered] = [*REQUESTS.values(), *REPLIES.values()]


@pytest.mark.parametrize("example", [e for e in examples if e.length is not None])
def test_length_is_that_of_the_specification(example: Sent | Answered) -> None:
    assert len(example.data.partition(b"\r\n\r\n")[2]) == example.length


@replies
def test_p4_a_reply_is_one_piece_of_at_most_a_tls_record(answered: Answered) -> None:
    """P4: `send` returns head and body at once, so that nobody can write them separately."""
    data = server_with(answered).send(answered.message)
    assert isinstance(data, bytes)
    assert data.endswith(answered.data.partition(b"\r\n\r\n")[2])
    assert len(data) <= 16 * 1024


@replies
def test_p25_a_client_stops_at_the_announced_length(answered: Answered) -> None:
    """P25: the NUL that the reference sends beyond its reply is not part of it."""
    client = client_with(answered)
    client.receive_data(answered.data + b"\0")
    assert client.next_event() == answered.message
    assert client.pending == b"\0"


@replies
def test_the_end_of_the_stream_may_follow_a_reply(answered: Answered) -> None:
    client = client_with(answered)
    client.receive_data(answered.data)
    client.receive_data(b"")
    assert client.next_event() == answered.message
