"""Job requests: every refusal is an answer and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from jobmanager.contacts import NoPortError
from jobmanager.intake import Submitted
from jobmanager.states import Phase
from jobmanager.store import StoreError
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.core import FakeAddresses, World, credential, reach


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


def nothing_left(world: World) -> bool:
    return world.service.living == 0 and not world.agent.directories and not world.lrm.submissions


async def refused(world: World, rsl: str, **changes: object) -> Submitted:
    submitted = await world.submit(rsl, **changes)
    assert submitted.job is None
    assert submitted.reply.contact is None
    assert nothing_left(world)
    assert await world.store.living_jobs() == []
    return submitted


@pytest.mark.parametrize(
    ("rsl", "code"),
    [
        ("&(executable=", 48),
        ("", 48),
        ("+(&(executable=/bin/true))", 48),
        ("&(executable=/bin/true)(nonsense=1)", 1),
        ("&(arguments=1)", 81),
        ("&(executable=/bin/true)(count=none)", 14),
        ("&(executable=$(NOBODY))", 39),
        ("&(executable=/bin/true)(username=root)", 167),
        ("&(executable=/bin/true)(two_phase=99999999999999999999)", None),
    ],
)
async def test_a_bad_request_gets_its_code(rsl: str, code: int | None, world: World) -> None:
    reply = (await refused(world, rsl)).reply
    assert reply.status == code or (code is None and reply.status > 0)
    assert reply.extensions.failure_message


async def test_accepted(world: World) -> None:
    submitted = await world.submit()
    assert submitted.reply.status == 0
    assert submitted.job is not None
    assert submitted.reply.contact == submitted.job.record.contact
    first, second = submitted.job.record.id.split("/")
    assert first.isdecimal()
    assert second.isdecimal()
    assert world.credentials.offered == [submitted.job.record.owner]


async def test_nothing_happens_before_the_reply(world: World) -> None:
    submitted = await world.service.intake.submit(world.request())
    await asyncio.sleep(0.01)
    assert submitted.job is not None
    assert submitted.job.record.phase is Phase.STAGE_IN
    assert not world.lrm.submissions
    submitted.replied(delivered=True)
    await reach(submitted.job, Phase.ACTIVE)


@pytest.mark.parametrize("two_phase", ["", "(two_phase=yes)"])
async def test_a_dry_run_leaves_nothing(world: World, two_phase: str) -> None:
    submitted = await refused(world, f"&(executable=/bin/true)(dry_run=yes){two_phase}")
    assert submitted.reply.status == ErrorCode.DRYRUN
    assert world.agent.calls == ["create_job", "clean_up"]
    assert world.heard == []


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (None, ErrorCode.USER_PROXY_NOT_FOUND),
        (credential(599), ErrorCode.USER_PROXY_EXPIRED),
        (credential(-10), ErrorCode.USER_PROXY_EXPIRED),
    ],
)
async def test_credentials_that_are_missing_or_too_short(
    world: World, made: object, code: ErrorCode
) -> None:
    reply = (await refused(world, "&(executable=/bin/true)", credential=made)).reply
    assert reply.status == code
    assert world.agent.calls == []
    assert world.credentials.offered == []


async def test_the_limit_of_an_account_holds_for_requests_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, max_jobs_per_account=3)
    await world.start()
    world.agent.gates["create_job"] = asyncio.Event()
    asked = [asyncio.create_task(world.submit()) for _ in range(8)]
    other = asyncio.create_task(world.submit(account="bob"))
    await asyncio.sleep(0.01)
    world.agent.gates["create_job"].set()
    statuses = sorted(int(each.reply.status) for each in await asyncio.gather(*asked))
    assert statuses == [0, 0, 0] + [ErrorCode.NO_RESOURCES] * 5
    assert (await other).reply.status == 0
    for job in world.service.jobs():
        await reach(job, Phase.ACTIVE)
        world.lrm.end(job.record.container)
    async with asyncio.timeout(20):
        while world.service.living:
            await asyncio.sleep(0.001)
    assert (await world.submit()).reply.status == 0  # the failed ones hold no place
    await world.stop()


@pytest.mark.parametrize("error", [StoreError("disk full"), OSError("no descriptors")])
async def test_a_job_that_cannot_be_stored_leaves_no_files(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def add_job(*_: object) -> None:
        raise error

    monkeypatch.setattr(world.store, "add_job", add_job)
    if isinstance(error, OSError):
        monkeypatch.setattr(world.store, "add_job", None)
        world.pool.fails = [GramError(ErrorCode.NO_RESOURCES, "no descriptors")]
    assert (await refused(world, "&(executable=/bin/true)")).reply.status == 3


async def test_an_agent_that_refuses(world: World) -> None:
    world.agent.fails["create_job"] = [GramError(ErrorCode.OPENING_STDOUT, "no such directory")]
    reply = (await refused(world, "&(executable=/bin/true)(stdout=/no/where)")).reply
    assert (reply.status, reply.extensions.failure_message) == (73, "no such directory")


async def test_no_port_for_the_contact_is_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def contact(*_: object) -> str:
        raise NoPortError("no free port")

    monkeypatch.setattr(FakeAddresses, "contact", contact)
    assert (await refused(world, "&(executable=/bin/true)")).reply.status == 3


async def test_bytes_that_are_no_text_are_kept_out_of_the_databases_way(world: World) -> None:
    job = await world.job(
        "&(executable=/bin/true)(arguments=\udcff\x01)", callback_url="https://h:1/\udcfe"
    )
    await reach(job, Phase.ACTIVE)
    assert "\udcff\x01" in (await world.service.details(job.record.id))[0].arguments
    await world.kill()
    await world.start()
    again = world.service.find(job.record.path)
    assert again is not None
    assert "\udcff\x01" in (await world.service.details(job.record.id))[0].arguments


async def test_secrets_are_in_no_log(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        await world.submit()
        await world.submit("&(executable=/bin/true)(environment=(TOKEN hunter2))(oops=1)")
        job = await world.job("&(executable=/bin/true)(environment=(TOKEN hunter2))")
        await reach(job, Phase.ACTIVE)
    assert logs
    assert "hunter2" not in str(logs)
    assert "a secret" not in str(logs)
