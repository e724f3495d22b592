"""One job manager per job: takes events, follows the table, stores, then acts.

A manager holds the job's record and, while there is work, one task. Events from outside (client,
LRM, timers) go into its inbox; the task takes the ones the table allows in the present phase, else
it carries out the phase's effect, whose result is the next event. When neither is possible the task
ends and the job waits without costing anything.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from jobmanager.records import CallbackContact, Failure, JobRecord
from jobmanager.states import (
    ENDED,
    QUIET,
    TRANSITIONS,
    WORKING,
    Event,
    Phase,
    follow,
)
from jobmanager.store import Change, OutboxEntry, StoreError
from protocol.errors import GramError
from protocol.tables import ErrorCode, JobState

if TYPE_CHECKING:
    from jobmanager.service import JobService

log = structlog.get_logger("jobmanager")

EXPIRATION = 14400.0
"""Seconds a finished job waits for a late COMMIT_END (job-manager.md §2.4)."""
STORE_RETRY = 1.0
"""Seconds until a transition that the database refused (disk full, say) is tried again."""


Reached = Callable[[JobRecord], bool]


@dataclass(frozen=True, slots=True)
class Happening:
    """An event with what came along with it."""

    event: Event
    failure_code: int = 0
    failure: Failure | None = None
    exit_code: int | None = None
    lrm_id: str | None = None
    detail: str | None = None
    usage: str | None = None

    @classmethod
    def error(cls, error: GramError, failure: Failure | None = None) -> "Happening":
        """The ERROR event for an exception."""
        return cls(
            Event.ERROR,
            failure_code=int(error.code),
            failure=failure or Failure(message=error.message),
            detail=error.message,
        )


class JobManager:
    """Drives one job; see the module's text."""

    __slots__ = (
        "_effect",
        "_inbox",
        "_pending",
        "_service",
        "_task",
        "_timer",
        "_waiters",
        "record",
        "recovered",
    )

    def __init__(
        self, service: "JobService", record: JobRecord, *, recovered: bool = False
    ) -> None:
        self.record = record
        self.recovered = recovered
        self._service = service
        self._task: asyncio.Task[None] | None = None
        self._effect: asyncio.Future[Happening | None] | None = None
        self._inbox: deque[Happening] | None = None
        self._pending: list[Change] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[tuple[Reached, asyncio.Future[JobRecord]]] | None = None

    # --- from outside -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on after a restart."""
        self._arm()
        self.wake()

    def post(self, happening: Happening) -> None:
        """Something happened to the job. Events that its phase no longer knows are dropped."""
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(happening)
        phase = self.record.phase
        # A submission is never interrupted: whether it was carried out would be unknown.
        interrupt = phase is not Phase.SUBMIT and happening.event in TRANSITIONS[phase]
        if interrupt and self._effect is not None:
            self._effect.cancel()
        self.wake()

    def wake(self) -> None:
        """Look again whether there is something to do."""
        if self._task is None and not self._service.closing:
            self._task = asyncio.create_task(self._run(), name=f"job {self.record.id}")

    async def settle(self, reached: Reached) -> JobRecord:
        """Wait until a record satisfies `reached` (or the job is finished); returns that record.

        It is asked after every transition, so that no state is missed however short it is.
        """
        if self._satisfies(reached):
            return self.record
        waiter: asyncio.Future[JobRecord] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append((reached, waiter))
        return await waiter

    async def amend(self, **changes: object) -> None:
        """Change fields of the record that are no transition (stop flag, commit extension)."""
        # The record first, the store after: a transition in between must build on this.
        self.record = replace(self.record, updated=time.time(), **changes)  # type: ignore[arg-type]  # field names are checked by dataclasses
        self._arm()
        await self._service.store.change([Change(self.record, None)])

    async def set_contacts(self, contacts: tuple[CallbackContact, ...]) -> None:
        """Replace the callback contacts."""
        self.record = replace(self.record, contacts=contacts)
        await self._service.store.set_contacts(self.record.id, contacts)

    async def announce_stop(self, code: ErrorCode) -> None:
        """Mark the job as no longer supervised and call back FAILED with `code` (signal 9)."""
        record = self.record = replace(self.record, stopped=True, updated=time.time())
        told = replace(record, state=JobState.FAILED, failure_code=int(code), failure=None)
        entries = _callbacks(told, mask_state=record.state)
        sent = await self._service.store.change([Change(record, None, entries)])
        self._service.callbacks.send(sent)

    async def stop(self) -> None:
        """Leave the job as it is (the service ends); the store has everything."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- the loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while (happening := await self._next()) is not None:
                await self._take(happening)
        finally:
            self._task = None
            self._notify()
        if self._inbox:  # came in while the loop was ending
            self.wake()
        elif self.record.phase is Phase.FINISHED:
            self._service.forget(self)

    async def _next(self) -> Happening | None:
        row = TRANSITIONS[self.record.phase]
        for happening in self._inbox or ():
            if happening.event in row and self._inbox is not None:
                self._inbox.remove(happening)
                return happening
        if self.record.phase in WORKING:
            found = await self._perform()
            if found is not None:
                return found
            if any(happening.event in row for happening in self._inbox or ()):
                return await self._next()
        self._inbox = None  # what is left belongs to a phase that is over
        await self._flush()
        return None

    async def _perform(self) -> Happening | None:
        self._effect = asyncio.ensure_future(self._service.effects.perform(self))
        try:
            return await self._effect
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._effect.cancel()
                await asyncio.gather(self._effect, return_exceptions=True)
                raise
            return None  # an event interrupted the effect: it is in the inbox
        finally:
            self._effect = None

    async def _take(self, happening: Happening) -> None:
        before = self.record
        step = follow(before.phase, happening.event)
        refused = happening.event is Event.CANCEL_REFUSED  # it goes on as if nobody had asked
        now = time.time()
        record = replace(
            before,
            phase=step.phase,
            state=before.state if step.state is None else step.state,
            sequence=before.sequence + 1,
            updated=now,
            failure_code=0 if refused else happening.failure_code or before.failure_code,
            failure=None if refused else happening.failure or before.failure,
            exit_code=before.exit_code if happening.exit_code is None else happening.exit_code,
            lrm_id=happening.lrm_id or before.lrm_id,
            deadline=_deadline(before, step.phase, happening.event, now),
            parked=before.parked or happening.event is Event.PARKED,
        )
        changed = record.state != before.state
        callbacks = _callbacks(record) if changed and not record.stopped else ()
        change = Change(record, happening.event, callbacks, happening.detail, happening.usage)
        if self._pending is None:
            self._pending = []
        self._pending.append(change)
        self.record = record
        if happening.event not in QUIET:
            await self._flush()
        self._service.observe_transition(before, record)
        self._arm()
        if changed:
            log.info(
                "job.state",
                job=record.id,
                state=record.state.name,
                event_name=happening.event.value,
                failure_code=record.failure_code,
            )
        self._notify()

    async def _flush(self) -> None:
        """Store the transitions that are not stored yet, then send the callbacks they cause."""
        while self._pending:
            # The newest record, should it have been amended after the last transition.
            self._pending[-1] = replace(self._pending[-1], record=self.record)
            try:
                sent = await self._service.store.change(self._pending)
            except StoreError as error:
                log.error("job.store-failed", job=self.record.id, reason=str(error))
                await asyncio.sleep(STORE_RETRY)
                continue
            self._pending = None
            self._service.callbacks.send(sent)

    # --- timers -------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.record.deadline is not None:
            delay = max(0.0, self.record.deadline - time.time())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self._service.expired, self)

    async def deadline_passed(self) -> None:
        """A commit time-out fired (job-manager.md §2.4)."""
        record = self.record
        if record.deadline is None or record.deadline > time.time() + 0.05:
            self._arm()  # the clock was put back
            return
        if record.extension:
            await self.amend(deadline=time.time() + record.extension, extension=0)
        elif record.phase is Phase.UNCOMMITTED:
            text = f"no commit came within {record.two_phase} seconds"
            code = int(ErrorCode.COMMIT_TIMED_OUT)
            self.post(Happening(Event.COMMIT_TIMED_OUT, code, Failure(message=text)))
        elif record.phase in ENDED:
            wait = record.contacts and not record.parked
            timed_out = record.failure_code == ErrorCode.COMMIT_TIMED_OUT
            parked = bool(wait) and not timed_out
            self.post(Happening(Event.PARKED if parked else Event.COMMIT_ENDED))

    def _notify(self) -> None:
        left = []
        for reached, waiter in self._waiters or ():
            if not waiter.done() and self._satisfies(reached):
                waiter.set_result(self.record)
            elif not waiter.done():
                left.append((reached, waiter))
        self._waiters = left or None

    def _satisfies(self, reached: Reached) -> bool:
        return reached(self.record) or self.record.phase is Phase.FINISHED


def _deadline(record: JobRecord, phase: Phase, event: Event, now: float) -> float | None:
    if phase not in ENDED:
        return None
    if event is Event.PARKED or (record.stopped and not record.two_phase):
        return now + EXPIRATION
    return now + record.two_phase if record.two_phase else None


def _callbacks(record: JobRecord, *, mask_state: JobState | None = None) -> tuple[OutboxEntry, ...]:
    """What is to be told to whom (wire-protocol.md §7.5); never UNSUBMITTED."""
    shown = record.state if mask_state is None else mask_state
    if record.state is JobState.UNSUBMITTED:
        return ()
    failed = record.state is JobState.FAILED
    return tuple(
        OutboxEntry(
            id=0,
            job=record.id,
            url=contact.url,
            owner=record.owner,
            contact=record.contact,
            state=record.state,
            failure_code=record.failure_code if failed else 0,
            failure=record.failure if failed else None,
            exit_code=record.exit_code if record.state is JobState.DONE else None,
        )
        for contact in record.contacts
        if contact.mask & shown
    )
