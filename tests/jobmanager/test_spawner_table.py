"""The table of containers, their records, and what the spawner holds and imports."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.spawner_client import (
    LaunchError,
    SpawnerClient,
    SpawnerError,
    SpawnerLost,
)
from tests.support.spawner import (
    ROOT,
    Harness,
    alive,
    descriptors,
    harness,
    policy,
    until,
)

SH = "/bin/sh"


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path) as started:
        yield started


async def test_two_jobs_at_a_time_do_not_touch_each_other(jobs: Harness) -> None:
    first = await jobs.launch("first", "/bin/sleep", "1000")
    second = await jobs.launch("second", "/bin/sleep", "1000")
    assert {info.container: info for info in await jobs.client.list()} == {
        "first": first, "second": second,
    }  # fmt: skip
    assert await jobs.client.members("first") == first.pids
    await jobs.client.kill("first", 1.0)
    await jobs.end("first")
    assert await jobs.client.list() == (second,)
    assert alive(second.pids[0])
    assert [record.container for record in await jobs.client.records()] == ["first"]


async def test_a_record_stays_until_it_is_forgotten(jobs: Harness) -> None:
    record = await jobs.run("kept", SH, "-c", "exit 5")
    assert await jobs.client.records() == (record,)
    with pytest.raises(LaunchError) as caught:
        await jobs.launch("kept", "/bin/true")
    assert (caught.value.stage, caught.value.errno) == ("container", errno.EEXIST)
    await jobs.client.forget("kept")
    await jobs.client.forget("kept")
    assert await jobs.client.records() == ()
    assert list(jobs.spool.iterdir()) == []
    await jobs.run("kept", "/bin/true")


async def test_a_living_container_is_not_forgotten_nor_launched_again(jobs: Harness) -> None:
    await jobs.launch("living", "/bin/sleep", "1000")
    with pytest.raises(SpawnerError) as forgotten:
        await jobs.client.forget("living")
    assert forgotten.value.errno == errno.EBUSY
    with pytest.raises(LaunchError) as launched:
        await jobs.launch("living", "/bin/true")
    assert launched.value.errno == errno.EEXIST


async def test_long_listings_come_in_parts(jobs: Harness) -> None:
    for index in range(13):
        await jobs.run(f"job-{index}", "/bin/true")
    assert len(await jobs.client.records()) == 13
    assert len(jobs.told) == 13


async def test_requests_about_unknown_containers_are_refused(jobs: Harness) -> None:
    await jobs.run("over", "/bin/true")
    for name in ("never", "over"):
        for request in (
            jobs.client.signal(name, 15), jobs.client.freeze(name), jobs.client.thaw(name),
            jobs.client.kill(name, 0.0), jobs.client.members(name),
        ):  # fmt: skip
            with pytest.raises(SpawnerError) as caught:
                await request
            assert (caught.value.stage, caught.value.errno) == ("container", errno.ESRCH)


async def test_a_record_waits_for_room_on_the_disk(jobs: Harness) -> None:
    launched = await jobs.launch("full", "/bin/sleep", "1000")
    (jobs.spool / "full.tmp").mkdir()  # where the record is written first
    await jobs.client.kill("full", 0.0)
    await until(lambda: not alive(launched.pids[0]))
    assert [info.container for info in await jobs.client.list()] == ["full"]
    assert jobs.told == []
    (jobs.spool / "full.tmp").rmdir()
    assert (await jobs.end("full")).reason == "killed"


async def test_the_spawner_keeps_no_descriptors_of_jobs(jobs: Harness) -> None:
    await jobs.run("warm-up", "/bin/true")
    before = descriptors(jobs.client.pid)
    for index in range(20):
        await jobs.run(f"leak-{index}", "/bin/true")
    with pytest.raises(LaunchError):
        await jobs.launch("leak", "/nonexistent")
    await until(lambda: descriptors(jobs.client.pid) == before)


async def test_a_shepherd_holds_none_of_the_spawner_s_sockets(jobs: Harness) -> None:
    first = await jobs.launch("first", "/bin/sleep", "1000")
    second = await jobs.launch("second", "/bin/sleep", "1000")
    held = [
        {link for link in descriptors(pid).values() if link.startswith("socket:")}
        for pid in (jobs.client.pid, first.shepherd, second.shepherd)
    ]
    assert all(held)
    assert sum(map(len, held)) == len(set.union(*held))


async def test_a_shepherd_holds_nothing_of_the_job_s_files(jobs: Harness) -> None:
    launched = await jobs.launch("holds", "/bin/sleep", "1000")
    links = descriptors(launched.shepherd).values()
    assert not [link for link in links if str(jobs.directory) in link]


async def test_the_service_is_told_of_the_spawner_s_death(jobs: Harness) -> None:
    await jobs.client.ping()
    os.kill(jobs.client.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(jobs.client.ping())
    await asyncio.sleep(0)
    os.kill(jobs.client.pid, signal.SIGKILL)
    with pytest.raises(SpawnerLost):
        await waiting
    await until(lambda: jobs.lost)
    with pytest.raises(SpawnerLost):
        await jobs.client.list()


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """An interpreter that finds this tree as an installed package."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, cwd="/"
    )
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (site / "tree.pth").write_text(str(ROOT))
    return tmp_path / "venv/bin/python"


async def test_start_execs_the_installed_spawner(tmp_path: Path, installation: Path) -> None:
    rules = policy(tmp_path / "spool")
    client = await SpawnerClient.start(rules, interpreter=str(installation))
    command, environment = _command_of(client.pid)
    assert command[1:4] == ["-I", "-m", "jobmanager.spawner"]
    assert {name.partition("=")[0] for name in environment} == {"PATH", "LANG"}
    assert os.getsid(client.pid) == client.pid
    await client.ping()
    await client.aclose()
    await client.aclose()
    assert not alive(client.pid)
    with pytest.raises(SpawnerLost):
        await client.ping()


def _command_of(pid: int) -> tuple[list[str], list[str]]:
    return tuple(  # type: ignore[return-value] # two of them
        Path(f"/proc/{pid}/{name}").read_text().split("\0")[:-1] for name in ("cmdline", "environ")
    )


def test_the_spawner_imports_nothing_but_itself_and_the_standard_library(
    installation: Path,
) -> None:
    script = (
        "import sys; before = {*sys.modules}; import jobmanager.spawner.__main__; "
        "print(*({*sys.modules} - before))"
    )
    done = subprocess.run(
        [installation, "-I", "-c", script], check=True, capture_output=True, text=True
    )
    ours = {name for name in done.stdout.split() if name.partition(".")[0] == "jobmanager"}
    assert {".".join(name.split(".")[:2]) for name in ours} == {"jobmanager", "jobmanager.spawner"}
    others = {name.partition(".")[0] for name in done.stdout.split()} - {"jobmanager"}
    assert others <= sys.stdlib_module_names
    assert not others & {"asyncio", "ssl", "subprocess", "threading", "logging"}
