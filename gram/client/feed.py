"""What is known of one job, in order, for any number of readers."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from gram.client.models import JobEvent, JobStatus

MAX_EVENTS: Final = 1000
"""Events of one job that are kept; older ones are dropped."""


class JobFeed:
    """The events of a job.  Repetitions, and whatever follows the final one, are left out."""

    def __init__(self) -> None:
        self._events: deque[JobEvent] = deque(maxlen=MAX_EVENTS)
        self._count = 0
        self._arrival = asyncio.Event()

    @property
    def final(self) -> JobStatus | None:
        """How the job ended; None while it has not."""
        status = self._events[-1].status if self._events else None
        return status if status is not None and status.ended else None

    @property
    def count(self) -> int:
        """How many events there have been."""
        return self._count

    def post(self, event: JobEvent) -> None:
        """Add an event, unless it repeats the last one or the job has ended already."""
        if self.final is not None or (self._events and self._events[-1].status == event.status):
            return
        self._events.append(event)
        self._count += 1
        self._arrival.set()
        self._arrival = asyncio.Event()

    def since(self, position: int) -> tuple[JobEvent, ...]:
        """Return the events from number `position` (counted from 0) that are still kept."""
        first = self._count - len(self._events)
        return tuple(self._events)[max(position - first, 0) :]

    async def beyond(self, position: int, timeout: float) -> bool:
        """Wait until there are more than `position` events; False when time is over first."""
        try:
            async with asyncio.timeout(timeout):
                while self._count <= position:
                    await self._arrival.wait()
        except TimeoutError:
            return False
        return True
