"""What phases do: repeated without harm, and no trouble of ours fails a job."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager import effects as module
from jobmanager.effects import delivers_output, needs_stage_in, observed
from jobmanager.lrm.base import LRMError, LRMUnavailableError, Observation, Observed
from jobmanager.states import Event, Phase
from jobmanager.store import Audit, StoreError
from protocol.errors import GramError
from protocol.tables import ErrorCode, JobState
from tests.support.core import World, ended, reach, until

STREAMING = "&(executable=/bin/true)(stdout=https://client:1/out)"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.001)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_a_refused_submission_fails_with_the_adapters_code(world: World) -> None:
    world.lrm.fails["submit"] = [LRMError(ErrorCode.BAD_DIRECTORY, "chdir: no such directory")]
    record = await ended(world, await world.job())
    assert (record.state, record.failure_code) == (JobState.FAILED, ErrorCode.BAD_DIRECTORY)
    assert record.failure is not None
    assert record.failure.message == "chdir: no such directory"


async def test_a_submission_of_unknown_outcome_is_looked_for(world: World) -> None:
    submit = world.lrm.submit

    async def lost(submission: object) -> Observation:
        await submit(submission)  # type: ignore[arg-type]  # passed on
        world.lrm.submit = submit  # type: ignore[method-assign]  # as before
        raise LRMUnavailableError("the answer was lost")

    world.lrm.submit = lost  # type: ignore[method-assign]  # once
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    assert list(world.lrm.submissions.values()) == [1]


async def test_an_lrm_that_is_away_is_waited_for(world: World) -> None:
    away = LRMUnavailableError("away")
    world.lrm.fails = {"submit": [away, away], "find": [away]}
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    assert list(world.lrm.submissions.values()) == [1]


async def test_a_database_that_cannot_be_read_delays_a_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, failures = world.store.audit, 3

    async def failing(job: str) -> Audit:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("not now")
        return await audit(job)

    monkeypatch.setattr(world.store, "audit", failing)
    job = await world.place(Phase.STAGE_IN, JobState.UNSUBMITTED)
    world.service._details.clear()
    job.start()
    await reach(job, Phase.ACTIVE)
    assert failures == 0


@pytest.mark.parametrize("error", [LRMError(ErrorCode.NO_RESOURCES, "busy"), None])
async def test_cleaning_up_always_ends(world: World, error: Exception | None) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    if error is not None:
        world.lrm.fails["forget"] = [error]
    world.agent.fails["clean_up"] = [GramError(ErrorCode.NO_RESOURCES, "no agent")]
    world.lrm.end(job.record.container)
    assert (await ended(world, job)).state is JobState.DONE


async def test_output_that_cannot_be_streamed_does_not_fail_a_running_job(world: World) -> None:
    world.agent.fails["stream"] = [GramError(ErrorCode.NO_RESOURCES, "no agent")]
    job = await world.job(STREAMING)
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container)
    assert (await ended(world, job)).state is JobState.DONE
    assert "finish_output" in world.agent.calls


async def test_streaming_goes_on_after_a_restart(world: World) -> None:
    job = await world.job(STREAMING)
    await until(lambda: "stream" in world.agent.calls and job.record.phase is Phase.ACTIVE)
    await world.kill()
    world.agent.calls.clear()
    await world.start()
    assert world.agent.calls == ["stream"]


async def test_a_failed_delivery_fails_the_job(world: World) -> None:
    world.agent.fails["finish_output"] = [GramError(ErrorCode.OPENING_STDOUT, "no listener")]
    job = await world.job(STREAMING)
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container)
    record = await ended(world, job)
    assert (record.state, record.failure_code) == (JobState.FAILED, 73)


async def test_what_the_lrm_ended_fails_after_its_output_was_delivered(world: World) -> None:
    job = await world.job(STREAMING)
    await reach(job, Phase.ACTIVE)
    limit = Observation(
        Observed.ENDED, exit_code=137, failure_code=ErrorCode.SYSTEM_CANCELLED, reason="too long"
    )
    world.lrm.tell(job.record.container, limit)
    record = await ended(world, job)
    assert (record.state, record.failure_code) == (JobState.FAILED, ErrorCode.SYSTEM_CANCELLED)
    assert "finish_output" in world.agent.calls
    await until(lambda: len(world.heard) == 2)
    assert world.heard[-1].failure is not None
    assert world.heard[-1].failure.message == "too long"


async def test_the_same_end_told_twice_is_one_end(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    for _ in range(3):
        world.lrm.end(job.record.container)
    await ended(world, job)
    await asyncio.sleep(0)
    log = [row[2] for row in await world.store.events(job.record.id)]
    assert log.count("ended") == 1


@pytest.mark.parametrize(
    ("state", "event", "code"),
    [
        (Observed.ENDED, Event.ENDED, 0),
        (Observed.ACTIVE, Event.STARTED, 0),
        (Observed.SUSPENDED, Event.SUSPENDED, 0),
        (Observed.LOST, Event.ERROR, ErrorCode.SYSTEM_CANCELLED),
        (Observed.ABSENT, Event.ERROR, ErrorCode.SYSTEM_CANCELLED),
    ],
)
def test_what_observations_mean(state: Observed, event: Event, code: int) -> None:
    happening = observed(Observation(state))
    assert (happening.event, happening.failure_code) == (event, code)


@pytest.mark.parametrize(
    ("rsl", "stages", "delivers"),
    [
        ("&(executable=/bin/true)", False, False),
        ("&(executable=https://h/x)", True, False),
        ("&(executable=/bin/true)(stdin=gsiftp://h/x)", True, False),
        ("&(executable=/bin/true)(file_stage_in=(https://h/a b))", True, False),
        ("&(executable=/bin/true)(file_stage_in_shared=(https://h/a b))", True, False),
        ("&(executable=/bin/true)(stderr=https://h/e)", False, True),
        ("&(executable=/bin/true)(stdout=/tmp/x)", False, False),
    ],
)
async def test_what_there_is_to_move(world: World, rsl: str, stages: bool, delivers: bool) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE, rsl)
    description, _ = await world.service.details(job.record.id)
    assert (needs_stage_in(description), delivers_output(description)) == (stages, delivers)
