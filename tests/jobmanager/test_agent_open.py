"""Opening a job: fork's order of checks (job-manager.md §3.4), and what the descriptors are."""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.agent.client import JobFiles
from jobmanager.description import Destination, JobType
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.agent_lab import AgentLab, agent_lab, run_opened, to, with_paths


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AgentLab]:
    async with agent_lab(tmp_path / "home") as made:
        yield made


async def refusal(lab: AgentLab, files: JobFiles) -> ErrorCode:
    """The code with which a job is not opened; no descriptor stays open for it."""
    agent = await lab.agent()
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(GramError) as caught:
        await agent.open_job(files)
    assert sorted(os.listdir("/proc/self/fd")) == before
    return caught.value.code


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_a_job_gets_its_directory_and_streams(lab: AgentLab) -> None:
    (lab.home / "in").write_text("hello ")
    (lab.home / "out").write_text("before ")
    files = await lab.create(
        stdin=str(lab.home / "in"), stdout=to(str(lab.home / "out")), stderr=to("https://a.b:1/e")
    )
    opened = await (await lab.agent()).open_job(files)
    assert opened.executable == "/bin/true"
    assert opened.directory == str(lab.home)
    assert opened.stdout == str(lab.home / "out")
    assert opened.stderr == f"{files.paths.directory}/stderr"
    for descriptor in opened.descriptors:
        assert not os.get_inheritable(descriptor)
    for descriptor in opened.descriptors[1:]:
        assert os.get_blocking(descriptor)
    run_opened(opened.descriptors, "/bin/sh", "-c", "cat; pwd; echo oops >&2")
    assert (lab.home / "out").read_text() == f"before hello {lab.home}\n"
    error = Path(files.paths.directory) / "stderr"
    assert error.read_text() == "oops\n"
    assert stat.S_IMODE(error.stat().st_mode) == 0o600


async def test_output_is_appended_and_private(lab: AgentLab) -> None:
    files = await lab.create(stdout=to(str(lab.home / "both")), stderr=to(str(lab.home / "both")))
    opened = await (await lab.agent()).open_job(files)
    run_opened(opened.descriptors, "/bin/sh", "-c", "echo 1; echo 2 >&2; echo 3")
    assert (lab.home / "both").read_text() == "1\n2\n3\n"
    assert stat.S_IMODE((lab.home / "both").stat().st_mode) == 0o600


async def test_each_of_several_processes_has_streams_of_its_own(lab: AgentLab) -> None:
    (lab.home / "in").write_text("whole input\n")
    files = await lab.create(
        count=3,
        stdin=str(lab.home / "in"),
        stdout=to(str(lab.home / "out")),
        stderr=to("/dev/null"),
    )
    opened = await (await lab.agent()).open_job(files)
    assert len(opened.descriptors) == 1 + 3 * 3
    run_opened(opened.descriptors, "/bin/sh", "-c", "cat; echo $0")
    names = sorted(path.name for path in Path(files.paths.directory).glob("std*"))
    assert names == ["stdout000", "stdout001", "stdout002"]
    for index in range(3):
        text = (Path(files.paths.directory) / f"stdout00{index}").read_text()
        assert text == f"whole input\n{index}\n"


async def test_many_processes(lab: AgentLab) -> None:
    # More descriptors than one message may carry (253), fewer than an ordinary account may open.
    files = await lab.create(count=100, stdout=to("https://a.b:1/o"))
    opened = await (await lab.agent()).open_job(files)
    assert len(opened.descriptors) == 301
    assert (Path(files.paths.directory) / "stdout099").exists()
    for descriptor in opened.descriptors:
        os.close(descriptor)


async def test_a_single_job_is_one_process_whatever_its_count(lab: AgentLab) -> None:
    files = await lab.create(count=5, job_type=JobType.SINGLE)
    opened = await (await lab.agent()).open_job(files)
    assert len(opened.descriptors) == 4
    for descriptor in opened.descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("program", "{home}/program"),
        ("./program", "{home}/./program"),
        ("{home}/program", "{home}/program"),
    ],
)
async def test_a_relative_executable_is_below_the_directory(
    lab: AgentLab, given: str, found: str
) -> None:
    script(lab.home / "program", "#!/bin/sh\n")
    files = await lab.create(executable=given.format(home=lab.home))
    opened = await (await lab.agent()).open_job(files)
    assert opened.executable == found.format(home=lab.home)
    for descriptor in opened.descriptors:
        os.close(descriptor)


ORDER = (
    ("deferred", ErrorCode.RSL_DIRECTORY),
    ("directory", ErrorCode.BAD_DIRECTORY),
    ("deferred", ErrorCode.RSL_ENVIRONMENT),
    ("count", ErrorCode.INVALID_COUNT),
    ("job_type", ErrorCode.JOBTYPE_NOT_SUPPORTED),
    ("deferred", ErrorCode.RSL_EXECUTABLE),
    ("executable", ErrorCode.EXECUTABLE_NOT_FOUND),
    ("deferred", ErrorCode.RSL_STDIN),
    ("stdin", ErrorCode.STDIN_NOT_FOUND),
    ("deferred", ErrorCode.RSL_ARGUMENTS),
)
WRONG: dict[str, object] = {
    "directory": "/nowhere",
    "count": 0,
    "job_type": JobType.CONDOR,
    "executable": "/nowhere",
    "stdin": "/nowhere",
}


@pytest.mark.parametrize("first", range(len(ORDER)))
async def test_checks_come_in_forks_order(lab: AgentLab, first: int) -> None:
    """With everything wrong from one check on, that check is the one that answers."""
    files = await lab.create()
    wrong = ORDER[first:]
    changes = {name: WRONG[name] for name, _ in wrong if name != "deferred"}
    deferred = tuple((code, "wrong") for name, code in reversed(wrong) if name == "deferred")
    broken = with_paths(files.paths, files, **changes, deferred=deferred)
    assert await refusal(lab, broken) is ORDER[first][1]


async def test_a_deferred_error_keeps_its_text(lab: AgentLab) -> None:
    files = await lab.create(deferred=((ErrorCode.RSL_ARGUMENTS, "arguments: a nested list"),))
    with pytest.raises(GramError, match="arguments: a nested list"):
        await (await lab.agent()).open_job(files)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"directory": ""}, ErrorCode.BAD_DIRECTORY),
        ({"directory": "file"}, ErrorCode.BAD_DIRECTORY),
        ({"executable": "file"}, ErrorCode.EXECUTABLE_PERMISSIONS),
        ({"executable": "."}, ErrorCode.EXECUTABLE_PERMISSIONS),
        ({"executable": "file/below"}, ErrorCode.EXECUTABLE_NOT_FOUND),
        ({"executable": "https://a.b:1/never-fetched"}, ErrorCode.EXECUTABLE_NOT_FOUND),
        ({"stdin": "https://a.b:1/never-fetched"}, ErrorCode.STDIN_NOT_FOUND),
        ({"stdin": "."}, ErrorCode.STDIN_NOT_FOUND),
        ({"count": -1}, ErrorCode.INVALID_COUNT),
        ({"count": 100_000}, ErrorCode.INVALID_COUNT),
        ({"job_type": JobType.MPI}, ErrorCode.JOBTYPE_NOT_SUPPORTED),
    ],
)
async def test_what_cannot_be_started(
    lab: AgentLab, changes: dict[str, object], code: ErrorCode
) -> None:
    script(lab.home / "file", "not executable", 0o644)
    files = await lab.create()
    assert await refusal(lab, with_paths(files.paths, files, **changes)) is code


@pytest.mark.parametrize(
    ("stream", "code"),
    [("stdout", ErrorCode.OPENING_STDOUT), ("stderr", ErrorCode.OPENING_STDERR)],
)
async def test_output_that_can_no_longer_be_opened(
    lab: AgentLab, stream: str, code: ErrorCode
) -> None:
    (lab.home / "sub").mkdir()
    files = await lab.create(**{stream: to("sub/out")})
    (lab.home / "sub/out").unlink()
    (lab.home / "sub").rmdir()
    assert await refusal(lab, files) is code


async def test_a_pipe_nobody_writes_to_does_not_stop_the_agent(lab: AgentLab) -> None:
    os.mkfifo(lab.home / "pipe")
    files = await lab.create(stdin="pipe")
    opened = await (await lab.agent()).open_job(files)
    for descriptor in opened.descriptors:
        os.close(descriptor)
    files = with_paths(files.paths, files, stdout=to("pipe"))
    assert await refusal(lab, files) is ErrorCode.OPENING_STDOUT


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_link_planted_in_the_job_directory_is_not_followed(
    lab: AgentLab, tmp_path: Path, stream: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    files = await lab.create(**{stream: to("https://a.b:1/x")})
    (Path(files.paths.directory) / stream).symlink_to(victim)
    code = ErrorCode.OPENING_STDOUT if stream == "stdout" else ErrorCode.OPENING_STDERR
    assert await refusal(lab, files) is code
    assert victim.read_text() == "precious"


async def test_a_link_planted_for_one_of_the_processes_is_not_followed(
    lab: AgentLab, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    files = await lab.create(count=2, stdout=to(str(lab.home / "out")))
    (Path(files.paths.directory) / "stdout001").symlink_to(victim)
    assert await refusal(lab, files) is ErrorCode.OPENING_STDOUT
    assert not victim.exists()


async def test_a_cache_destination_is_written_in_the_cache(lab: AgentLab) -> None:
    url = "x-gass-cache://https://host/1/2/stdout"
    files = await lab.create(stdout=(Destination(url, "anExtraTag"),))
    opened = await (await lab.agent()).open_job(files)
    assert opened.stdout.startswith(files.paths.cache)
    run_opened(opened.descriptors, "/bin/echo", "cached")
    assert Path(opened.stdout).read_text() == "cached 0\n"


async def test_a_job_can_be_opened_again(lab: AgentLab) -> None:
    """The launch may fail after opening; the second time nothing is different."""
    files = await lab.create(stdout=to(str(lab.home / "out")))
    agent = await lab.agent()
    for _ in range(2):
        opened = await agent.open_job(files)
        run_opened(opened.descriptors, "/bin/echo")
    assert (lab.home / "out").read_text() == "0\n0\n"
