"""The store keeps what it was told, in order, or nothing."""

import asyncio
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text

from jobmanager.records import CallbackContact, Failure, JobPaths, JobRecord
from jobmanager.states import Event, Phase
from jobmanager.store import Audit, Change, OutboxEntry, Store, StoreError
from jobmanager.store.tables import identities
from jobmanager.store.writer import Writer, open_engine
from protocol.tables import JobState

PATHS = JobPaths("/home/a", "/home/a/.gram/jobs/1", "/home/a/p", "/home/a/c")
AUDIT = Audit('{"executable": "/bin/true"}', PATHS, "&(executable=/bin/true)", "127.0.0.1")


def record(name: str = "1/2", **changes: object) -> JobRecord:
    plain = JobRecord(
        id=name,
        owner="/CN=Alice",
        account="alice",
        service="jobmanager-fork",
        contact=f"https://localhost:1/{name}/",
        phase=Phase.STAGE_IN,
        state=JobState.UNSUBMITTED,
        created=1.0,
        updated=1.0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # test helper


def callback(job: JobRecord, state: JobState) -> OutboxEntry:
    return OutboxEntry(
        0, job.id, "https://client:1/", job.owner, job.contact, state, 0, Failure("why"), 3
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/gram.db")
    yield opened
    opened.close()


async def test_a_job_survives_closing_and_opening(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gram.db"
    job = record(contacts=(CallbackContact("https://client:1/", 255),))
    first = await Store.open(url)
    await first.add_job(job, AUDIT)
    first.close()
    second = await Store.open(url)
    assert await second.living_jobs() == [job]
    assert await second.audit(job.id) == AUDIT
    second.close()


async def test_the_database_file_is_private(tmp_path: Path) -> None:
    opened = await Store.open(f"sqlite:///{tmp_path}/gram.db")
    await opened.add_job(record(), AUDIT)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    opened.close()
    assert set(modes.values()) == {0o600}, modes


async def test_a_change_updates_job_log_and_outbox_together(store: Store) -> None:
    job = record()
    await store.add_job(job, AUDIT)
    active = replace(job, phase=Phase.ACTIVE, state=JobState.ACTIVE, sequence=1, lrm_id="7")
    sent = await store.change([Change(active, Event.STARTED, (callback(active, JobState.ACTIVE),))])
    assert [entry.id for entry in await store.undelivered()] == [sent[0].id]
    assert (await store.undelivered())[0] == replace(
        callback(active, JobState.ACTIVE), id=sent[0].id
    )
    assert [row[2:] for row in await store.events(job.id)] == [
        ("accepted", "stage-in", 32),
        ("started", "active", 2),
    ]
    assert await store.find(job.id) == active
    await store.delivered([sent[0].id])
    assert await store.undelivered() == []


async def test_a_failing_change_leaves_nothing_behind(store: Store) -> None:
    job = record()
    await store.add_job(job, AUDIT)
    active = replace(job, phase=Phase.ACTIVE, sequence=0)  # sequence 0 exists: must be refused
    with pytest.raises(StoreError):
        await store.change([Change(active, Event.STARTED, (callback(active, JobState.ACTIVE),))])
    assert await store.find(job.id) == job
    assert await store.undelivered() == []


async def test_one_bad_work_does_not_spoil_its_group(tmp_path: Path) -> None:
    writer = Writer(open_engine(f"sqlite:///{tmp_path}/x.db"))

    def create(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE identities (identity TEXT PRIMARY KEY, port INT)"))

    await writer.execute(create)

    def add(name: str) -> object:
        def work(connection: Connection) -> None:
            if name == "bad":
                raise ValueError(name)
            connection.execute(insert(identities), {"identity": name, "port": 1})

        return writer.execute(work)

    results = await asyncio.gather(add("a"), add("bad"), add("b"), return_exceptions=True)  # type: ignore[call-overload]  # coroutines
    assert [type(result) for result in results] == [type(None), ValueError, type(None)]
    count = await writer.execute(
        lambda connection: connection.execute(text("SELECT count(*) FROM identities")).scalar()
    )
    writer.close()
    assert count == 2


async def test_many_writers_share_commits(tmp_path: Path) -> None:
    batches: list[int] = []
    opened = await Store.open(
        f"sqlite:///{tmp_path}/gram.db", observe=lambda size, _: batches.append(size)
    )
    await asyncio.gather(*(opened.add_job(record(f"1/{n}"), AUDIT) for n in range(200)))
    opened.close()
    assert sum(batches) == 201  # with the preparation of the database
    assert len(batches) < 100


async def test_contacts_can_be_replaced(store: Store) -> None:
    job = record(contacts=(CallbackContact("https://a:1/", 1), CallbackContact("https://b:1/", 8)))
    await store.add_job(job, AUDIT)
    await store.set_contacts(job.id, (CallbackContact("https://b:1/", 9),))
    assert (await store.living_jobs())[0].contacts == (CallbackContact("https://b:1/", 9),)


async def test_finished_jobs_are_not_living_and_purged_after_their_time(store: Store) -> None:
    job = record()
    await store.add_job(job, AUDIT)
    done = replace(job, phase=Phase.FINISHED, state=JobState.DONE, sequence=1, updated=50.0)
    await store.change([Change(done, Event.CLEANED)])
    assert await store.living_jobs() == []
    assert await store.purge(before=50.0) == 0
    assert await store.purge(before=50.1) == 1
    assert await store.find(job.id) is None
    assert await store.events(job.id) == []


async def test_ports_are_remembered(store: Store) -> None:
    await store.set_port("/CN=Alice", 20001)
    await store.set_port("/CN=Alice", 20002)
    assert await store.ports() == {"/CN=Alice": 20002}


async def test_a_database_of_another_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gram.db"
    opened = await Store.open(url)
    opened.close()
    writer = Writer(open_engine(url))
    await writer.execute(lambda connection: connection.execute(text("UPDATE meta SET value='99'")))
    writer.close()
    with pytest.raises(StoreError, match="schema 99"):
        await Store.open(url)
