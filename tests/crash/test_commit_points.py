"""A crash before and after every access to the database: nothing is lost, nothing runs twice.

Each case runs a whole life of a job against a service that stops dead at one access to its
database, starts the service again on the same database and the same cluster, and goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jobmanager.lrm.base import Observed
from jobmanager.states import IN_LRM, Phase
from protocol.messages import (
    CancelQuery,
    Query,
    QueryReply,
    RegisterQuery,
    SignalQuery,
    StatusQuery,
    UnregisterQuery,
)
from protocol.tables import ErrorCode, JobState, Signal
from tests.support.core import ALL, LISTENER, World, reach, until

SECOND = "https://second:1/"
STAGING = (
    "&(executable=/bin/true)(file_stage_in=(https://h/a b))(file_stage_out=(b https://h/c))"
    "(stdout=https://h/out)"
)
TWO_PHASE = "&(executable=/bin/true)(two_phase=60)"


class Life:
    """A client that goes on where it was when the service comes back; `steps` are its doing."""

    rsl = "&(executable=/bin/true)"
    final = JobState.DONE
    ends_while_down = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.path = ""
        self.done: set[str] = set()

    async def run(self) -> None:
        """Everything, again after a crash: what was answered is not asked once more."""
        if not self.path:
            submitted = await self.world.service.intake.submit(self.world.request(self.rsl))
            assert submitted.job is not None, submitted.reply
            self.path = submitted.job.record.path
            submitted.replied(delivered=True)
        if self.world.service.find(self.path) is not None:
            await self.steps()
        await until(lambda: self.world.service.find(self.path) is None)
        await until(lambda: self.world.service.callbacks.waiting == 0)

    async def steps(self) -> None:
        """Until the job ends by itself."""
        await self.end()

    async def once(self, query: Query) -> QueryReply | None:
        """Ask, unless it was answered already."""
        if str(query) in self.done:
            return None
        reply = await self.world.ask(query)
        self.done.add(str(query))
        return reply

    async def end(self) -> None:
        """The job's processes end once it runs."""
        if (job := self.world.service.find(self.path)) is None:
            return
        await reach(job, *IN_LRM, Phase.STAGE_OUT, Phase.DONE, Phase.FAILED)
        if job.record.phase in IN_LRM:
            self.world.lrm.end(job.record.container, exit_code=5)


class Plain(Life):
    pass


class EndsWhileDown(Life):
    ends_while_down = True


class Staging(Life):
    rsl = STAGING


class TwoPhase(Life):
    rsl = TWO_PHASE

    async def steps(self) -> None:
        await self.once(SignalQuery(self.path, Signal.COMMIT_EXTEND, "10"))
        await self.once(RegisterQuery(self.path, ALL, SECOND))
        await self.once(RegisterQuery(self.path, 1, LISTENER))
        await self.once(SignalQuery(self.path, Signal.COMMIT_REQUEST))
        await self.end()
        if (job := self.world.service.find(self.path)) is not None:
            await reach(job, Phase.DONE, Phase.FAILED)
            await self.once(UnregisterQuery(self.path, SECOND))
            await self.once(SignalQuery(self.path, Signal.COMMIT_END))


class Cancelled(Life):
    final = JobState.FAILED

    async def steps(self) -> None:
        if (job := self.world.service.find(self.path)) is None:
            return
        await reach(job, *IN_LRM, Phase.DONE, Phase.FAILED)
        await self.once(CancelQuery(self.path))


class Stopped(Life):
    rsl = TWO_PHASE

    async def steps(self) -> None:
        await self.once(SignalQuery(self.path, Signal.COMMIT_REQUEST))
        job = self.world.service.find(self.path)
        if job is not None:
            await reach(job, *IN_LRM, Phase.DONE, Phase.FAILED)
            await self.once(SignalQuery(self.path, Signal.STOP_MANAGER))
        await self.end()
        if (job := self.world.service.find(self.path)) is not None:
            await reach(job, Phase.DONE, Phase.FAILED)
            await self.once(SignalQuery(self.path, Signal.COMMIT_END))


async def until_crash(world: World, work: Callable[[], Awaitable[None]]) -> bool:
    """Run until it is done, or the service crashes."""
    running = asyncio.ensure_future(work())
    crashed = asyncio.create_task(world.writer.crashed.wait())
    async with asyncio.timeout(30):
        await asyncio.wait({running, crashed}, return_when=asyncio.FIRST_COMPLETED)
    if world.writer.crashed.is_set():
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return True
    crashed.cancel()
    await running
    return False


async def survive(directory: Path, kind: type[Life], at: int, after: bool) -> int:
    """One case; returns how often the database was used."""
    directory.mkdir()
    world = World(directory)
    await world.start(at=at, after=after)
    life = kind(world)
    crashed = await until_crash(world, life.run)
    count = world.writer.count
    if crashed:
        await world.kill()
        if life.ends_while_down:
            for container, seen in list(world.lrm.jobs.items()):
                if seen.state is Observed.ACTIVE:
                    world.lrm.end(container, exit_code=5)
        await world.start()
        known = [job.record.path for job in world.service.jobs()]
        life.path = life.path or (known[0] if known else "")
        if life.path:
            assert not await until_crash(world, life.run)
    if life.path:
        await check(world, life)
    else:
        assert not world.lrm.submissions  # never accepted, and the client has no contact
    await world.stop()
    return count


async def check(world: World, life: Life) -> None:
    record = await world.store.find(life.path.strip("/"))
    assert record is not None
    assert (record.phase, record.state) == (Phase.FINISHED, life.final)
    assert record.exit_code == (5 if life.final is JobState.DONE else None)
    assert list(world.lrm.submissions.values()) == [1]
    assert world.lrm.jobs == {}
    assert world.agent.directories == set()
    assert await world.store.living_jobs() == []
    heard = [(entry.state, entry.failure_code) for entry in world.heard if entry.url == LISTENER]
    expected = [(JobState.ACTIVE, 0)]
    if life.rsl is STAGING:
        expected = [(JobState.STAGE_IN, 0), *expected, (JobState.STAGE_OUT, 0)]
    if isinstance(life, Stopped):
        expected += [(JobState.FAILED, int(ErrorCode.JM_STOPPED))]
    elif life.final is JobState.DONE:
        expected += [(JobState.DONE, 0)]
    else:
        expected += [(JobState.FAILED, int(ErrorCode.USER_CANCELLED))]
    assert list(dict.fromkeys(heard)) == expected
    assert heard[-1] == expected[-1]
    assert (await world.ask(StatusQuery(life.path))).failure_code == 156
    assert world.service.slots(record).running == 0


@pytest.mark.parametrize("kind", [Plain, EndsWhileDown, Staging, TwoPhase, Cancelled, Stopped])
async def test_a_crash_at_any_access_to_the_database(kind: type[Life], tmp_path: Path) -> None:
    accesses = await survive(tmp_path / "whole", kind, at=0, after=False)
    assert accesses > 4
    for at in range(1, accesses + 1):
        for after in (False, True):
            case = f"{'after' if after else 'before'} access {at} of {accesses}"
            try:
                await survive(tmp_path / f"{at}-{after}", kind, at, after)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{kind.__name__}, crash {case}: {error}") from error


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_around_the_submission_itself(moment: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    gate = world.lrm.gates["submit"] = asyncio.Event()
    job = await world.job()
    await until(lambda: job.record.phase is Phase.SUBMIT)
    if moment == "after":
        world.writer.at, world.writer.after = world.writer.count + 1, False
        gate.set()
        await world.writer.crashed.wait()
        assert list(world.lrm.submissions.values()) == [1]
    await world.kill()
    gate.set()
    await world.start()
    again = world.service.find(job.record.path)
    assert again is not None
    await reach(again, Phase.ACTIVE)
    assert list(world.lrm.submissions.values()) == [1]
    assert again.record.lrm_id == f"lrm-{job.record.container}"
    await world.stop()


async def test_what_was_not_delivered_is_delivered_after_the_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    world.post_fails += [OSError("no route")] * 2
    job = await world.job()
    await until(lambda: len(world.post_fails) < 2)
    await reach(job, Phase.ACTIVE)
    await world.kill()
    world.post_fails.clear()
    await world.start()
    await until(lambda: world.states() == [(JobState.ACTIVE, 0)])
    await world.stop()
