"""Slots: how many jobs of a service may be with the LRM at once; the others wait in order."""


class SlotQueue:
    """First come, first served. `limit` None means no limit.

    A slot is handed directly to the job that waits longest, so nobody can overtake it between
    the release and its next try.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._holding: set[str] = set()
        self._waiting: dict[str, None] = {}

    @property
    def running(self) -> int:
        """How many jobs hold a slot."""
        return len(self._holding)

    @property
    def waiting(self) -> int:
        """How many jobs wait for one."""
        return len(self._waiting)

    def take(self, job: str) -> bool:
        """Try to get a slot; when there is none the job is queued. Repeating is harmless."""
        if job in self._holding:
            return True
        if self.limit is not None and len(self._holding) >= self.limit:
            self._waiting.setdefault(job)
            return False
        self._holding.add(job)
        return True

    def hold(self, job: str) -> None:
        """A job that is with the LRM already (after a restart) has a slot, limit or not."""
        self._waiting.pop(job, None)
        self._holding.add(job)

    def release(self, job: str) -> str | None:
        """Give up slot or place; returns the job that has the slot now and must be woken."""
        self._waiting.pop(job, None)
        if job not in self._holding:
            return None
        self._holding.discard(job)
        if not self._waiting or (self.limit is not None and len(self._holding) >= self.limit):
            return None
        heir = next(iter(self._waiting))
        del self._waiting[heir]
        self._holding.add(heir)
        return heir
