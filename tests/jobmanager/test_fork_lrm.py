"""The fork LRM over a double of the spawner: what it asks, and what answers mean."""

import asyncio
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from jobmanager.agent.client import AgentPool, OpenedJob
from jobmanager.description import describe
from jobmanager.lrm import fork as module
from jobmanager.lrm.base import (
    LRMError,
    LRMUnavailableError,
    Observation,
    Observed,
    Submission,
)
from jobmanager.lrm.fork import ForkLRM
from jobmanager.lrm.measured import MeasuredLRM
from jobmanager.records import JobRecord
from jobmanager.spawner_client import (
    ExitRecord,
    LaunchError,
    LaunchRequest,
    ProcessExit,
    SpawnerClient,
    SpawnerError,
    SpawnerLost,
)
from jobmanager.states import Phase
from protocol.tables import ErrorCode, JobState
from tests.support.core import PATHS

CONTAINER = "1-2"


@dataclass
class Info:
    container: str
    pids: tuple[int, ...] = (7, 8)
    frozen: bool = False


class Spawner:
    def __init__(self) -> None:
        self.on_ended: Any = None
        self.living: list[Info] = []
        self.ended: list[ExitRecord] = []
        self.launched: list[tuple[LaunchRequest, tuple[int, ...]]] = []
        self.calls: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    def _do(self, *call: object) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def launch(self, request: LaunchRequest, descriptors: tuple[int, ...]) -> Info:
        self.launched.append((request, descriptors))
        for descriptor in descriptors:
            os.fstat(descriptor)
        self._do("launch")
        return Info(request.container)

    async def list(self) -> Sequence[Info]:
        self._do("list")
        return self.living

    async def records(self) -> Sequence[ExitRecord]:
        self._do("records")
        return self.ended

    async def kill(self, container: str, grace: float) -> None:
        self._do("kill", container, grace)

    async def freeze(self, container: str) -> None:
        self._do("freeze", container)

    async def thaw(self, container: str) -> None:
        self._do("thaw", container)

    async def forget(self, container: str) -> None:
        self._do("forget", container)


class Agents:
    """Opens something real, so that leaked descriptors can be seen."""

    def __init__(self) -> None:
        self.opened: tuple[int, ...] = ()

    async def get(self, _account: str) -> "Agents":
        return self

    async def open_job(self, _files: object) -> OpenedJob:
        self.opened = tuple(os.open("/dev/null", os.O_RDONLY) for _ in range(4))
        return OpenedJob(self.opened, "/bin/prog", "/", "i", "o", "e")


@pytest.fixture
def spawner() -> Spawner:
    return Spawner()


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
def lrm(spawner: Spawner, agents: Agents) -> ForkLRM:
    return ForkLRM(cast("SpawnerClient", spawner), cast("AgentPool", agents))


def record(lrm_id: str | None = None) -> JobRecord:
    return JobRecord(
        id="1/2", owner="/CN=a", account="alice", service="s", contact="https://h:1/1/2/",
        phase=Phase.SUBMIT, state=JobState.UNSUBMITTED, created=1, updated=1, lrm_id=lrm_id,
    )  # fmt: skip


def submission(text: str = "") -> Submission:
    description = describe(
        f"&(executable=/bin/x)(arguments=a b){text}", {"HOME": "/h", "GLOBUS_LOCATION": "/usr"}
    )
    return Submission(record(), description, PATHS, (("A", "b"),))


def exit_record(*processes: ProcessExit, reason: str = "exited") -> ExitRecord:
    return ExitRecord(
        container=CONTAINER, account="alice", processes=processes, started=1.0, ended=2.0,
        cpu_user=0.1, cpu_system=0.1, max_rss_kb=100, reason=reason, members=1, last_status=None,
    )  # fmt: skip


def closed(descriptors: tuple[int, ...]) -> bool:
    for descriptor in descriptors:
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        return False
    return True


async def test_a_submission(lrm: ForkLRM, spawner: Spawner, agents: Agents) -> None:
    seen = await lrm.submit(submission("(max_wall_time=2)(max_cpu_time=1)"))
    assert seen == Observation(Observed.ACTIVE, "7,8")
    [(request, descriptors)] = spawner.launched
    assert (request.container, request.account, request.processes) == (CONTAINER, "alice", 1)
    assert request.argv == ("/bin/prog", "a", "b")
    assert request.environment == (("A", "b"),)
    assert (request.limits.wall_seconds, request.limits.cpu_seconds) == (120, 60)
    assert descriptors == agents.opened
    assert closed(agents.opened)


@pytest.mark.parametrize(
    ("text", "processes"),
    [("(count=3)", 3), ("(count=3)(job_type=single)", 1), ("(count=2)(job_type=multiple)", 2)],
)
async def test_processes(lrm: ForkLRM, spawner: Spawner, text: str, processes: int) -> None:
    await lrm.submit(submission(text))
    assert spawner.launched[0][0].processes == processes


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (LaunchError("chdir", errno.ENOENT, "x"), ErrorCode.BAD_DIRECTORY, LRMError),
        (LaunchError("fork", errno.EAGAIN, "x"), ErrorCode.FORKING_EXECUTABLE, LRMError),
        (LaunchError("exec", errno.ENOEXEC, "x"), ErrorCode.JOB_EXECUTION_FAILED, LRMError),
        (SpawnerError("frame", 0, "x"), ErrorCode.JOB_EXECUTION_FAILED, LRMError),
        (SpawnerLost(), ErrorCode.NO_RESOURCES, LRMUnavailableError),
    ],
)
async def test_failed_submissions_close_their_descriptors(
    lrm: ForkLRM, spawner: Spawner, agents: Agents, error: Exception, code: int, kind: type
) -> None:
    spawner.error = error
    with pytest.raises(LRMError) as raised:
        await lrm.submit(submission())
    assert type(raised.value) is kind
    assert raised.value.code == code
    assert closed(agents.opened)


async def test_a_cancelled_submission_closes_its_descriptors(
    lrm: ForkLRM, spawner: Spawner, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def launch(*_: object) -> Info:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(spawner, "launch", launch)
    task = asyncio.create_task(lrm.submit(submission()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert closed(agents.opened)


async def test_finding(lrm: ForkLRM, spawner: Spawner) -> None:
    assert await lrm.find([record()]) == [Observation(Observed.ABSENT)]
    [lost] = await lrm.find([record("7")])
    assert lost.state is Observed.LOST
    spawner.ended = [exit_record(ProcessExit(3, None))]
    [over] = await lrm.find([record("7")])
    assert (over.state, over.exit_code) == (Observed.ENDED, 3)
    spawner.living = [Info(CONTAINER)]
    assert await lrm.find([record()]) == [Observation(Observed.ACTIVE, "7,8")]
    spawner.living = [Info(CONTAINER, frozen=True)]
    assert (await lrm.find([record()]))[0].state is Observed.SUSPENDED
    assert [call[0] for call in spawner.calls[:2]] == ["list", "records"], "the order matters"


async def test_a_spawner_that_does_not_answer_is_no_evidence(
    lrm: ForkLRM, spawner: Spawner
) -> None:
    spawner.error = SpawnerLost()
    with pytest.raises(LRMUnavailableError):
        await lrm.find([record()])
    with pytest.raises(LRMUnavailableError):
        await lrm.cancel(record())


async def test_cancelling_waits_for_the_end(lrm: ForkLRM, spawner: Spawner) -> None:
    seen: list[Observation] = []
    lrm.on_observation = lambda _container, observation: seen.append(observation)
    task = asyncio.create_task(lrm.cancel(record()))
    await asyncio.sleep(0.01)
    assert not task.done()
    assert spawner.calls == [("kill", CONTAINER, 5.0)]
    spawner.on_ended(exit_record(ProcessExit(None, 15), reason="killed"))
    await task
    assert [item.exit_code for item in seen] == [143]
    assert lrm._ending == {}


async def test_cancelling_what_has_gone(lrm: ForkLRM, spawner: Spawner) -> None:
    spawner.error = SpawnerError("kill", errno.ESRCH, "no such container")
    await lrm.cancel(record())
    spawner.error = SpawnerError("kill", errno.EPERM, "no")
    with pytest.raises(LRMError) as raised:
        await lrm.cancel(record())
    assert raised.value.code is ErrorCode.JOB_CANCEL_FAILED


async def test_a_job_that_survives_kill_is_an_error(
    lrm: ForkLRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KILL_TIMEOUT", 0.0)
    monkeypatch.setattr(module, "CANCEL_GRACE", 0.0)
    with pytest.raises(LRMError) as raised:
        await lrm.cancel(record())
    assert raised.value.code is ErrorCode.JOB_CANCEL_FAILED
    assert lrm._ending == {}


@pytest.mark.parametrize(
    ("processes", "code"),
    [
        ((ProcessExit(0, None),), 0),
        ((ProcessExit(0, None), ProcessExit(4, None), ProcessExit(5, None)), 4),
        ((ProcessExit(None, 9),), 137),
        ((ProcessExit(None, None),), None),
        ((ProcessExit(None, None), ProcessExit(0, None)), 0),
    ],
)
async def test_exit_codes(
    lrm: ForkLRM, spawner: Spawner, processes: tuple[ProcessExit, ...], code: int | None
) -> None:
    seen: list[Observation] = []
    lrm.on_observation = lambda _container, observation: seen.append(observation)
    spawner.on_ended(exit_record(*processes))
    assert (seen[0].state, seen[0].exit_code) == (Observed.ENDED, code)


@pytest.mark.parametrize(
    ("reason", "state", "code"),
    [
        ("wall-limit", Observed.ENDED, ErrorCode.SYSTEM_CANCELLED),
        ("cpu-limit", Observed.ENDED, ErrorCode.SYSTEM_CANCELLED),
        ("lost", Observed.LOST, None),
        ("killed", Observed.ENDED, None),
    ],
)
async def test_reasons(
    lrm: ForkLRM, spawner: Spawner, reason: str, state: Observed, code: ErrorCode | None
) -> None:
    seen: list[Observation] = []
    lrm.on_observation = lambda _container, observation: seen.append(observation)
    spawner.on_ended(exit_record(ProcessExit(1, None), reason=reason))
    assert (seen[0].state, seen[0].failure_code) == (state, code)


async def test_every_call_is_measured(lrm: ForkLRM, spawner: Spawner) -> None:
    told: list[tuple[str, str, bool]] = []

    def observe(lrm: str, operation: str, seconds: float, *, failed: bool) -> None:
        assert seconds >= 0
        told.append((lrm, operation, failed))

    measured = MeasuredLRM(lrm, observe)
    measured.on_observation = lambda _container, _seen: None
    assert lrm.on_observation is measured.on_observation
    await measured.submit(submission())
    await measured.find([record()])
    await measured.suspend(record())
    await measured.resume(record())
    await measured.forget(record())
    spawner.error = SpawnerError("x", errno.EPERM, "no")
    for operation in (measured.cancel, measured.suspend, measured.forget):
        with pytest.raises(LRMError):
            await operation(record())
    names = ["submit", "find", "suspend", "resume", "forget"]
    assert told == [("fork", name, False) for name in names] + [
        ("fork", name, True) for name in ("cancel", "suspend", "forget")
    ]
