"""The callback sender: order, retries, who is told, and that nobody waits for somebody else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from jobmanager import callbacks as module
from jobmanager.callbacks import CallbackSender
from jobmanager.records import Failure, JobRecord
from jobmanager.states import Event, Phase
from jobmanager.store import Audit, Change, OutboxEntry, Store
from protocol.aio.doubles import MemoryStream, memory_pair
from protocol.connection import NEED_DATA, Connection, Role
from protocol.errors import GramError
from protocol.messages import Callback, CallbackReply
from protocol.tables import ErrorCode, JobState
from tests.support.core import ALICE, BOB, PATHS, VERSION, peer, until

URL = "https://client:7/x"


class Listener:
    """What clients would be: each URL's behaviour is a word."""

    def __init__(self) -> None:
        self.heard: list[Callback] = []
        self.bytes: list[bytes] = []
        self.attempts: list[str] = []
        self.behaviour: dict[int, list[str]] = {}
        self.identity = ALICE
        self.streams: list[MemoryStream] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(
        self, host: str, port: int, *, gatekeeper: bool, timeout: float
    ) -> MemoryStream:
        assert not gatekeeper
        assert timeout > 0
        self.attempts.append(f"{host}:{port}")
        plan = self.behaviour.get(port, [])
        word = (plan.pop(0) if len(plan) > 1 else plan[0]) if plan else "answer"
        if word == "refuse":
            raise GramError(ErrorCode.CONNECTION_FAILED, "connection refused")
        if word == "hang":
            await asyncio.Event().wait()
        ours, theirs = memory_pair(peer(self.identity), peer(ALICE))
        self.streams.append(ours)
        self._tasks.append(asyncio.create_task(self._listen(theirs, word)))
        return ours

    async def _listen(self, stream: MemoryStream, word: str) -> None:
        connection = Connection(Role.CALLBACK_LISTENER)
        while (event := connection.next_event()) is NEED_DATA:
            data = await stream.receive()
            self.bytes.append(data)
            connection.receive_data(data)
            if not data:
                return
        assert isinstance(event, Callback)
        self.heard.append(event)
        match word:
            case "silence":
                await stream.aclose()
            case "garbage":
                await stream.send(b"220 hello\r\n")
                await stream.aclose()
            case _:
                await stream.send(connection.send(CallbackReply()))


class Site:
    def __init__(self, store: Store, listener: Listener) -> None:
        self.store = store
        self.listener = listener
        self.observed: list[str] = []
        self.owners: dict[str, object] = {
            owner: SimpleNamespace(connector=listener) for owner in (ALICE, BOB)
        }
        self.sender = CallbackSender(
            store,
            cast("Any", SimpleNamespace(get=self.owners.get)),
            VERSION,
            lambda outcome, _seconds: self.observed.append(outcome),
        )

    async def entries(
        self, *states: JobState, job: str = "1/2", url: str = URL, owner: str = ALICE
    ) -> list[OutboxEntry]:
        """Callbacks as the store makes them."""
        record = JobRecord(
            id=job, owner=owner, account="a", service="s", contact=f"https://h:1/{job}/",
            phase=Phase.ACTIVE, state=JobState.ACTIVE, created=1, updated=1,
        )  # fmt: skip
        if await self.store.find(job) is None:
            await self.store.add_job(record, Audit("{}", PATHS, "", ""))
        known = len(await self.store.events(job))
        plain = [
            OutboxEntry(0, job, url, owner, record.contact, state, 0, Failure("why"), None)
            for state in states
        ]
        changed = JobRecord(
            **{name: getattr(record, name) for name in _fields} | {"sequence": known}
        )
        return await self.store.change([Change(changed, Event.STARTED, tuple(plain))])


_fields = [name for name in JobRecord.__dataclass_fields__ if name != "sequence"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_DELAYS", (0.001, 0.001))
    monkeypatch.setattr(module, "MARK_DELAY", 0.001)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = await Store.open(f"sqlite:///{tmp_path}/gram.db")
    made = Site(store, Listener())
    yield made
    await made.sender.aclose()
    store.close()


async def delivered(site: Site) -> None:
    await until(lambda: site.sender.waiting == 0)
    async with asyncio.timeout(20):
        while await site.store.undelivered():
            await asyncio.sleep(0.001)


def heard(site: Site) -> list[int]:
    return [callback.state for callback in site.listener.heard]


async def test_callbacks_of_a_job_arrive_in_order(site: Site) -> None:
    states = [JobState.STAGE_IN, JobState.PENDING, JobState.ACTIVE, JobState.DONE]
    site.sender.send(await site.entries(*states[:2]))
    site.sender.send(await site.entries(*states[2:]))
    await delivered(site)
    assert heard(site) == states
    assert all(stream.closed for stream in site.listener.streams)
    assert site.observed == ["delivered"] * 4


async def test_a_failed_callback_is_tried_again_and_keeps_its_place(site: Site) -> None:
    site.listener.behaviour[7] = ["refuse", "refuse", "answer"]
    site.sender.send(await site.entries(JobState.ACTIVE, JobState.DONE))
    await delivered(site)
    assert heard(site) == [JobState.ACTIVE, JobState.DONE]
    assert site.observed == ["retried", "retried", "delivered", "delivered"]


async def test_a_listener_that_keeps_failing_is_given_up(site: Site) -> None:
    site.listener.behaviour[7] = ["refuse"]
    site.sender.send(await site.entries(JobState.ACTIVE, JobState.PENDING, JobState.DONE))
    await delivered(site)
    # Three tries for the first, one for each of those that wait behind it.
    assert site.observed == ["retried", "retried", "dropped", "dropped", "dropped"]
    assert site.sender._queues == {}
    assert site.sender._given_up == set()


@pytest.mark.parametrize("word", ["silence", "garbage"])
async def test_what_a_listener_answers_does_not_matter(word: str, site: Site) -> None:
    site.listener.behaviour[7] = [word]
    site.sender.send(await site.entries(JobState.ACTIVE))
    await delivered(site)
    assert site.observed == ["delivered"]


async def test_a_listener_of_another_identity_gets_no_byte(site: Site) -> None:
    site.listener.identity = BOB
    site.sender.send(await site.entries(JobState.ACTIVE))
    await delivered(site)
    assert site.observed == ["retried", "retried", "dropped"]
    assert b"".join(site.listener.bytes) == b""
    assert all(stream.closed for stream in site.listener.streams)


@pytest.mark.parametrize(
    "url",
    ["http://client:7/", "https://client/", "https://:7/", "https://client:x/", "https://[::1", "",
     "https://client:99999/", "ftp://a:1/", "https://client:7/\udcff"],
)  # fmt: skip
async def test_an_impossible_url_is_dropped(url: str, site: Site) -> None:
    site.sender.send(await site.entries(JobState.ACTIVE, url=url))
    await delivered(site)
    good = url.endswith("\udcff")  # bytes that are no UTF-8 are a path like any other
    assert site.observed[-1] == ("delivered" if good else "dropped")
    assert bool(site.listener.attempts) is good or urlsplit(url).port == 99999


async def test_without_a_credential_nothing_is_sent(site: Site) -> None:
    site.owners.clear()
    site.sender.send(await site.entries(JobState.ACTIVE))
    await delivered(site)
    assert site.listener.attempts == []


async def test_a_hanging_listener_delays_nobody_else(site: Site) -> None:
    site.listener.behaviour[8] = ["hang"]
    for number in range(module.MAX_SENDING * 2):
        entries = await site.entries(JobState.ACTIVE, job=f"{number}/1", url="https://client:8/")
        site.sender.send(entries)
    await until(lambda: len(site.listener.attempts) == module.MAX_PER_LISTENER)
    site.sender.send(await site.entries(JobState.DONE, job="9/9"))
    await until(lambda: heard(site) == [JobState.DONE])
    assert site.listener.attempts.count("client:8") == module.MAX_PER_LISTENER


async def test_an_owner_with_many_hanging_listeners_delays_no_other_owner(site: Site) -> None:
    for number in range(module.MAX_SENDING * 2):
        site.listener.behaviour[100 + number] = ["hang"]
        url = f"https://client:{100 + number}/"
        site.sender.send(await site.entries(JobState.ACTIVE, job=f"{number}/1", url=url))
    await until(lambda: len(site.listener.attempts) == module.MAX_PER_OWNER)
    site.listener.identity = BOB
    site.sender.send(await site.entries(JobState.DONE, job="9/9", owner=BOB))
    await until(lambda: heard(site) == [JobState.DONE])


async def test_a_listener_that_takes_too_long_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.01)
    site.listener.behaviour[7] = ["hang", "answer"]
    site.sender.send(await site.entries(JobState.ACTIVE))
    await delivered(site)
    assert site.observed == ["retried", "delivered"]


async def test_what_was_queued_for_a_contact_that_left_is_dropped(site: Site) -> None:
    site.listener.behaviour[7] = ["hang"]
    site.sender.send(await site.entries(JobState.ACTIVE, JobState.PENDING, JobState.DONE))
    await until(lambda: bool(site.listener.attempts))
    site.sender.forget("1/2", URL)
    async with asyncio.timeout(20):
        while len(await site.store.undelivered()) > 1:
            await asyncio.sleep(0.001)
    assert site.sender.waiting == 1


async def test_what_is_not_delivered_stays_for_the_next_start(site: Site) -> None:
    site.listener.behaviour[7] = ["answer", "hang"]
    site.sender.send(await site.entries(JobState.ACTIVE, JobState.DONE))
    await until(lambda: len(site.listener.attempts) == 2)
    await site.sender.aclose()
    [left] = await site.store.undelivered()
    assert left.state is JobState.DONE
    again = Site(site.store, site.listener)
    site.listener.behaviour.clear()
    again.sender.send([left])
    await delivered(again)
    assert heard(site) == [JobState.ACTIVE, JobState.DONE]
    await again.sender.aclose()


async def test_a_callback_says_what_it_must(site: Site) -> None:
    site.sender.send(await site.entries(JobState.FAILED))
    await delivered(site)
    [callback] = site.listener.heard
    assert callback.contact == "https://h:1/1/2/"
    assert callback.extensions.failure_message == "why"
    assert callback.extensions.version == VERSION.version
    [sent] = [data for data in site.listener.bytes if data]
    assert sent.startswith(b"POST /x HTTP/1.1\r\nHost: client\r\n")
