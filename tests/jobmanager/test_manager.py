"""One job's life: transitions, time-outs, cancelling, slots, and what must never be lost."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobmanager import manager as manager_module
from jobmanager.lrm.base import LRMError, LRMUnavailableError, Observation, Observed
from jobmanager.manager import Happening, JobManager
from jobmanager.states import TRANSITIONS, Event, Phase
from jobmanager.store import Change, OutboxEntry, StoreError
from protocol.errors import GramError
from protocol.messages import CancelQuery, SignalQuery, StatusQuery, UnregisterQuery
from protocol.tables import ErrorCode, JobState, Signal
from tests.support.core import LISTENER, SERVICE, World, ended, reach, until

TWO_PHASE = "&(executable=/bin/true)(two_phase=60)"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(manager_module, "time", made)
    monkeypatch.setattr("jobmanager.intake.time", made)
    return made


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def fire(job: JobManager, clock: Clock) -> None:
    """Let the job's present time-out pass."""
    assert job.record.deadline is not None
    clock.now = job.record.deadline
    await job.deadline_passed()
    await until(lambda: job._task is None)


# --- plain jobs -----------------------------------------------------------------------------------


async def test_a_plain_job_runs_to_its_end(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container, exit_code=3)
    record = await ended(world, job)
    assert (record.state, record.exit_code) == (JobState.DONE, 3)
    await until(lambda: len(world.heard) == 2)
    assert world.states() == [(JobState.ACTIVE, 0), (JobState.DONE, 0)]
    assert [entry.exit_code for entry in world.heard] == [None, 3]
    assert world.agent.directories == set()
    assert world.lrm.forgotten == [record.container]
    assert await world.store.living_jobs() == []
    assert set(world.observer.jobs.values()) == {0}


async def test_a_job_that_ends_before_its_submission_has_returned(world: World) -> None:
    world.lrm.gates["submit"] = asyncio.Event()
    job = await world.job()
    await until(lambda: job.record.phase is Phase.SUBMIT)
    world.lrm.on_observation(job.record.container, Observation(Observed.ENDED, exit_code=0))
    world.lrm.gates["submit"].set()
    assert (await ended(world, job)).state is JobState.DONE
    assert list(world.lrm.submissions.values()) == [1]


async def test_a_submission_is_not_interrupted(world: World) -> None:
    world.lrm.gates["submit"] = asyncio.Event()
    job = await world.job()
    await until(lambda: job.record.phase is Phase.SUBMIT)
    lost = Observation(Observed.LOST, reason="its shepherd was killed")
    world.lrm.on_observation(job.record.container, lost)
    await asyncio.sleep(0)
    world.lrm.gates["submit"].set()
    record = await ended(world, job)
    assert (record.state, record.lrm_id is None) == (JobState.FAILED, False)
    assert [row[2] for row in await world.store.events(record.id)][-4:] == [
        "started",
        "error",
        "commit-ended",
        "cleaned",
    ]


async def test_staging_is_shown_only_when_there_is_something_to_stage(world: World) -> None:
    rsl = "&(executable=/bin/true)(file_stage_in=(https://h/a b))(file_stage_out=(b https://h/c))"
    job = await world.job(rsl)
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container)
    await ended(world, job)
    await until(lambda: len(world.heard) == 4)
    shown = [state for state, _ in world.states()]
    assert shown == [JobState.STAGE_IN, JobState.ACTIVE, JobState.STAGE_OUT, JobState.DONE]


async def test_a_lost_reply_fails_the_job(world: World) -> None:
    submitted = await world.service.intake.submit(world.request())
    assert submitted.job is not None
    submitted.replied(delivered=False)
    record = await ended(world, submitted.job)
    assert (record.state, record.failure_code) == (JobState.FAILED, ErrorCode.PROTOCOL_FAILED)
    assert not world.lrm.submissions


async def test_a_change_the_database_refuses_is_made_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "STORE_RETRY", 0.001)
    real, refusals = world.store.change, 3

    async def change(changes: list[Change]) -> list[OutboxEntry]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise StoreError("the disk is full")
        return await real(changes)

    monkeypatch.setattr(world.store, "change", change)
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    assert refusals == 0
    world.lrm.end(job.record.container)
    await ended(world, job)
    await until(lambda: len(world.heard) == 2)
    assert list(world.lrm.submissions.values()) == [1]


# --- two-phase commit -----------------------------------------------------------------------------


async def test_nothing_runs_before_the_commit(world: World) -> None:
    submitted = await world.submit(TWO_PHASE)
    assert submitted.reply.status == ErrorCode.WAITING_FOR_COMMIT
    assert submitted.job is not None
    job = submitted.job
    await asyncio.sleep(0.01)
    assert (job.record.phase, world.agent.calls) == (Phase.UNCOMMITTED, ["create_job"])
    await world.ask(SignalQuery(job.record.path, Signal.COMMIT_REQUEST))
    await reach(job, Phase.ACTIVE)


async def test_no_commit_in_time_fails_the_job(world: World, clock: Clock) -> None:
    job = await world.job(TWO_PHASE)
    await fire(job, clock)
    assert job.record.phase is Phase.FAILED
    assert world.states() == [(JobState.FAILED, ErrorCode.COMMIT_TIMED_OUT)]
    await fire(job, clock)  # one time-out more, then it is forgotten
    await ended(world, job)
    assert not world.lrm.submissions


async def test_an_extension_is_used_when_the_time_is_over(world: World, clock: Clock) -> None:
    job = await world.job(TWO_PHASE)
    start = clock.now
    for seconds in ("30", "70"):
        await world.ask(SignalQuery(job.record.path, Signal.COMMIT_EXTEND, seconds))
    assert job.record.deadline == start + 60
    await fire(job, clock)
    assert (job.record.phase, job.record.deadline) == (Phase.UNCOMMITTED, start + 160)
    await fire(job, clock)
    assert job.record.phase is Phase.FAILED


async def test_no_extension_can_break_the_job(world: World) -> None:
    job = await world.job(TWO_PHASE)
    for _ in range(20):
        reply = await world.ask(SignalQuery(job.record.path, Signal.COMMIT_EXTEND, "9" * 18))
        assert reply.failure_code == 0
    await world.ask(SignalQuery(job.record.path, Signal.COMMIT_REQUEST))
    await reach(job, Phase.ACTIVE)


async def test_a_clock_that_goes_back_does_not_lose_the_time_out(
    world: World, clock: Clock
) -> None:
    job = await world.job(TWO_PHASE)
    clock.now -= 3600
    old = job._timer
    await job.deadline_passed()
    assert job._timer is not None
    assert job._timer is not old


async def finish_two_phase(world: World) -> JobManager:
    job = await world.job(TWO_PHASE)
    await world.ask(SignalQuery(job.record.path, Signal.COMMIT_REQUEST))
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container)
    await reach(job, Phase.DONE)
    await until(lambda: job._task is None)
    return job


async def test_an_end_without_commit_is_parked_and_expires(world: World, clock: Clock) -> None:
    job = await finish_two_phase(world)
    heard = len(world.heard)
    await fire(job, clock)
    assert (job.record.phase, job.record.parked) == (Phase.DONE, True)
    assert job.record.deadline == clock.now + manager_module.EXPIRATION
    assert (await world.ask(StatusQuery(job.record.path))).state == JobState.DONE
    await fire(job, clock)
    await ended(world, job)
    assert len(world.heard) == heard


async def test_a_parked_job_still_takes_its_commit_end(world: World, clock: Clock) -> None:
    job = await finish_two_phase(world)
    await fire(job, clock)
    reply = await world.ask(SignalQuery(job.record.path, Signal.COMMIT_END))
    assert (reply.state, reply.failure_code) == (JobState.DONE, 0)
    assert (await world.ask(StatusQuery(job.record.path))).failure_code == 156


async def test_without_listeners_the_end_is_not_parked(world: World, clock: Clock) -> None:
    job = await world.job(TWO_PHASE, callback_url="")
    await world.ask(SignalQuery(job.record.path, Signal.COMMIT_REQUEST))
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container)
    await reach(job, Phase.DONE)
    await fire(job, clock)
    await ended(world, job)


async def test_the_last_listener_that_leaves_commits_the_end(world: World) -> None:
    job = await finish_two_phase(world)
    reply = await world.ask(UnregisterQuery(job.record.path, LISTENER))
    assert (reply.state, reply.failure_code) == (JobState.DONE, 0)
    await ended(world, job)


async def test_a_cancelled_uncommitted_job_waits_for_its_commit_end(world: World) -> None:
    job = await world.job(TWO_PHASE)
    reply = await world.ask(CancelQuery(job.record.path))
    assert (reply.state, reply.job_failure_code) == (JobState.UNSUBMITTED, 0)
    await until(lambda: world.states() == [(JobState.FAILED, ErrorCode.USER_CANCELLED)])
    reply = await world.ask(SignalQuery(job.record.path, Signal.COMMIT_END))
    assert (reply.state, reply.job_failure_code) == (JobState.FAILED, ErrorCode.USER_CANCELLED)
    await ended(world, job)


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancelling_a_running_job(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    reply = await world.ask(CancelQuery(job.record.path))
    assert (reply.state, reply.failure_code, reply.job_failure_code) == (JobState.FAILED, 0, 8)
    await ended(world, job)
    await until(lambda: len(world.heard) == 2)
    assert world.states()[-1] == (JobState.FAILED, ErrorCode.USER_CANCELLED)
    assert world.lrm.cancelled == [job.record.container]
    assert "finish_output" not in world.agent.calls


async def test_a_refused_cancel_is_answered_and_forgotten(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    world.lrm.fails["cancel"] = [LRMError(ErrorCode.JOB_CANCEL_FAILED, "still there")]
    async with asyncio.timeout(10):
        reply = await world.ask(CancelQuery(job.record.path))
    assert (reply.failure_code, reply.job_failure_code) == (ErrorCode.JOB_CANCEL_FAILED, 0)
    world.lrm.end(job.record.container)
    record = await ended(world, job)
    assert (record.state, record.failure_code, record.failure) == (JobState.DONE, 0, None)


async def test_cancelling_while_staging_stops_it(world: World) -> None:
    world.agent.gates["stage_in"] = asyncio.Event()
    job = await world.job("&(executable=/bin/true)(file_stage_in=(https://h/a b))")
    await until(lambda: "stage_in" in world.agent.calls)
    reply = await world.ask(CancelQuery(job.record.path))
    assert (reply.state, reply.failure_code) == (JobState.STAGE_IN, 0)
    record = await ended(world, job)
    assert record.failure_code == ErrorCode.USER_CANCELLED
    assert not world.lrm.submissions


async def test_cancelling_during_the_submission_cancels_what_was_submitted(world: World) -> None:
    world.lrm.gates["submit"] = asyncio.Event()
    job = await world.job()
    await until(lambda: job.record.phase is Phase.SUBMIT)
    asked = asyncio.create_task(world.ask(CancelQuery(job.record.path)))
    await asyncio.sleep(0.01)
    world.lrm.gates["submit"].set()
    assert (await asked).job_failure_code == ErrorCode.USER_CANCELLED
    assert world.lrm.cancelled == [job.record.container]


async def test_suspend_and_resume_at_the_same_time_are_both_answered(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    path = job.record.path
    async with asyncio.timeout(10):
        await asyncio.gather(
            *(
                world.ask(SignalQuery(path, signal, "now"))
                for signal in (Signal.SUSPEND, Signal.RESUME) * 5
            )
        )
    assert job.record.phase in {Phase.ACTIVE, Phase.SUSPENDED}


async def test_a_short_state_is_not_missed(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    waiting = asyncio.create_task(reach(job, Phase.SUSPENDED))
    await asyncio.sleep(0)
    job.post(Happening(Event.SUSPENDED))
    job.post(Happening(Event.RESUMED))
    async with asyncio.timeout(10):
        assert (await waiting).phase is Phase.SUSPENDED


# --- slots ----------------------------------------------------------------------------------------


async def test_slots_are_given_in_order_and_come_back(tmp_path: Path) -> None:
    world = World(tmp_path, max_running=1)
    await world.start()
    jobs = [await world.job() for _ in range(3)]
    await reach(jobs[0], Phase.ACTIVE)
    for job in jobs[1:]:
        await until(lambda job=job: job.record.state is JobState.PENDING)
    reply = await world.ask(CancelQuery(jobs[1].record.path))
    assert reply.job_failure_code == ErrorCode.USER_CANCELLED
    world.lrm.end(jobs[0].record.container)
    await reach(jobs[2], Phase.ACTIVE)
    assert jobs[1].record.container not in world.lrm.submissions
    world.lrm.end(jobs[2].record.container)
    await ended(world, jobs[2])
    assert world.service.slots(jobs[0].record).running == 0
    await world.stop()


async def test_delivery_that_hangs_holds_no_slot(tmp_path: Path) -> None:
    world = World(tmp_path, max_running=1)
    await world.start()
    world.agent.gates["finish_output"] = asyncio.Event()
    rsl = "&(executable=/bin/true)(stdout=https://client:1/out)"
    first, second = await world.job(rsl), await world.job()
    await reach(first, Phase.ACTIVE)
    world.lrm.end(first.record.container)
    await reach(second, Phase.ACTIVE)
    assert first.record.phase is Phase.STAGE_OUT
    await world.stop()


# --- the service's end ----------------------------------------------------------------------------


async def test_nothing_is_driven_after_the_end(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    await world.service.aclose()
    world.lrm.end(job.record.container)
    await asyncio.sleep(0)
    assert job._task is None
    assert job.record.phase is Phase.ACTIVE


async def test_a_job_without_its_service_does_not_stop_the_others(world: World) -> None:
    await world.place(Phase.ACTIVE, JobState.ACTIVE, service="gone")
    await world.kill()
    await world.start()
    job = await world.job()
    await reach(job, Phase.ACTIVE)


@pytest.mark.parametrize("phase", [Phase.STAGE_IN, Phase.QUEUED, Phase.SUBMIT])
async def test_what_runs_already_is_found_and_can_be_cancelled(
    tmp_path: Path, phase: Phase
) -> None:
    """The submission was made, but the crash came before it was stored."""
    world = World(tmp_path, max_running=1)
    await world.start()
    job = await world.place(phase, JobState.UNSUBMITTED)
    container = job.record.container
    world.lrm.jobs[container] = Observation(Observed.ACTIVE, lrm_id="17")
    await world.kill()
    await world.start()
    assert world.service.slots(job.record).running == 1
    reply = await world.ask(CancelQuery(job.record.path))
    assert reply.job_failure_code == ErrorCode.USER_CANCELLED
    assert world.lrm.cancelled == [container]
    assert not world.lrm.submissions
    await world.stop()


# --- random lives ---------------------------------------------------------------------------------

ACTIONS = [
    "cancel", "suspend", "resume", "end", "lost", "unavailable", "stop", "refuse", "status",
    "restart", "commit",
]  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    two_phase=st.booleans(),
    pending=st.booleans(),
    actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4)), max_size=8),
)
def test_random_lives(
    tmp_path_factory: pytest.TempPathFactory,
    two_phase: bool,
    pending: bool,
    actions: list[tuple[str, int]],
) -> None:
    asyncio.run(_life(tmp_path_factory.mktemp("life"), two_phase, pending, actions))


async def _life(
    directory: Path, two_phase: bool, pending: bool, actions: list[tuple[str, int]]
) -> None:
    world = World(directory)
    world.lrm.first = Observed.PENDING if pending else Observed.ACTIVE
    await world.start()
    job = await world.job(TWO_PHASE if two_phase else "&(executable=/bin/true)")
    path, container = job.record.path, job.record.container
    asked: list[asyncio.Task[object]] = []
    for action, pause in actions:
        for _ in range(pause * pause * 3):
            await asyncio.sleep(0)
        if action == "restart":
            await asyncio.gather(*asked, return_exceptions=True)
            await world.kill()
            await world.start()
        else:
            asked += _act(world, action, path, container)
    await asyncio.sleep(0.02)
    # Whatever happened, an orderly end must still be possible.
    async with asyncio.timeout(20):
        while (current := world.service.find(path)) is not None:
            if current.record.phase is Phase.UNCOMMITTED:
                current.post(Happening(Event.COMMIT_TIMED_OUT, ErrorCode.COMMIT_TIMED_OUT))
            elif current.record.phase in {Phase.DONE, Phase.FAILED} and current._task is None:
                current.post(Happening(Event.COMMIT_ENDED))
            elif container in world.lrm.jobs and not current.record.phase.startswith("c"):
                world.lrm.end(container)
            await asyncio.sleep(0.005)
        await asyncio.gather(*asked)
    await until(lambda: world.service.callbacks.waiting == 0)
    await _check(world, job.record.id)
    await world.stop()


def _act(world: World, action: str, path: str, container: str) -> list[asyncio.Task[object]]:
    match action:
        case "end" if container in world.lrm.jobs:
            world.lrm.end(container)
        case "lost" if container in world.lrm.jobs:
            world.lrm.tell(container, Observation(Observed.LOST))
        case "unavailable":
            world.lrm.fails["cancel"] = [LRMUnavailableError("away")]
        case "refuse":
            world.lrm.fails["cancel"] = [LRMError(ErrorCode.JOB_CANCEL_FAILED, "no")]
        case "cancel":
            return [asyncio.create_task(world.ask(CancelQuery(path)))]
        case "suspend":
            return [asyncio.create_task(world.ask(SignalQuery(path, Signal.SUSPEND, "x")))]
        case "resume":
            return [asyncio.create_task(world.ask(SignalQuery(path, Signal.RESUME, "x")))]
        case "stop":
            return [asyncio.create_task(world.ask(SignalQuery(path, Signal.STOP_MANAGER)))]
        case "commit":
            return [asyncio.create_task(world.ask(SignalQuery(path, Signal.COMMIT_REQUEST)))]
        case "status":
            return [asyncio.create_task(world.ask(StatusQuery(path)))]
        case _:  # "end" or "lost" of what is not there
            return []
    return []


async def _check(world: World, job: str) -> None:
    rows = await world.store.events(job)
    assert [row[0] for row in rows] == list(range(len(rows))), "an event is missing in the log"
    phase = Phase(rows[0][3])
    for _, _, event, after, _ in rows[1:]:
        step = TRANSITIONS[phase][Event(event)]
        assert step.phase == after
        phase = step.phase
    assert phase is Phase.FINISHED
    assert all(count == 1 for count in world.lrm.submissions.values())
    record = await world.store.find(job)
    assert record is not None
    stops = [entry for entry in world.heard if entry.failure_code == ErrorCode.JM_STOPPED]
    told = [(entry.id, entry.state) for entry in world.heard if entry not in stops]
    once = list(dict.fromkeys(told))
    assert once == sorted(once), "callbacks out of order"
    final = [state for _, state in once if state in (JobState.DONE, JobState.FAILED)]
    assert final in ([record.state], [] if stops else [record.state])
    if final:
        assert once[-1][1] is record.state
    states = [JobState(row[4]) for row in rows]
    shown = [b for a, b in pairwise(states) if a is not b]
    if not stops:
        assert [state for _, state in once] == shown
    assert world.service.slots(record).running == 0
    assert world.agent.directories == set()
    assert record.service == SERVICE


async def test_an_agent_that_cannot_start_fails_the_job(world: World) -> None:
    submitted = await world.service.intake.submit(world.request("&(executable=https://h/x)"))
    assert submitted.job is not None
    world.pool.fails = [GramError(ErrorCode.NO_RESOURCES, "no agent")]
    submitted.replied(delivered=True)
    record = await ended(world, submitted.job)
    assert (record.state, record.failure_code) == (JobState.FAILED, ErrorCode.NO_RESOURCES)
