"""Every query in every phase, against the tables of job-manager.md §2.5 and wire-protocol.md §7."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jobmanager.lrm.base import LRMError
from jobmanager.manager import JobManager
from jobmanager.queries import MAX_CONTACTS
from jobmanager.states import Phase
from jobmanager.store import StoreError
from protocol.errors import GramError
from protocol.messages import (
    CancelQuery,
    Query,
    RegisterQuery,
    RenewQuery,
    SignalQuery,
    StatusQuery,
    UnknownQuery,
    UnregisterQuery,
)
from protocol.tables import ErrorCode, JobState, Signal
from tests.support.core import ALICE, ALL, BOB, LISTENER, RSL, World, reach, until

DENIED = ErrorCode.JOB_QUERY_DENIAL
UNIMPLEMENTED = ErrorCode.UNIMPLEMENTED
UNKNOWN_URL = ErrorCode.CLIENT_CONTACT_NOT_FOUND
NEW = "https://new:1/"

PLACES: dict[str, tuple[Phase, JobState, dict[str, object]]] = {
    "uncommitted": (Phase.UNCOMMITTED, JobState.UNSUBMITTED, {}),
    "stage-in": (Phase.STAGE_IN, JobState.STAGE_IN, {}),
    "queued": (Phase.QUEUED, JobState.UNSUBMITTED, {}),
    "waiting": (Phase.QUEUED, JobState.PENDING, {}),
    "submit": (Phase.SUBMIT, JobState.UNSUBMITTED, {}),
    "pending": (Phase.PENDING, JobState.PENDING, {}),
    "active": (Phase.ACTIVE, JobState.ACTIVE, {}),
    "suspended": (Phase.SUSPENDED, JobState.SUSPENDED, {}),
    "cancelling": (Phase.CANCELLING, JobState.ACTIVE, {"failure_code": 8}),
    "stage-out": (Phase.STAGE_OUT, JobState.ACTIVE, {}),
    "done": (Phase.DONE, JobState.DONE, {}),
    "failed": (Phase.FAILED, JobState.FAILED, {"failure_code": 17}),
    "clean-up": (Phase.CLEAN_UP, JobState.DONE, {}),
    "stopped": (Phase.ACTIVE, JobState.ACTIVE, {"stopped": True}),
    "stopped-done": (Phase.DONE, JobState.DONE, {"stopped": True}),
}
BEFORE = {"uncommitted", "stage-in", "queued", "waiting"}
AT_LRM = {"submit", "pending", "active", "suspended", "cancelling"}
ENDED = {"done", "failed"}
STOPPED = {"stopped", "stopped-done"}
RUNNING = BEFORE | AT_LRM

QUERIES: dict[str, Callable[[str], Query]] = {
    "status": lambda path: StatusQuery(path),
    "cancel": lambda path: CancelQuery(path),
    "signal-1": lambda path: SignalQuery(path, Signal.CANCEL, "x"),
    "signal-2": lambda path: SignalQuery(path, Signal.SUSPEND, "x"),
    "signal-3": lambda path: SignalQuery(path, Signal.RESUME, "x"),
    "signal-4": lambda path: SignalQuery(path, Signal.PRIORITY, "x"),
    "signal-5": lambda path: SignalQuery(path, Signal.COMMIT_REQUEST),
    "signal-6": lambda path: SignalQuery(path, Signal.COMMIT_EXTEND, "5"),
    "signal-7": lambda path: SignalQuery(path, Signal.STDIO_UPDATE, "&(stdout=/dev/null)"),
    "signal-8": lambda path: SignalQuery(path, Signal.STDIO_SIZE, "0 -1"),
    "signal-9": lambda path: SignalQuery(path, Signal.STOP_MANAGER),
    "signal-10": lambda path: SignalQuery(path, Signal.COMMIT_END),
    "signal-11": lambda path: SignalQuery(path, 11, "x"),
    "register": lambda path: RegisterQuery(path, ALL, NEW),
    "unregister": lambda path: UnregisterQuery(path, LISTENER),
    "unregister-unknown": lambda path: UnregisterQuery(path, NEW),
    "renew": lambda path: RenewQuery(path),
    "unknown": lambda path: UnknownQuery(path, "sing"),
}


def expected_code(place: str, query: str, two_phase: bool) -> int:
    """The table, row by row."""
    if query in {"signal-5", "signal-6", "signal-10"} and not two_phase:
        return ErrorCode.INVALID_COMMIT
    match query:
        case "cancel" | "signal-7":
            return 0 if place in RUNNING else DENIED
        case "signal-1" | "signal-4":
            return UNIMPLEMENTED if place in RUNNING else DENIED
        case "signal-2" | "signal-3":
            return 0 if place in {"active", "suspended"} else DENIED
        case "signal-5":
            return DENIED if place in ENDED | STOPPED else 0
        case "signal-9":
            return DENIED if place == "clean-up" else 0
        case "signal-10":
            return 0 if place in ENDED | {"stopped-done"} else DENIED
        case "signal-11":
            return ErrorCode.UNKNOWN_SIGNAL_TYPE
        case "unregister-unknown":
            return UNKNOWN_URL
        case "unknown":
            return ErrorCode.INVALID_JOB_QUERY
        case _:
            return 0


def expected_state(place: str, query: str) -> tuple[int, int]:
    """State and job failure code of a reply that is no refusal."""
    _, state, changes = PLACES[place]
    code = int(str(changes.get("failure_code", 0))) if state is JobState.FAILED else 0
    match query:
        case "cancel" if place not in BEFORE or place == "waiting":
            return JobState.FAILED, ErrorCode.USER_CANCELLED
        case "signal-2" if place in {"active", "suspended"}:
            return JobState.SUSPENDED, 0
        case "signal-3" if place in {"active", "suspended"}:
            return JobState.ACTIVE, 0
        case _:
            return state, code


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def placed(world: World, place: str, *, two_phase: bool) -> JobManager:
    phase, state, changes = PLACES[place]
    seconds = 60 if two_phase else 0
    return await world.place(phase, state, RSL, two_phase=seconds, **changes)


@pytest.mark.parametrize("two_phase", [False, True], ids=["one-phase", "two-phase"])
@pytest.mark.parametrize("place", PLACES)
async def test_the_table(place: str, two_phase: bool, world: World) -> None:
    wrong = []
    for name, make in QUERIES.items():
        if place == "uncommitted" and not two_phase:
            continue
        job = await placed(world, place, two_phase=two_phase)
        reply = await world.ask(make(job.record.path))
        code = expected_code(place, name, two_phase)
        state = (JobState.FAILED, 0) if code else expected_state(place, name)
        got = (reply.failure_code, reply.state, reply.job_failure_code)
        if got != (code, *state):
            wrong.append(f"{name}: {got} instead of {(code, *state)}")
    assert not wrong


@pytest.mark.parametrize("identity", [BOB, None])
@pytest.mark.parametrize("place", PLACES)
async def test_only_the_owner_is_answered(place: str, identity: str | None, world: World) -> None:
    for make in QUERIES.values():
        job = await placed(world, place, two_phase=True)
        before = job.record
        reply = await world.ask(make(job.record.path), identity)
        got = (reply.failure_code, reply.state, reply.job_failure_code)
        assert got == (ErrorCode.AUTHORIZATION_DENIED, JobState.FAILED, 0)
        assert reply.extensions.failure_message is None
        assert job.record is before
        assert job._task is None
    assert world.renewals == []


@pytest.mark.parametrize("identity", [ALICE, BOB])
async def test_nobody_learns_about_jobs_that_are_not_there(identity: str, world: World) -> None:
    gone = await world.place(Phase.FINISHED, JobState.DONE)
    for path in ("/1/2/", "/", "/1", gone.record.path, "/%2e/\xff/"):
        for make in QUERIES.values():
            reply = await world.ask(make(path), identity)
            assert (reply.failure_code, reply.state) == (156, 0)


async def test_an_unfinished_refusal_tells_nothing_to_a_stranger_without_certificate(
    world: World,
) -> None:
    reply = await world.ask(StatusQuery("/1/2/"), None)
    assert reply.failure_code == ErrorCode.AUTHORIZATION_DENIED


async def test_renewal_answers_twice_and_with_the_record_of_then(world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    reply = await world.ask(RenewQuery(job.record.path))
    assert (reply.state, reply.failure_code) == (JobState.ACTIVE, 0)
    assert world.renewals == [job.record.id]


async def test_sizes(world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)

    async def ask(argument: str) -> int:
        query = SignalQuery(job.record.path, Signal.STDIO_SIZE, argument)
        return (await world.ask(query)).failure_code

    world.agent.output = (10, 20, False)
    assert [await ask(text) for text in ("10 20", "10", "-1 20", "-1 -1")] == [0] * 4
    assert [await ask(text) for text in ("11", "10 21", "-1 0")] == [ErrorCode.STDIO_SIZE] * 3
    world.agent.output = (10, 20, True)
    assert await ask("10 20") == ErrorCode.STILL_STREAMING


@pytest.mark.parametrize(
    ("rsl", "code"),
    [("&(stdout=", 48), ("&(executable=/bin/sh)", 48), ("&(stdout=$(NOBODY_SAID))", 39)],
)
async def test_a_bad_redirection_changes_nothing(rsl: str, code: int, world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    reply = await world.ask(SignalQuery(job.record.path, Signal.STDIO_UPDATE, rsl))
    assert (reply.failure_code, reply.state) == (code, JobState.FAILED)
    assert "redirect" not in world.agent.calls


async def test_a_redirection_is_kept(world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    rsl = "&(stdout=https://new:1/out)"
    assert (
        await world.ask(SignalQuery(job.record.path, Signal.STDIO_UPDATE, rsl))
    ).failure_code == 0
    assert "https://new:1/out" in (await world.store.audit(job.record.id)).description


async def test_registering_again_adds_to_the_mask(world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    for mask in (2, 8):
        await world.ask(RegisterQuery(job.record.path, mask, NEW))
    assert {contact.url: contact.mask for contact in job.record.contacts}[NEW] == 10
    [stored] = await world.store.living_jobs()
    assert sorted(stored.contacts, key=str) == sorted(job.record.contacts, key=str)


async def test_contacts_are_bounded(world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    codes = [
        (await world.ask(RegisterQuery(job.record.path, 1, f"{NEW}{n}"))).failure_code
        for n in range(MAX_CONTACTS)
    ]
    assert codes == [0] * (MAX_CONTACTS - 1) + [ErrorCode.INSERTING_CLIENT_CONTACT]


@pytest.mark.parametrize("url", ["https://new:1/\udcff", "x" * 60000])
async def test_no_url_can_break_the_store(url: str, world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    reply = await world.ask(RegisterQuery(job.record.path, 2**32 - 1, url))
    assert reply.failure_code == 0
    world.lrm.end(job.record.container)
    await until(lambda: world.service.find(job.record.path) is None)


async def test_an_lrm_that_cannot_suspend_says_so(world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    world.lrm.fails["suspend"] = [LRMError(ErrorCode.UNIMPLEMENTED, "no such thing")]
    reply = await world.ask(SignalQuery(job.record.path, Signal.SUSPEND, "x"))
    assert reply.failure_code == ErrorCode.UNIMPLEMENTED
    assert job.record.phase is Phase.ACTIVE


@pytest.mark.parametrize(
    "error", [GramError(ErrorCode.NO_RESOURCES), OSError("gone"), StoreError("disk full")]
)
async def test_a_failing_part_is_an_answer(error: Exception, world: World) -> None:
    job = await world.place(Phase.ACTIVE, JobState.ACTIVE)
    world.pool.fails = [error]
    reply = await world.ask(SignalQuery(job.record.path, Signal.STDIO_SIZE, "0"))
    assert reply.failure_code == ErrorCode.NO_RESOURCES


async def test_stopping_calls_back_once_and_never_again(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    query: Query = SignalQuery(job.record.path, Signal.STOP_MANAGER)
    for _ in range(3):
        assert (await world.ask(query)).state == JobState.ACTIVE
    world.lrm.end(job.record.container)
    await reach(job, Phase.DONE)
    await until(lambda: world.service.callbacks.waiting == 0)
    assert world.states() == [(JobState.ACTIVE, 0), (JobState.FAILED, ErrorCode.JM_STOPPED)]
    assert (await world.ask(StatusQuery(job.record.path))).state == JobState.DONE


async def test_a_mask_is_respected(world: World) -> None:
    job = await world.job(state_mask=int(JobState.DONE))
    await reach(job, Phase.ACTIVE)
    world.lrm.end(job.record.container)
    await until(lambda: len(world.heard) == 1)
    assert world.states() == [(JobState.DONE, 0)]


async def test_nobody_is_told_of_what_was_unregistered(world: World) -> None:
    job = await world.job()
    await reach(job, Phase.ACTIVE)
    await until(lambda: len(world.heard) == 1)
    await world.ask(UnregisterQuery(job.record.path, LISTENER))
    world.lrm.end(job.record.container)
    await until(lambda: world.service.find(job.record.path) is None)
    assert world.states() == [(JobState.ACTIVE, 0)]
