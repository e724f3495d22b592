"""Jobs through a real spawner: how they start and what they see (design.md 4)."""

import errno
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.spawner_client import (
    LaunchError,
)
from tests.support.spawner import (
    Harness,
    descriptors,
    harness,
    running,
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
    # Signals 32 and 33 belong to the C library: its posix_spawn, which make uses, leaves them
    # ignored, and sigaction does not let anybody change that.
    library = 0b11 << 31
    assert [int(line.split()[1], 16) & ~library for line in lines[:2]] == [0, 0]
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
