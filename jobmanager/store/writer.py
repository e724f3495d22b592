"""One thread that owns the database connection and commits in groups.

Callers hand in small functions; the thread takes all that are waiting, runs them in one
transaction, commits once (SQLite: WAL with full synchronisation) and then tells every caller. So
one fsync serves as many jobs as are waiting for it, and nobody else blocks on the disk.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

MAX_BATCH = 256

Work = Callable[[Connection], Any]
Observe = Callable[[int, float], None]
Trouble = Callable[[str | None], None]
"""Told what is wrong when the database begins to refuse, and None when it works again."""


class StoreError(Exception):
    """The database refused a change; nothing of that change was kept."""


def open_engine(url: str) -> Engine:
    """An engine with one connection; SQLite is put into WAL mode with full synchronisation.

    Error messages do not show values: those are names, command lines and environments of users.
    Raises StoreError when the URL is wrong or the database's driver is not installed.
    """
    sqlite = url.startswith("sqlite")
    kind: dict[str, Any] = (
        {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        if sqlite
        else {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}
    )
    try:
        engine = create_engine(url, hide_parameters=True, **kind)
    except (ImportError, SQLAlchemyError) as error:
        raise StoreError(f"the job database cannot be used: {error}") from error
    if sqlite:

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: object) -> None:  # noqa: ANN401  # DBAPI object
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.execute("PRAGMA busy_timeout=10000")
            cursor.close()

    return engine


@dataclass(frozen=True, slots=True)
class _Order:
    work: Work
    done: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class _Outcome:
    order: _Order
    result: object
    error: Exception | None = None


class Writer:
    """Runs work in the order it was given, grouped into transactions; for one event loop."""

    def __init__(
        self, engine: Engine, observe: Observe | None = None, *, trouble: Trouble | None = None
    ) -> None:
        self._engine = engine
        self._trouble = trouble
        self._troubled = False
        self._observe = observe
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def execute(self, work: Work) -> Any:  # noqa: ANN401  # the work's own result
        """Run `work` in a transaction; returns its result once that is committed.

        Raises StoreError when the database refuses. A cancelled caller does not undo the work.
        """
        order = _Order(work, self._loop.create_future())
        self._queue.put(order)
        try:
            result = await order.done
        except StoreError:
            self._report(True)
            raise
        self._report(False)
        return result

    def _report(self, troubled: bool) -> None:
        if self._trouble is not None and troubled is not self._troubled:
            self._troubled = troubled
            self._trouble("it refuses changes; see the log" if troubled else None)

    def close(self) -> None:
        """Finish what was handed in, then end the thread and close the database."""
        self._queue.put(None)
        self._thread.join()
        self._disconnect()
        self._engine.dispose()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            batch: list[_Order] = []
            order = self._queue.get()
            while order is not None:
                batch.append(order)
                if len(batch) >= MAX_BATCH or self._queue.empty():
                    break
                order = self._queue.get()
            stopping = order is None
            if batch:
                outcomes = self._commit(batch)
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(_tell, outcomes)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _commit(self, batch: list[_Order]) -> list[_Outcome]:
        started = time.perf_counter()
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                outcomes = [_Outcome(order, order.work(self._connection)) for order in batch]
        except Exception as error:  # noqa: BLE001  # whatever one work raised, its caller gets it
            self._disconnect()  # a connection that failed may be broken for good
            if len(batch) > 1:  # find the guilty one: each alone, in order
                return [outcome for order in batch for outcome in self._commit([order])]
            return [_Outcome(batch[0], None, _as_store_error(error))]
        if self._observe is not None:
            self._observe(len(batch), time.perf_counter() - started)
        return outcomes


def _tell(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        done = outcome.order.done
        if done.done():  # its caller was cancelled
            continue
        if outcome.error is not None:
            done.set_exception(outcome.error)
        else:
            done.set_result(outcome.result)


def _as_store_error(error: Exception) -> Exception:
    if isinstance(error, SQLAlchemyError):
        return StoreError(f"the job database refused a change: {error}")
    return error
