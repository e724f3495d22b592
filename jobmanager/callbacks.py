"""Sends state callbacks from the outbox: persisted before, marked after (wire-protocol.md §5.9).

Callbacks of one job to one listener go out in order, one connection each, with the job owner's
delegated credential, and only to a listener of the same identity. A listener that fails is tried
again a few times, then given up for that job; nothing here ever affects a job.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import structlog

from jobmanager.credentials import CredentialStore
from jobmanager.records import Failure
from jobmanager.store import OutboxEntry, Store, StoreError
from protocol.aio.exchange import read_message
from protocol.connection import Connection, Role
from protocol.errors import GramError, RemoteProtocolError
from protocol.messages import Callback, Extensions
from protocol.tables import ErrorCode

log = structlog.get_logger("jobmanager")

RETRY_DELAYS = (0.5, 2.0, 8.0)
TIMEOUT = 15.0
MARK_DELAY = 0.05
"""Seconds in which delivered callbacks are collected to be marked in one transaction."""
MAX_SENDING = 32
MAX_PER_LISTENER = 8
MAX_PER_OWNER = 24
"""Callbacks on their way at once: in all, to one URL, of one identity."""
MAX_LISTENERS = 10_000

Observe = Callable[[str, float], None]
"""Told "delivered", "retried" or "dropped", and the seconds the attempt took."""


class CallbackSender:
    """Delivers outbox entries; `send` never blocks."""

    def __init__(
        self, store: Store, credentials: CredentialStore, version: Extensions, observe: Observe
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._version = version
        self._observe = observe
        self._queues: dict[tuple[str, str], deque[OutboxEntry]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._given_up: set[tuple[str, str]] = set()
        self._marked: list[int] = []
        self._marking: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(MAX_SENDING)
        self._listeners: dict[str, asyncio.Semaphore] = {}
        self._owners: dict[str, asyncio.Semaphore] = {}

    @property
    def waiting(self) -> int:
        """Callbacks that are not delivered yet."""
        return sum(len(queue) for queue in self._queues.values())

    def send(self, entries: list[OutboxEntry]) -> None:
        """Queue entries for delivery, in this order."""
        for entry in entries:
            key = (entry.job, entry.url)
            self._queues.setdefault(key, deque()).append(entry)
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._drain(key))

    def forget(self, job: str, url: str) -> None:
        """The contact was unregistered: what is still queued for it is dropped."""
        queue = self._queues.get((job, url))
        while queue and len(queue) > 1:  # the first may be on its way
            self._mark(queue.pop())

    async def aclose(self) -> None:
        """Stop sending; what is not delivered stays in the outbox for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._marking is not None:
            await self._marking

    async def _drain(self, key: tuple[str, str]) -> None:
        queue = self._queues[key]
        try:
            while queue:
                await self._deliver(key, queue[0])
                self._mark(queue.popleft())
        finally:
            del self._tasks[key]
            if not queue:
                del self._queues[key]
                self._given_up.discard(key)

    def _mark(self, entry: OutboxEntry) -> None:
        """Take an entry out of the outbox, soon and together with others.

        After a crash in between it is delivered once more, which clients must expect anyway.
        """
        self._marked.append(entry.id)
        if self._marking is None:
            self._marking = asyncio.create_task(self._write_marks())

    async def _write_marks(self) -> None:
        await asyncio.sleep(MARK_DELAY)
        marked, self._marked, self._marking = self._marked, [], None
        with suppress(StoreError):
            await self._store.delivered(marked)

    async def _deliver(self, key: tuple[str, str], entry: OutboxEntry) -> None:
        delays = () if key in self._given_up else RETRY_DELAYS
        for delay in (*delays, None):
            started = time.perf_counter()
            try:
                # From narrow to wide: who waits for a slow listener must not use up the others.
                async with self._of_listener(entry), self._of_owner(entry), self._slots:
                    async with asyncio.timeout(TIMEOUT):
                        await self._post(entry)
            except (GramError, OSError, TimeoutError, ValueError) as error:
                reason = str(error) or type(error).__name__
            else:
                self._observe("delivered", time.perf_counter() - started)
                return
            self._observe("dropped" if delay is None else "retried", time.perf_counter() - started)
            log.info("callback.failed", job=entry.job, url=entry.url, reason=reason)
            if delay is not None:
                await asyncio.sleep(delay)
        self._given_up.add(key)

    def _of_owner(self, entry: OutboxEntry) -> asyncio.Semaphore:
        return self._owners.setdefault(entry.owner, asyncio.Semaphore(MAX_PER_OWNER))

    def _of_listener(self, entry: OutboxEntry) -> asyncio.Semaphore:
        if len(self._listeners) > MAX_LISTENERS:  # what is full must stay, others start anew
            self._listeners = {u: s for u, s in self._listeners.items() if s.locked()}
        return self._listeners.setdefault(entry.url, asyncio.Semaphore(MAX_PER_LISTENER))

    async def _post(self, entry: OutboxEntry) -> None:
        held = self._credentials.get(entry.owner)
        if held is None:
            raise GramError(ErrorCode.AUTHORIZATION, "no delegated credential for this identity")
        parts = urlsplit(entry.url)
        if parts.scheme != "https" or not parts.hostname or parts.port is None:
            raise GramError(ErrorCode.INSERTING_CLIENT_CONTACT, "not a callback URL")
        stream = await held.connector.connect(
            parts.hostname, parts.port, gatekeeper=False, timeout=TIMEOUT
        )
        try:
            if stream.peer is None or stream.peer.identity != entry.owner:
                raise GramError(ErrorCode.AUTHORIZATION, "the listener has another identity")
            connection = Connection(
                Role.CALLBACK_SENDER, host=parts.hostname, path=parts.path or "/"
            )
            await stream.send(connection.send(self._message(entry)))
            with suppress(RemoteProtocolError):  # what it answers does not matter (§5.9)
                await read_message(stream, connection)
        finally:
            await stream.aclose()

    def _message(self, entry: OutboxEntry) -> Callback:
        return Callback(
            contact=entry.contact,
            state=int(entry.state),
            failure_code=entry.failure_code,
            extensions=extensions(self._version, entry.failure, entry.exit_code),
        )


def extensions(version: Extensions, failure: Failure | None, exit_code: int | None) -> Extensions:
    """The extension attributes of a reply or callback (wire-protocol.md §5.10)."""
    failure = failure or Failure()
    return Extensions(
        version=version.version,
        toolkit_version=version.toolkit_version,
        exit_code=exit_code,
        failure_message=failure.message or None,
        failure_type=failure.type or None,
        failure_source=failure.source or None,
        failure_destination=failure.destination or None,
    )
