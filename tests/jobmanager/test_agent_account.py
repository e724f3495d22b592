"""An agent as another account: started by the spawner, its job run by the spawner."""

import os
import pwd
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from jobmanager.agent.client import AgentPool, JobFiles
from jobmanager.spawner_client import LaunchRequest
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.accounts import temporary_accounts
from tests.support.agent_lab import CONTACT, PROXY, job, to
from tests.support.gass_server import gass_server
from tests.support.spawner import Harness, harness

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another account needs root"),
]


@pytest.fixture(scope="module")
def account() -> Iterator[pwd.struct_passwd]:
    with temporary_accounts("agent") as (made,):
        yield made


@pytest.fixture
async def spawner(tmp_path: Path, account: pwd.struct_passwd) -> AsyncIterator[Harness]:
    async with harness(tmp_path, account=account.pw_name) as started:
        yield started


@pytest.fixture
async def pool(spawner: Harness) -> AsyncIterator[AgentPool]:
    made = AgentPool(spawner.client.start_agent)
    yield made
    await made.aclose()


async def test_a_job_from_its_creation_to_its_end(
    spawner: Harness, pool: AgentPool, account: pwd.struct_passwd
) -> None:
    home = Path(account.pw_dir)
    agent = await pool.get(account.pw_name)
    assert agent.home == account.pw_dir
    async with gass_server() as server:
        description = job(
            home, executable="/bin/sh", arguments=("-c", "id -un; pwd; echo oops >&2"),
            stdout=to(f"{server.url}/out"), stderr=to("err"),
        )  # fmt: skip
        paths = await agent.create_job("1-2", CONTACT, description, PROXY)
        for path in (home / ".gram", Path(paths.directory), Path(paths.proxy), home / "err"):
            assert path.stat().st_uid == account.pw_uid
            assert path.stat().st_mode & 0o077 == 0
        files = JobFiles("1-2", CONTACT, description, paths)
        opened = await agent.open_job(files)
        request = LaunchRequest(
            "agent-test", account.pw_name, 1, (opened.executable, *description.arguments),
            (("PATH", "/usr/bin:/bin"),),
        )  # fmt: skip
        try:
            await spawner.client.launch(request, opened.descriptors)
        finally:
            for descriptor in opened.descriptors:
                os.close(descriptor)
        await agent.stream(files)
        assert (await spawner.end("agent-test")).reason == "exited"
        await agent.finish_output(files)
        assert server.files["/out"].decode() == f"{account.pw_name}\n{home}\n"
    assert (home / "err").read_text() == "oops\n"
    assert await agent.clean_up(files) == 0
    assert list((home / ".gram/jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"stdout": to("/etc/passwd")}, ErrorCode.OPENING_STDOUT),
        ({"stderr": to("/root/err")}, ErrorCode.OPENING_STDERR),
        ({"scratch_dir": "/root"}, ErrorCode.INVALID_SCRATCH),
    ],
)
async def test_the_agent_can_do_what_the_account_can(
    pool: AgentPool, account: pwd.struct_passwd, changes: dict[str, object], code: ErrorCode
) -> None:
    agent = await pool.get(account.pw_name)
    description = job(Path(account.pw_dir), **changes)
    with pytest.raises(GramError) as caught:
        await agent.create_job("1-2", CONTACT, description, PROXY)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"directory": "/root"}, ErrorCode.BAD_DIRECTORY),
        ({"stdin": "/etc/shadow"}, ErrorCode.STDIN_NOT_FOUND),
        ({"executable": "/root/program"}, ErrorCode.EXECUTABLE_NOT_FOUND),
    ],
)
async def test_a_job_opens_what_the_account_may_open(
    pool: AgentPool, account: pwd.struct_passwd, changes: dict[str, object], code: ErrorCode
) -> None:
    agent = await pool.get(account.pw_name)
    description = job(Path(account.pw_dir), **changes)
    paths = await agent.create_job("3-4", CONTACT, description, PROXY)
    files = JobFiles("3-4", CONTACT, description, paths)
    with pytest.raises(GramError) as caught:
        await agent.open_job(files)
    assert caught.value.code is code
    await agent.clean_up(files)


async def test_a_job_directory_of_somebody_else_is_refused(
    pool: AgentPool, account: pwd.struct_passwd
) -> None:
    """Root made it, or a stranger where homes are writable: it is not the account's."""
    agent = await pool.get(account.pw_name)
    jobs = Path(account.pw_dir) / ".gram/jobs"
    planted = jobs / "5-6"
    planted.mkdir(parents=True, exist_ok=True)
    (planted / "trap").touch()
    for path in (jobs.parent, jobs):
        os.chown(path, account.pw_uid, account.pw_gid)
        path.chmod(0o700)
    with pytest.raises(GramError) as caught:
        await agent.create_job("5-6", CONTACT, job(Path(account.pw_dir)), PROXY)
    assert caught.value.code is ErrorCode.ARG_FILE_CREATION_FAILED
    assert [path.name for path in planted.iterdir()] == ["trap"]
