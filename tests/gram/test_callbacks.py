"""The callback listener against callers that behave and others that do not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gram.client.callbacks import MAX_EARLY, CallbackListener
from gram.client.errors import ConnectionFailed
from gram.client.feed import JobFeed
from gram.client.listening import Listening, local_address
from protocol.aio.gsi import Connector
from protocol.contacts import JobContact
from protocol.errors import GramError
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.messages import Callback, CallbackReply, Extensions
from protocol.tables import JobState
from tests.gram.lab import Lab
from tests.gram.servers import post

CONTACT = "https://ce.example.org:7512/1/2/"


@pytest.fixture
async def listener(lab: Lab) -> AsyncIterator[CallbackListener]:
    listener = CallbackListener(lab.own())
    await listener.start(Listening(), "127.0.0.1")
    yield listener
    await listener.aclose()


async def send(
    lab: Lab,
    listener: CallbackListener,
    state: JobState,
    *,
    contact: str = CONTACT,
    credential: Credential | None = None,
) -> object:
    message = Callback(contact, state, 0, Extensions(exit_code=3))
    return await post(listener.url, message, credential or lab.alice, CADirectory(lab.certificates))


def states(feed: JobFeed) -> list[str]:
    return [event.status.name for event in feed.since(0)]


async def test_callbacks_are_answered_and_kept(lab: Lab, listener: CallbackListener) -> None:
    feed = listener.feed("/1/2/")
    assert isinstance(await send(lab, listener, JobState.ACTIVE), CallbackReply)
    await send(lab, listener, JobState.DONE)
    assert states(feed) == ["ACTIVE", "DONE"]
    assert feed.final is not None
    assert feed.final.exit_code == 3


async def test_reply_to_the_byte(lab: Lab, listener: CallbackListener) -> None:
    where = JobContact.parse(listener.url)
    stream = await Connector(lab.alice, CADirectory(lab.certificates)).connect(
        where.host, where.port, gatekeeper=False
    )
    body = (
        b"protocol-version: 2\r\njob-manager-url: https://vm:1/1/2/\r\n"
        b"status: 8\r\nfailure-code: 0\r\n\0"
    )
    await stream.send(
        b"POST / HTTP/1.1\r\nHost: vm\r\nContent-Type: application/x-globus-gram\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    answer = b""
    while data := await stream.receive():
        answer += data
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n"
    await stream.aclose()


async def test_early_callbacks_and_duplicates(lab: Lab, listener: CallbackListener) -> None:
    for state in (JobState.ACTIVE, JobState.ACTIVE, JobState.DONE, JobState.DONE):
        await send(lab, listener, state)
    assert states(listener.feed("/1/2/")) == ["ACTIVE", "DONE"]
    assert states(listener.feed("/other/")) == []


async def test_early_callbacks_are_bounded(lab: Lab, listener: CallbackListener) -> None:
    for number in range(MAX_EARLY + 3):
        listener._take(Callback(f"https://h:1/{number}/", JobState.ACTIVE), "test")
    assert states(listener.feed("/2/")) == []
    assert states(listener.feed("/3/")) == ["ACTIVE"]
    assert states(listener.feed(f"/{MAX_EARLY + 2}/")) == ["ACTIVE"]


async def test_same_path_at_another_port_is_the_same_job(
    lab: Lab, listener: CallbackListener
) -> None:
    feed = listener.feed("/1/2/")
    moved = "https://elsewhere:7777/1/2/"
    await send(lab, listener, JobState.ACTIVE, contact=moved)
    assert [event.contact for event in feed.since(0)] == [moved]


async def test_other_identities_are_not_heard(lab: Lab, listener: CallbackListener) -> None:
    feed = listener.feed("/1/2/")
    for credential in (lab.mallory, lab.host):
        with pytest.raises(GramError):
            await send(lab, listener, JobState.DONE, credential=credential)
    assert feed.count == 0


@pytest.mark.parametrize("rubbish", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 70_000, b"POST"])
async def test_rubbish_does_not_hurt(lab: Lab, listener: CallbackListener, rubbish: bytes) -> None:
    where = JobContact.parse(listener.url)
    connector = Connector(lab.alice, CADirectory(lab.certificates))
    stream = await connector.connect(where.host, where.port, gatekeeper=False)
    await stream.send(rubbish)
    await stream.aclose()
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(b"no TLS at all\r\n\r\n")
    await reader.read()
    writer.close()
    await send(lab, listener, JobState.DONE)
    assert states(listener.feed("/1/2/")) == ["DONE"]


async def test_port_range_and_name(lab: Lab) -> None:
    probe = CallbackListener(lab.own())
    await probe.start(Listening(), "127.0.0.1")
    taken = JobContact.parse(probe.url).port
    listener = CallbackListener(lab.own())
    with pytest.raises(ConnectionFailed, match="cannot listen"):
        await listener.start(Listening(None, (taken, taken)), "127.0.0.1")
    await listener.start(Listening("me.example.org", (taken, min(taken + 50, 65535))), "127.0.0.1")
    found = JobContact.parse(listener.url)
    assert found.host == "me.example.org"
    assert taken < found.port <= taken + 50
    await listener.aclose()
    await probe.aclose()


def test_listening_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Listening.from_environment() == Listening(None, None)
    monkeypatch.setenv("GLOBUS_HOSTNAME", "me.example.org")
    monkeypatch.setenv("GLOBUS_TCP_PORT_RANGE", "2000,2010")
    assert Listening.from_environment() == Listening("me.example.org", (2000, 2010))
    monkeypatch.setenv("GLOBUS_TCP_PORT_RANGE", "2000 2010")
    assert Listening.from_environment(ports=(1, 2)).ports == (1, 2)
    assert Listening.from_environment().ports == (2000, 2010)
    for wrong in ("many", "5,4", "0,9"):
        monkeypatch.setenv("GLOBUS_TCP_PORT_RANGE", wrong)
        with pytest.raises(GramError, match="not a range"):
            Listening.from_environment()


async def test_local_address_leads_to_the_host() -> None:
    assert await local_address("localhost", 2119) == "127.0.0.1"
    with pytest.raises(ConnectionFailed):
        await local_address("no.such.host.invalid", 2119)
