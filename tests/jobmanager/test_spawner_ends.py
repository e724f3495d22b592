"""How jobs end: limits, signals, kill, what is left over (job-containers.md 10, 16)."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.spawner_client import (
    Limits,
)
from tests.support.spawner import (
    Harness,
    alive,
    harness,
    running,
    state,
    until,
)

SH = "/bin/sh"


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path) as started:
        yield started


# Limits.


async def test_the_wall_clock_limit_ends_the_job(jobs: Harness) -> None:
    limits = Limits(wall_seconds=0.2)
    record = await jobs.run("wall", "/bin/sleep", "1000", limits=limits)
    assert record.reason == "wall-limit"
    assert record.processes[0].signal == signal.SIGTERM
    assert record.ended - record.started >= 0.2


async def test_a_job_that_ignores_sigterm_is_killed_at_the_wall_clock_limit(jobs: Harness) -> None:
    limits = Limits(wall_seconds=0.1, grace_seconds=0.2)
    script = "trap '' TERM; while :; do sleep 1000; done"
    record = await jobs.run("stubborn", SH, "-c", script, limits=limits)
    assert record.reason == "wall-limit"
    assert record.processes[0].signal == signal.SIGKILL
    assert record.ended - record.started >= 0.3


async def test_the_cpu_limit_is_each_process_s_own(jobs: Harness) -> None:
    limits = Limits(cpu_seconds=1)
    record = await jobs.run("cpu", SH, "-c", "while :; do :; done", limits=limits)
    assert record.reason == "cpu-limit"
    assert record.processes[0].signal == signal.SIGXCPU
    assert record.cpu_user + record.cpu_system >= 0.5  # the kernel counts in ticks


async def test_a_limit_can_be_far_away(jobs: Harness) -> None:
    far = Limits(wall_seconds=400 * 86400.0)
    assert (await jobs.run("far", "/bin/sleep", "0.1", limits=far)).reason == "exited"


async def test_limits_are_the_ones_asked_for(jobs: Harness) -> None:
    limits = Limits(cpu_seconds=77, memory_bytes=512 << 20)
    await jobs.run("limits", SH, "-c", "ulimit -t; ulimit -v", limits=limits)
    assert jobs.output("limits").split() == ["77", str(512 << 10)]


# Signals, kill, what is left over.


async def test_kill_gives_the_job_a_chance_to_end_well(jobs: Harness) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    await jobs.launch("polite", SH, "-c", script)
    await until(lambda: jobs.output("polite"))
    await jobs.client.kill("polite", 20.0)
    record = await jobs.end("polite")
    assert (record.reason, record.processes[0].exit_code) == ("killed", 9)
    assert jobs.output("polite") == "ready\nbye\n"


async def test_kill_ends_a_job_that_ignores_sigterm(jobs: Harness) -> None:
    await jobs.launch("deaf", SH, "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")
    await until(lambda: jobs.output("deaf"))
    await jobs.client.kill("deaf", 0.1)
    record = await jobs.end("deaf")
    assert (record.reason, record.processes[0].signal) == ("killed", signal.SIGKILL)


async def test_a_second_kill_shortens_the_grace(jobs: Harness) -> None:
    await jobs.launch("twice", SH, "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")
    await until(lambda: jobs.output("twice"))
    await jobs.client.kill("twice", 3600.0)
    await jobs.client.kill("twice", 0.0)
    assert (await jobs.end("twice")).processes[0].signal == signal.SIGKILL


async def test_kill_is_answered_before_the_end(jobs: Harness) -> None:
    for index in range(10):
        await jobs.launch(f"quick-{index}", "/bin/sleep", "1000")
        await jobs.client.kill(f"quick-{index}", 0.0)
        assert (await jobs.end(f"quick-{index}")).reason == "killed"


DAEMON = (
    "trap '' HUP INT TERM; "
    "setsid sh -c 'setsid sh -c \"echo deep; exec env -i sleep 1000\" & exec env -i sleep 1000' & "
)
WAIT_FOR_GO = "while [ ! -e go ]; do sleep 0.01; done; "


async def _daemons(jobs: Harness, container: str) -> tuple[int, ...]:
    """The pids of a job that runs DAEMON: all of them, once they are what they shall be."""
    await until(lambda: "deep" in jobs.output(container))
    found = await jobs.client.members(container)
    sessions = set()
    for pid in found:
        with contextlib.suppress(ProcessLookupError):  # a short sleep of the main process
            sessions.add(os.getsid(pid))
    assert len(sessions) >= 2
    return found


async def test_kill_reaches_daemons_that_left_session_group_and_environment(jobs: Harness) -> None:
    await jobs.launch("daemons", SH, "-c", DAEMON + "exec sleep 1000")
    members = await _daemons(jobs, "daemons")
    assert len(members) >= 3
    await jobs.client.kill("daemons", 0.05)
    record = await jobs.end("daemons")
    assert record.reason == "killed"
    assert record.members >= 3
    assert not [pid for pid in members if alive(pid)]


async def test_daemons_do_not_survive_the_end_of_the_main_process(jobs: Harness) -> None:
    await jobs.launch(
        "leftover", SH, "-c", DAEMON + "while [ ! -e go ]; do sleep 0.01; done; exit 3"
    )
    members = await _daemons(jobs, "leftover")
    (jobs.directory / "go").touch()
    record = await jobs.end("leftover")
    assert (record.reason, record.processes[0].exit_code) == ("exited", 3)
    assert record.last_status == signal.SIGKILL
    assert not [pid for pid in members if alive(pid)]


async def test_a_chain_of_forks_is_ended(jobs: Harness) -> None:
    chain = jobs.directory / "chain"
    chain.write_text("#!/bin/sh\ntrap '' TERM\necho hop\nsetsid ./chain &\n")
    chain.chmod(0o755)
    await jobs.launch("chain", SH, "-c", "./chain; exec sleep 1000")
    await until(lambda: jobs.output("chain").count("hop") > 5)
    await jobs.client.kill("chain", 0.0)
    await jobs.end("chain")
    hops = jobs.output("chain").count("hop")
    assert not running("./chain")
    await asyncio.sleep(0.1)
    assert jobs.output("chain").count("hop") == hops


async def test_a_signal_reaches_every_member(jobs: Harness) -> None:
    script = "trap 'wait; echo $1; exit' USR1; echo ready; while :; do sleep 0.01; done"
    await jobs.launch("usr1", SH, "-c", 'sh -c "$0" x inner & eval "$0"; wait', script, "outer")
    await until(lambda: jobs.output("usr1").count("ready") == 2)
    await jobs.client.signal("usr1", 0)
    await jobs.client.signal("usr1", signal.SIGUSR1)
    await jobs.end("usr1")
    assert sorted(jobs.output("usr1").split()) == ["inner", "outer", "ready", "ready"]


async def test_freeze_and_thaw(jobs: Harness) -> None:
    script = "while :; do echo tick; sleep 0.01; done"
    launched = await jobs.launch("ice", SH, "-c", f"({script}) & {script}")
    await until(lambda: jobs.output("ice"))
    await jobs.client.freeze("ice")
    assert [info.frozen for info in await jobs.client.list()] == [True]
    members = await jobs.client.members("ice")
    states = [state(pid) for pid in members]
    assert len(states) >= 2
    assert set(states) <= {"T", "Z", "D"}  # D: a shell whose vfork waits for a stopped child
    silent = jobs.output("ice")
    await asyncio.sleep(0.1)
    assert jobs.output("ice") == silent
    await jobs.client.thaw("ice")
    assert [info.frozen for info in await jobs.client.list()] == [False]
    await until(lambda: len(jobs.output("ice")) > len(silent))
    assert alive(launched.pids[0])


async def test_a_frozen_job_can_be_killed(jobs: Harness) -> None:
    await jobs.launch("frozen", "/bin/sleep", "1000")
    await jobs.client.freeze("frozen")
    await jobs.client.kill("frozen", 20.0)
    record = await jobs.end("frozen")
    assert (record.reason, record.processes[0].signal) == ("killed", signal.SIGTERM)


async def test_a_shepherd_whose_spool_was_removed_does_not_stay(jobs: Harness) -> None:
    launched = await jobs.launch("homeless", "/bin/sleep", "1000")
    shutil.rmtree(jobs.spool)
    os.kill(launched.pids[0], signal.SIGKILL)
    await until(lambda: not alive(launched.shepherd))
