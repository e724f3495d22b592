"""The events of one job."""

import asyncio

from gram.client.feed import MAX_EVENTS, JobFeed
from gram.client.models import JobEvent, JobStatus
from protocol.tables import JobState


def event(state: JobState | None) -> JobEvent:
    return JobEvent("https://h:1/2/", JobStatus(state))


def states(feed: JobFeed) -> list[str]:
    return [item.status.name for item in feed.since(0)]


async def test_repetitions_and_late_events_are_left_out() -> None:
    feed = JobFeed()
    for state in (JobState.PENDING, JobState.PENDING, JobState.ACTIVE, JobState.DONE, None):
        feed.post(event(state))
    assert states(feed) == ["PENDING", "ACTIVE", "DONE"]
    assert feed.final == JobStatus(JobState.DONE)


async def test_waiting_for_more() -> None:
    feed = JobFeed()
    waiting = asyncio.create_task(feed.beyond(0, 10))
    await asyncio.sleep(0)
    feed.post(event(JobState.ACTIVE))
    assert await waiting
    assert not await feed.beyond(1, 0.01)


async def test_old_events_are_dropped_and_numbers_stay() -> None:
    feed = JobFeed()
    for _ in range(MAX_EVENTS):
        feed.post(event(JobState.ACTIVE))
        feed.post(event(JobState.SUSPENDED))
    assert feed.count == 2 * MAX_EVENTS
    assert len(feed.since(0)) == MAX_EVENTS
    assert len(feed.since(2 * MAX_EVENTS - 3)) == 3
    assert feed.since(2 * MAX_EVENTS) == ()
