"""An LRM whose every call is timed: the one place where operations are counted."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from jobmanager.lrm.base import LRM, LRMError, Observation, Submission
from jobmanager.records import JobRecord

T = TypeVar("T")


class Observe(Protocol):
    """Told the LRM's name, the operation, the seconds it took and whether it failed."""

    def __call__(self, lrm: str, operation: str, seconds: float, *, failed: bool) -> None:
        """Count one call."""


class MeasuredLRM:
    """Passes everything on to an adapter."""

    def __init__(self, lrm: LRM, observe: Observe) -> None:
        self.name = lrm.name
        self._lrm = lrm
        self._observe = observe

    @property
    def on_observation(self) -> Callable[[str, Observation], None]:
        """Who the adapter tells."""
        return self._lrm.on_observation

    @on_observation.setter
    def on_observation(self, listener: Callable[[str, Observation], None]) -> None:
        self._lrm.on_observation = listener

    async def submit(self, submission: Submission) -> Observation:
        """As LRM.submit."""
        return await self._measure("submit", self._lrm.submit(submission))

    async def find(self, records: Sequence[JobRecord]) -> list[Observation]:
        """As LRM.find."""
        return await self._measure("find", self._lrm.find(records))

    async def cancel(self, record: JobRecord) -> None:
        """As LRM.cancel."""
        await self._measure("cancel", self._lrm.cancel(record))

    async def suspend(self, record: JobRecord) -> None:
        """As LRM.suspend."""
        await self._measure("suspend", self._lrm.suspend(record))

    async def resume(self, record: JobRecord) -> None:
        """As LRM.resume."""
        await self._measure("resume", self._lrm.resume(record))

    async def forget(self, record: JobRecord) -> None:
        """As LRM.forget."""
        await self._measure("forget", self._lrm.forget(record))

    async def _measure(self, operation: str, call: Awaitable[T]) -> T:
        started = time.perf_counter()
        failed = False
        try:
            return await call
        except LRMError:
            failed = True
            raise
        finally:
            self._observe(self.name, operation, time.perf_counter() - started, failed=failed)
