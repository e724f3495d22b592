"""Jobs through a real spawner: how they start, what they see, how they end (design.md 4)."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.spawner_client import (
    LaunchError,
    Limits,
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
    running,
    state,
    until,
)

SH = "/bin/sh"


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path) as started:
        yield started


async def test_exit_codes_and_signals_are_told(jobs: Harness) -> None:
    for code in (0, 1, 7, 255):
        record = await jobs.run(f"code-{code}", SH, "-c", f"exit {code}")
        assert [(end.exit_code, end.signal) for end in record.processes] == [(code, None)]
        assert record.reason == "exited"
    record = await jobs.run("signalled", SH, "-c", "kill -USR1 $$")
    assert [(end.exit_code, end.signal) for end in record.processes] == [(None, signal.SIGUSR1)]
    assert record.last_status == signal.SIGUSR1


async def test_the_record_says_who_when_and_how_much(jobs: Harness) -> None:
    before = time.time()
    burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.2"
    record = await jobs.run("usage", SH, "-c", burn)
    assert record.account == jobs.account
    assert before <= record.started
    assert record.started + 0.2 <= record.ended <= time.time()
    assert record.cpu_user > 0.01
    assert record.max_rss_kb > 500
    assert record.members == 1  # the shell has waited for its sleep itself
    assert record.processes[0].cpu_user == record.cpu_user


async def test_standard_streams_are_the_descriptors_given(jobs: Harness, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("from stdin\n")
    await jobs.run("streams", SH, "-c", "cat; echo to stderr >&2", stdin=[source])
    assert jobs.output("streams") == "from stdin\n"
    assert jobs.output("streams", stream="err") == "to stderr\n"


async def test_the_environment_is_exactly_the_one_asked_for(jobs: Harness) -> None:
    wanted = (("ONE", "1"), ("EMPTY", ""), ("LINES", "a\nb"), ("BYTES", "\udcff\udc80é"))
    await jobs.run("environment", "/usr/bin/env", "-0", environment=wanted)
    data = (jobs.directory / "environment.out0").read_bytes()
    expected = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in wanted]
    assert sorted(data.split(b"\0")[:-1]) == sorted(expected)
    assert b"BYTES=\xff\x80\xc3\xa9" in data


async def test_of_a_name_given_twice_the_last_value_counts(jobs: Harness) -> None:
    await jobs.run("twice", "/usr/bin/env", environment=(("A", "1"), ("A", "2")))
    assert jobs.output("twice") == "A=2\n"


async def test_arguments_arrive_byte_for_byte(jobs: Harness) -> None:
    awkward = ["", "a b", "$HOME `id` \\ \" '", "new\nline", "\udcff"]
    await jobs.run("arguments", "/usr/bin/printf", "%s|", *awkward)
    data = (jobs.directory / "arguments.out0").read_bytes()
    assert data == b"".join(item.encode("utf-8", "surrogateescape") + b"|" for item in awkward)


# The glob's own descriptor is closed again when the names are tested.
OPEN_DESCRIPTORS = 'for fd in /proc/$$/fd/*; do [ -e "$fd" ] && echo "${fd##*/}"; done'


async def test_a_job_has_three_descriptors_and_nothing_else(jobs: Harness) -> None:
    for name in ("first", "second"):  # the second launch must not see the first one's either
        await jobs.run(name, SH, "-c", OPEN_DESCRIPTORS)
        assert jobs.output(name).split() == ["0", "1", "2"]


async def test_not_even_what_the_spawner_was_born_with_reaches_a_job(tmp_path: Path) -> None:
    prefix = ("/bin/bash", "-c", 'exec 97</etc/passwd; exec "$@"', "bash")
    async with harness(tmp_path, prefix=prefix) as jobs:
        assert descriptors(jobs.client.pid)[97] == "/etc/passwd"
        await jobs.run("born", SH, "-c", OPEN_DESCRIPTORS)
        assert jobs.output("born").split() == ["0", "1", "2"]


async def test_a_job_s_descriptor_limit_is_the_one_the_spawner_was_started_with(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, prefix=("prlimit", "--nofile=100:200")) as jobs:
        await jobs.run("limit", SH, "-c", "ulimit -S -n; ulimit -H -n")
        assert jobs.output("limit").split() == ["100", "200"]


async def test_signal_dispositions_umask_and_limits_are_fresh(jobs: Harness) -> None:
    script = "grep -E '^Sig(Ign|Blk)' /proc/self/status; umask; ulimit -c"
    await jobs.run("fresh", SH, "-c", script)
    lines = jobs.output("fresh").split("\n")
    assert [line.split()[1] for line in lines[:2]] == ["0" * 16] * 2
    assert lines[2] in ("0022", "022")
    assert lines[3] == "0"


async def test_the_working_directory_is_the_one_given(jobs: Harness, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o755)
    (place / "program").write_text("#!/bin/sh\n/bin/pwd\n")
    (place / "program").chmod(0o755)
    await jobs.run("relative", "./program", cwd=place)
    assert jobs.output("relative").strip() == str(place.resolve())


async def test_each_process_leads_its_own_session(jobs: Harness) -> None:
    launched = await jobs.launch("sessions", "/bin/sleep", "100", processes=2)
    assert len(set(launched.pids)) == 2
    for pid in launched.pids:
        assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.getsid(launched.shepherd) == launched.shepherd


async def test_every_one_of_several_processes_has_its_streams_and_its_end(jobs: Harness) -> None:
    # Who comes second finds the directory: one of each code, whatever the order.
    script = "mkdir ../turn 2>/dev/null || exit 3; echo first; exit 4"
    (jobs.directory.parent).chmod(0o777)
    record = await jobs.run("several", SH, "-c", script, processes=3)
    assert sorted(end.exit_code or 0 for end in record.processes) == [3, 3, 4]
    for index, end in enumerate(record.processes):
        assert jobs.output("several", index) == ("first\n" if end.exit_code == 4 else "")
    assert record.members == 3


async def test_more_descriptors_than_one_message_holds(jobs: Harness) -> None:
    record = await jobs.run("crowd", SH, "-c", "echo $$", processes=100)
    launched = [int(jobs.output("crowd", index)) for index in range(100)]
    assert len(set(launched)) == 100
    assert all(end.exit_code == 0 for end in record.processes)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("/nonexistent/program", errno.ENOENT),
        ("", errno.ENOENT),
        ("/etc/passwd", errno.EACCES),
        ("/tmp", errno.EACCES),
        ("./garbage", errno.ENOEXEC),
    ],
)
async def test_a_program_that_cannot_run_is_told(jobs: Harness, program: str, code: int) -> None:
    (jobs.directory / "garbage").write_text("not a program")
    (jobs.directory / "garbage").chmod(0o755)
    with pytest.raises(LaunchError) as caught:
        await jobs.launch("bad", program)
    assert (caught.value.stage, caught.value.errno) == ("exec", code)
    assert caught.value.text == os.strerror(code)
    await until(lambda: not list(jobs.spool.iterdir()))
    assert await jobs.client.list() == ()
    assert await jobs.client.records() == ()
    assert jobs.told == []
    await jobs.run("bad", "/bin/true")  # the name is free again


async def test_all_processes_run_or_none(jobs: Harness) -> None:
    # Every process executes its own standard input, and only the first one's is a program.
    with pytest.raises(LaunchError) as caught:
        await jobs.launch(
            "none", "/proc/self/fd/0", "4711.5", processes=3, stdin=["/bin/sleep", "/dev/null"]
        )
    assert (caught.value.stage, caught.value.errno) == ("exec", errno.EACCES)
    assert not running("4711.5")


async def test_a_directory_the_account_may_not_enter_is_told(jobs: Harness, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    cwd = os.open(closed, os.O_RDONLY)
    closed.chmod(0o000)
    with pytest.raises(LaunchError) as caught:
        await jobs.launch("closed", "/bin/true", cwd=cwd)
    os.close(cwd)
    assert (caught.value.stage, caught.value.errno) == ("chdir", errno.EACCES)


async def test_a_working_directory_that_is_a_file_is_told(jobs: Harness) -> None:
    with pytest.raises(LaunchError) as caught:
        await jobs.launch("file", "/bin/true", cwd=Path(os.devnull))
    assert (caught.value.stage, caught.value.errno) == ("chdir", errno.ENOTDIR)


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


# The table of containers, and the records.


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
