"""What the job manager asks of the database, one method a question.

Every change of a job is one transaction that updates the job, appends to its event log and writes
the callbacks it causes into the outbox (design: persist, then send, then mark).
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from jobmanager.records import CallbackContact, Failure, JobPaths, JobRecord
from jobmanager.states import Event, Phase
from jobmanager.store.tables import (
    SCHEMA_VERSION,
    contacts,
    events,
    identities,
    jobs,
    meta,
    metadata,
    outbox,
)
from jobmanager.store.writer import Observe, StoreError, Trouble, Writer, open_engine
from protocol.tables import JobState

_PLAIN = [
    "id",
    "owner",
    "account",
    "service",
    "contact",
    "created",
    "updated",
    "sequence",
    "two_phase",
    "deadline",
    "extension",
    "parked",
    "stopped",
    "redirected",
    "failure_code",
    "exit_code",
    "lrm_id",
]
_MUTABLE = [
    "contact",
    "phase",
    "state",
    "updated",
    "sequence",
    "deadline",
    "extension",
    "parked",
    "stopped",
    "redirected",
    "failure_code",
    "failure",
    "exit_code",
    "lrm_id",
]

_UPDATE_JOB = (
    update(jobs)
    .where(jobs.c.id == bindparam("key"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One callback to be delivered: to whom, about which job, what it says."""

    id: int
    job: str
    url: str
    owner: str
    contact: str
    state: JobState
    failure_code: int
    failure: Failure | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One transition to be stored: the record after it, the event, who is to be told what."""

    record: JobRecord
    event: Event | None
    callbacks: tuple[OutboxEntry, ...] = ()
    detail: str | None = None
    usage: str | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """What does not change after submission and is only read when needed."""

    description: str
    paths: JobPaths
    rsl: str
    client_address: str


class Store:
    """The database behind one writer thread; create with `Store.open`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @classmethod
    async def open(
        cls, url: str, *, observe: Observe | None = None, trouble: Trouble | None = None
    ) -> "Store":
        """Open (and create) the database. `url` is an SQLAlchemy URL; raises StoreError."""
        if url.startswith("sqlite:///"):
            _private_file(Path(url.removeprefix("sqlite:///")))
        writer = Writer(open_engine(url), observe, trouble=trouble)
        store = cls(writer)
        try:
            await writer.execute(_prepare)
        except BaseException:
            writer.close()
            raise
        return store

    def close(self) -> None:
        """Commit what is waiting and close; blocks for the last commit."""
        self._writer.close()

    # --- jobs ---------------------------------------------------------------------------------

    async def add_job(self, record: JobRecord, audit: Audit) -> None:
        """Store a new job with its callback contacts and its first event."""

        def work(connection: Connection) -> None:
            connection.execute(
                insert(jobs),
                _row(record)
                | {
                    "description": audit.description,
                    "paths": json.dumps(asdict(audit.paths)),
                    "rsl": audit.rsl,
                    "client_address": audit.client_address,
                },
            )
            _add_contacts(connection, record.id, record.contacts)
            connection.execute(insert(events), _event_row(record, "accepted", None))

        await self._writer.execute(work)

    async def change(self, changes: Sequence[Change]) -> list[OutboxEntry]:
        """Store transitions of one job in order; returns the callbacks with their outbox ids."""

        def work(connection: Connection) -> list[OutboxEntry]:
            return [entry for change in changes for entry in _apply(connection, change)]

        return cast("list[OutboxEntry]", await self._writer.execute(work))

    async def set_contacts(self, job: str, registered: tuple[CallbackContact, ...]) -> None:
        """Replace the callback contacts of a job."""

        def work(connection: Connection) -> None:
            connection.execute(delete(contacts).where(contacts.c.job == job))
            _add_contacts(connection, job, registered)

        await self._writer.execute(work)

    async def set_description(self, job: str, description: str) -> None:
        """Replace a job's description (STDIO_UPDATE)."""

        def work(connection: Connection) -> None:
            connection.execute(update(jobs).where(jobs.c.id == job).values(description=description))

        await self._writer.execute(work)

    async def audit(self, job: str) -> Audit:
        """The parts of a job that are not kept in memory; raises StoreError when unknown."""

        def work(connection: Connection) -> Audit:
            columns = (jobs.c.description, jobs.c.paths, jobs.c.rsl, jobs.c.client_address)
            row = connection.execute(select(*columns).where(jobs.c.id == job)).one_or_none()
            if row is None:
                raise StoreError(f"job {job} is not in the database")
            return Audit(row[0], JobPaths(**json.loads(row[1])), row[2], row[3])

        return cast("Audit", await self._writer.execute(work))

    async def living_jobs(self) -> list[JobRecord]:
        """All jobs that are not finished, with their contacts, oldest first."""

        def work(connection: Connection) -> list[JobRecord]:
            alive = select(jobs).where(jobs.c.phase != Phase.FINISHED).order_by(jobs.c.created)
            records = [_record(row) for row in connection.execute(alive)]
            registered: dict[str, list[CallbackContact]] = {}
            for row in connection.execute(select(contacts)):
                registered.setdefault(row.job, []).append(CallbackContact(row.url, row.mask))
            return [
                replace(record, contacts=tuple(registered.get(record.id, ()))) for record in records
            ]

        return cast("list[JobRecord]", await self._writer.execute(work))

    async def find(self, job: str) -> JobRecord | None:
        """A job by id, finished or not, without its contacts."""

        def work(connection: Connection) -> JobRecord | None:
            row = connection.execute(select(jobs).where(jobs.c.id == job)).one_or_none()
            return None if row is None else _record(row)

        return cast("JobRecord | None", await self._writer.execute(work))

    async def events(self, job: str) -> list[tuple[int, float, str, str, int]]:
        """A job's event log: (sequence, time, event, phase, state), oldest first."""

        def work(connection: Connection) -> list[tuple[int, float, str, str, int]]:
            columns = (
                events.c.sequence,
                events.c.time,
                events.c.event,
                events.c.phase,
                events.c.state,
            )
            query = select(*columns).where(events.c.job == job).order_by(events.c.sequence)
            return [(row[0], row[1], row[2], row[3], row[4]) for row in connection.execute(query)]

        return cast("list[tuple[int, float, str, str, int]]", await self._writer.execute(work))

    async def purge(self, before: float) -> int:
        """Forget finished jobs last changed before that time; returns how many."""

        def work(connection: Connection) -> int:
            old = delete(jobs).where(jobs.c.phase == Phase.FINISHED, jobs.c.updated < before)
            return connection.execute(old).rowcount

        return cast("int", await self._writer.execute(work))

    # --- outbox -------------------------------------------------------------------------------

    async def undelivered(self) -> list[OutboxEntry]:
        """Callbacks that were never marked as delivered, in order."""

        def work(connection: Connection) -> list[OutboxEntry]:
            return [
                _outbox_entry(row)
                for row in connection.execute(select(outbox).order_by(outbox.c.id))
            ]

        return cast("list[OutboxEntry]", await self._writer.execute(work))

    async def delivered(self, ids: Iterable[int]) -> None:
        """Mark callbacks as delivered or given up: they leave the outbox."""
        keys = list(ids)

        def work(connection: Connection) -> None:
            connection.execute(delete(outbox).where(outbox.c.id.in_(keys)))

        await self._writer.execute(work)

    # --- ports --------------------------------------------------------------------------------

    async def ports(self) -> dict[str, int]:
        """The listener port of every identity that ever had one."""

        def work(connection: Connection) -> dict[str, int]:
            return {row.identity: row.port for row in connection.execute(select(identities))}

        return cast("dict[str, int]", await self._writer.execute(work))

    async def set_port(self, identity: str, port: int) -> None:
        """Remember the listener port of an identity."""

        def work(connection: Connection) -> None:
            connection.execute(delete(identities).where(identities.c.identity == identity))
            connection.execute(insert(identities), {"identity": identity, "port": port})

        await self._writer.execute(work)


def _private_file(path: Path) -> None:
    """SQLite creates its files with the umask; ours hold names and command lines: 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _prepare(connection: Connection) -> None:
    metadata.create_all(connection)
    stored = connection.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar()
    if stored is None:
        connection.execute(insert(meta), {"name": "schema", "value": str(SCHEMA_VERSION)})
    elif stored != str(SCHEMA_VERSION):
        raise StoreError(
            f"the job database has schema {stored}, this program needs {SCHEMA_VERSION}"
        )


def _row(record: JobRecord) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in _PLAIN}
    row["phase"] = record.phase.value
    row["state"] = int(record.state)
    row["failure"] = None if record.failure is None else json.dumps(asdict(record.failure))
    return row


def _record(row: Row[Any]) -> JobRecord:
    plain = {name: getattr(row, name) for name in _PLAIN}
    return JobRecord(
        phase=Phase(row.phase),
        state=JobState(row.state),
        failure=None if row.failure is None else Failure(**json.loads(row.failure)),
        **plain,
    )


def _event_row(record: JobRecord, event: str, detail: str | None) -> dict[str, Any]:
    return {
        "job": record.id,
        "sequence": record.sequence,
        "time": record.updated,
        "event": event,
        "phase": record.phase.value,
        "state": int(record.state),
        "detail": detail,
    }


def _apply(connection: Connection, change: Change) -> list[OutboxEntry]:
    row = _row(change.record)
    values = {f"new_{name}": row[name] for name in _MUTABLE} | {"key": change.record.id}
    connection.execute(_UPDATE_JOB, values)
    if change.usage is not None:
        connection.execute(
            update(jobs).where(jobs.c.id == change.record.id).values(usage=change.usage)
        )
    if change.event is not None:
        connection.execute(insert(events), _event_row(change.record, change.event, change.detail))
    return [_add_callback(connection, entry, change.record.updated) for entry in change.callbacks]


def _add_callback(connection: Connection, entry: OutboxEntry, now: float) -> OutboxEntry:
    result = connection.execute(
        insert(outbox),
        {
            "job": entry.job,
            "url": entry.url,
            "owner": entry.owner,
            "contact": entry.contact,
            "state": int(entry.state),
            "failure_code": entry.failure_code,
            "failure": None if entry.failure is None else json.dumps(asdict(entry.failure)),
            "exit_code": entry.exit_code,
            "created": now,
        },
    )
    key = result.inserted_primary_key
    return replace(entry, id=int(key[0]) if key else 0)


def _outbox_entry(row: Row[Any]) -> OutboxEntry:
    return OutboxEntry(
        id=row.id,
        job=row.job,
        url=row.url,
        owner=row.owner,
        contact=row.contact,
        state=JobState(row.state),
        failure_code=row.failure_code,
        failure=None if row.failure is None else Failure(**json.loads(row.failure)),
        exit_code=row.exit_code,
    )


def _add_contacts(connection: Connection, job: str, registered: Sequence[CallbackContact]) -> None:
    if registered:
        connection.execute(
            insert(contacts), [{"job": job, "url": c.url, "mask": c.mask} for c in registered]
        )
