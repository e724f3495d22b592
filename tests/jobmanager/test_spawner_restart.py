"""Shepherds outlive spawner and service; whatever dies, the end of a job is told (design.md 4)."""

import asyncio
import os
import signal
from pathlib import Path

from jobmanager.spawner_client import ExitRecord
from tests.support.spawner import Harness, alive, harness, until

SH = "/bin/sh"
WAIT_FOR_GO = "while [ ! -e go ]; do sleep 0.01; done; exit 6"


async def kill_spawner(jobs: Harness) -> None:
    """SIGKILL, and wait until the client knows."""
    os.kill(jobs.client.pid, signal.SIGKILL)
    await until(lambda: jobs.lost)


async def test_a_new_spawner_takes_over_a_living_job(tmp_path: Path) -> None:
    async with harness(tmp_path) as old:
        launched = await old.launch("job", SH, "-c", WAIT_FOR_GO)
        await kill_spawner(old)
    assert alive(launched.pids[0])
    async with harness(tmp_path) as new:
        assert await new.client.records() == ()
        assert await new.client.list() == (launched,)
        assert launched.pids[0] in await new.client.members("job")
        (new.directory / "go").touch()
        record = await new.end("job")
        assert (record.reason, record.processes[0].exit_code) == ("exited", 6)
        assert await new.client.records() == (record,)
        assert record.started == launched.started


async def test_a_new_spawner_can_kill_freeze_and_thaw(tmp_path: Path) -> None:
    async with harness(tmp_path) as old:
        await old.launch("job", "/bin/sleep", "1000")
        await old.client.freeze("job")
        await kill_spawner(old)
    async with harness(tmp_path) as new:
        assert [info.frozen for info in await new.client.list()] == [True]
        await new.client.thaw("job")
        await new.client.kill("job", 5.0)
        record = await new.end("job")
        assert (record.reason, record.processes[0].signal) == ("killed", signal.SIGTERM)


async def test_an_end_without_a_spawner_is_on_record(tmp_path: Path) -> None:
    async with harness(tmp_path) as old:
        launched = await old.launch("job", SH, "-c", WAIT_FOR_GO)
        await kill_spawner(old)
    (tmp_path / "work" / "go").touch()
    await until(lambda: not alive(launched.shepherd))
    async with harness(tmp_path) as new:
        assert await new.client.list() == ()
        (record,) = await new.client.records()
        assert (record.reason, record.processes[0].exit_code) == ("exited", 6)


async def test_an_orderly_end_of_the_service_leaves_jobs_alone(tmp_path: Path) -> None:
    async with harness(tmp_path) as first:
        launched = await first.launch("job", "/bin/sleep", "1000")
        spawner = first.client.pid
        await first.client.aclose()
        first.lost = True  # nothing for the harness to clean up
    assert not alive(spawner)
    assert alive(launched.pids[0])
    async with harness(tmp_path) as second:
        (info,) = await second.client.list()
        assert info.pids == launched.pids


async def test_a_lost_shepherd_takes_its_main_processes_with_it(tmp_path: Path) -> None:
    async with harness(tmp_path) as jobs:
        launched = await jobs.launch("job", "/bin/sleep", "1000", processes=2)
        os.kill(launched.shepherd, signal.SIGKILL)
        record = await jobs.end("job")
        assert record.reason == "lost"
        assert [(end.exit_code, end.signal) for end in record.processes] == [(None, None)] * 2
        await until(lambda: not any(map(alive, launched.pids)))
        assert await jobs.client.records() == (record,)
        assert await jobs.client.list() == ()


async def test_a_shepherd_lost_without_a_spawner_is_told_as_lost(tmp_path: Path) -> None:
    async with harness(tmp_path) as old:
        launched = await old.launch("job", "/bin/sleep", "1000")
        await kill_spawner(old)
    os.kill(launched.shepherd, signal.SIGKILL)
    await until(lambda: not alive(launched.shepherd))
    async with harness(tmp_path) as new:
        assert await new.client.list() == ()
        (record,) = await new.client.records()
        assert (record.container, record.account, record.reason) == ("job", old.account, "lost")
        assert record.started == launched.started
        await new.client.forget("job")
    async with harness(tmp_path) as third:
        assert await third.client.records() == ()


async def test_records_spoilt_by_a_power_failure_count_as_lost(tmp_path: Path) -> None:
    async with harness(tmp_path) as old:
        await old.run("whole", "/bin/true")
        await old.run("spoilt", "/bin/true")
    spool = tmp_path / "spool"
    (spool / "spoilt.exit").write_bytes(b"")
    (spool / "no-note.job").write_bytes(b"\0" * 20)
    (spool / "not a name.job").write_bytes(b"{}")
    async with harness(tmp_path) as new:
        reasons = {record.container: record.reason for record in await new.client.records()}
        assert reasons == {"whole": "exited", "spoilt": "lost", "no-note": "lost"}


async def test_a_shepherd_told_to_terminate_records_the_end(tmp_path: Path) -> None:
    async with harness(tmp_path) as jobs:
        launched = await jobs.launch("job", "/bin/sleep", "1000")
        os.kill(launched.shepherd, signal.SIGTERM)
        record = await jobs.end("job")
        assert (record.reason, record.processes[0].signal) == ("shutdown", signal.SIGTERM)


HANGING_EXEC = """
import jobmanager.spawner.child as child, os, time
def hang(argv, environment):
    while not os.path.exists(argv[1]):
        time.sleep(0.01)
    raise FileNotFoundError(2, "")
child._execute = hang
"""


async def test_a_launch_that_fails_after_its_asker_has_gone_is_told(tmp_path: Path) -> None:
    gone: ExitRecord
    async with harness(tmp_path, extra=f"exec({HANGING_EXEC!r})") as old:
        launching = asyncio.create_task(old.launch("job", "program", "go"))
        await until(lambda: (old.spool / "job.sock").exists())
        (info,) = await old.client.list()
        assert info.shepherd == 0
        await kill_spawner(old)
        await asyncio.gather(launching, return_exceptions=True)
    async with harness(tmp_path) as new:
        (info,) = await new.client.list()
        assert info.container == "job"
        (new.directory / "go").touch()
        gone = await new.end("job")
        assert gone.reason == "launch-failed"
        assert await new.client.list() == ()
        assert await new.client.records() == ()
        await new.run("job", "/bin/true")
