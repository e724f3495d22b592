"""File staging in and out (job-manager.md §5.1, §5.2)."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.agent.client import JobFiles, Settings, StagingError
from jobmanager.records import Failure
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.agent_lab import AgentLab, agent_lab, copies, run_opened
from tests.support.gass_server import GassServer, gass_server


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AgentLab]:
    settings = Settings(max_download=1 << 20, stall_timeout=10.0, connect_timeout=10.0)
    async with agent_lab(tmp_path / "home", settings=settings) as made:
        yield made


@pytest.fixture
async def server() -> AsyncIterator[GassServer]:
    async with gass_server() as made:
        yield made


async def fails(lab: AgentLab, files: JobFiles, *, out: bool = False) -> StagingError:
    agent = await lab.agent()
    with pytest.raises(StagingError) as caught:
        await (agent.stage_out if out else agent.stage_in)(files)
    assert caught.value.message == caught.value.failure.message != ""
    return caught.value


def leftovers(home: Path) -> list[Path]:
    return [path for path in home.rglob(".gram-*") if path.name != ".gram"]


async def test_executable_and_stdin_come_from_urls(lab: AgentLab, server: GassServer) -> None:
    server.files["/program"] = bytearray(b"#!/bin/sh\ncat\n")
    server.files["/input"] = bytearray(b"input\n")
    files = await lab.create(executable=f"{server.url}/program", stdin=f"{server.url}/input")
    agent = await lab.agent()
    staged = await agent.stage_in(files)
    assert staged.executable is not None
    assert staged.executable.startswith(files.paths.cache)
    opened = await agent.open_job(files)
    assert (opened.executable, opened.stdin) == (staged.executable, staged.stdin)
    run_opened(opened.descriptors, opened.executable)
    assert stat.S_IMODE(Path(staged.executable).stat().st_mode) & 0o077 == 0


async def test_a_program_that_many_jobs_want_comes_once(lab: AgentLab, server: GassServer) -> None:
    server.files["/program"] = bytearray(b"#!/bin/sh\n")
    agent = await lab.agent()
    jobs = [await lab.create(f"job-{n}", executable=f"{server.url}/program") for n in range(10)]
    await asyncio.gather(*(agent.stage_in(files) for files in jobs))
    assert server.gets == ["/program"]


async def test_data_used_as_input_can_become_a_program(lab: AgentLab, server: GassServer) -> None:
    server.files["/both"] = bytearray(b"#!/bin/sh\n")
    url = f"{server.url}/both"
    agent = await lab.agent()
    await agent.stage_in(await lab.create("first", stdin=url))
    files = await lab.create("second", executable=url)
    await agent.stage_in(files)
    opened = await agent.open_job(files)
    run_opened(opened.descriptors, opened.executable)


async def test_files_are_copied_in(lab: AgentLab, server: GassServer, tmp_path: Path) -> None:
    binary = os.urandom(300_000)
    server.files["/a file"] = bytearray(binary)
    server.files["/empty"] = bytearray()
    (tmp_path / "local").write_bytes(b"local")
    (lab.home / "old").write_text("much longer than what comes")
    await (await lab.agent()).stage_in(
        await lab.create(
            file_stage_in=copies(
                (f"{server.url}/a%20file", str(lab.home / "absolute")),
                (f"{server.url}/empty", "relative"),
                (f"file://{tmp_path}/local", "old"),
                (f"file:{tmp_path}/local", "short-form"),
                ("/dev/null", "nothing"),
            )
        )
    )
    assert (lab.home / "absolute").read_bytes() == binary
    assert (lab.home / "relative").read_bytes() == b""
    assert (lab.home / "old").read_bytes() == b"local"
    assert (lab.home / "short-form").read_bytes() == b"local"
    assert (lab.home / "nothing").read_bytes() == b""
    assert stat.S_IMODE((lab.home / "absolute").stat().st_mode) == 0o644
    assert leftovers(lab.home) == []


async def test_a_chunked_answer(lab: AgentLab, server: GassServer) -> None:
    server.files["/a"] = bytearray(b"in several pieces")
    server.chunked = True
    await (await lab.agent()).stage_in(
        await lab.create(file_stage_in=copies((f"{server.url}/a", "a")))
    )
    assert (lab.home / "a").read_bytes() == b"in several pieces"


async def test_shared_files_are_links_into_the_cache(lab: AgentLab, server: GassServer) -> None:
    server.files["/a"] = bytearray(b"shared")
    shared = copies((f"{server.url}/a", "link"))
    agent = await lab.agent()
    files = await lab.create(file_stage_in_shared=shared)
    await agent.stage_in(files)
    assert os.readlink(lab.home / "link").startswith(files.paths.cache)
    assert (lab.home / "link").read_bytes() == b"shared"
    await agent.clean_up(files)
    assert (lab.home / "link").is_symlink()
    assert not (lab.home / "link").exists()
    await agent.stage_in(await lab.create("again", file_stage_in_shared=shared))
    assert (lab.home / "link").read_bytes() == b"shared"


async def test_a_shared_file_does_not_replace_a_file(lab: AgentLab, server: GassServer) -> None:
    server.files["/a"] = bytearray(b"shared")
    (lab.home / "mine").write_text("mine")
    files = await lab.create(file_stage_in_shared=copies((f"{server.url}/a", "mine")))
    error = await fails(lab, files)
    assert error.code is ErrorCode.STAGE_IN_FAILED
    assert (lab.home / "mine").read_text() == "mine"


async def test_a_repetition_fetches_only_what_is_missing(lab: AgentLab, server: GassServer) -> None:
    server.files["/a"] = bytearray(b"a")
    files = await lab.create(
        file_stage_in=copies((f"{server.url}/a", "a"), (f"{server.url}/b", "b")),
    )
    assert (await fails(lab, files)).failure.source == f"{server.url}/b"
    server.files["/b"] = bytearray(b"b")
    (lab.home / "a").write_text("changed by the user")
    await (await lab.agent()).stage_in(files)
    assert server.gets == ["/a", "/b", "/b"]
    assert (lab.home / "a").read_text() == "changed by the user"
    assert (lab.home / "b").read_text() == "b"


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("executable", ErrorCode.STAGING_EXECUTABLE, "executable"),
        ("stdin", ErrorCode.STAGING_STDIN, "stdin"),
    ],
)
async def test_a_missing_program_or_input(
    lab: AgentLab, server: GassServer, name: str, code: ErrorCode, kind: str
) -> None:
    url = f"{server.url}/absent"
    error = await fails(lab, await lab.create(**{name: url}))
    assert error.code is code
    assert error.failure == Failure(error.message, kind, url, "")
    assert "404" in error.message


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{server}/absent", "404"),
        ("gsiftp://host.example/file", "only https, http, file"),
        ("ftp://host.example/file", "only https, http, file"),
        ("https://user@host.example/file", "does not name a server"),
        ("https://host.example:99999/file", "is not a URL"),
        ("http://", "does not name a server"),
        ("file:///nowhere/file", "No such file"),
        ("file:///", "not a file"),
        ("x-gass-cache://absent", "no such cache entry"),
        ("{server}/large", "bytes allowed here"),
        ("http://127.0.0.1:1/file", "cannot connect"),
        ("http://no-such-host.invalid/file", "cannot connect"),
        ("file:///etc/%00", "only https, http, file"),
    ],
)
async def test_what_cannot_be_fetched(
    lab: AgentLab, server: GassServer, source: str, text: str
) -> None:
    server.files["/large"] = bytearray(2 << 20)
    url = source.format(server=server.url)
    (lab.home / "target").write_text("as before")
    error = await fails(lab, await lab.create(file_stage_in=copies((url, "target"))))
    assert error.code is ErrorCode.STAGE_IN_FAILED
    assert error.failure == Failure(error.message, "filestagein", url, "target")
    assert text in error.message
    assert (lab.home / "target").read_text() == "as before"
    assert leftovers(lab.home) == []


async def test_a_server_that_dies_in_the_middle(lab: AgentLab, server: GassServer) -> None:
    server.files["/a"] = bytearray(100_000)
    server.die_after = 50_000
    error = await fails(lab, await lab.create(file_stage_in=copies((f"{server.url}/a", "a"))))
    assert error.code is ErrorCode.STAGE_IN_FAILED
    assert not (lab.home / "a").exists()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 a\0b\xff\x1b[31m\r\n\r\n",
        b"HTTP/1.1 404 " + b"x" * 6000 + b"\r\n\r\n",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 Ok\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"x" * 100_000,
        b"",
    ],
)
async def test_a_server_that_answers_nonsense(lab: AgentLab, answer: bytes) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/x"
        error = await fails(lab, await lab.create(file_stage_in=copies((url, "x"))))
    assert error.code is ErrorCode.STAGE_IN_FAILED
    assert len(lab.tasks) == 1  # the agent has survived it


async def test_a_server_that_says_nothing(tmp_path: Path, server: GassServer) -> None:
    server.hold = asyncio.Event()
    async with agent_lab(tmp_path / "home", settings=Settings(stall_timeout=0.2)) as lab:
        files = await lab.create(executable=f"{server.url}/a")
        assert "does not answer" in (await fails(lab, files)).message
    assert not list((tmp_path / "home/.globus/.gass_cache/tmp").iterdir())


async def test_a_destination_must_be_here(lab: AgentLab, server: GassServer) -> None:
    files = await lab.create(file_stage_in=copies((f"{server.url}/a", f"{server.url}/b")))
    assert (await fails(lab, files)).code is ErrorCode.STAGE_IN_FAILED


@pytest.mark.parametrize("target", ["missing/file", ".", "sub/"])
async def test_a_destination_that_cannot_be_written(
    lab: AgentLab, server: GassServer, target: str
) -> None:
    server.files["/a"] = bytearray(b"a")
    (lab.home / "sub").mkdir()
    files = await lab.create(file_stage_in=copies((f"{server.url}/a", target)))
    assert (await fails(lab, files)).code is ErrorCode.STAGE_IN_FAILED
    assert leftovers(lab.home) == []


async def test_a_link_at_the_destination_is_replaced_not_followed(
    lab: AgentLab, server: GassServer, tmp_path: Path
) -> None:
    server.files["/a"] = bytearray(b"new")
    (tmp_path / "victim").write_text("precious")
    (lab.home / "link").symlink_to(tmp_path / "victim")
    await (await lab.agent()).stage_in(
        await lab.create(file_stage_in=copies((f"{server.url}/a", "link")))
    )
    assert (tmp_path / "victim").read_text() == "precious"
    assert (lab.home / "link").read_text() == "new"


async def test_a_cancelled_stage_in_stops(lab: AgentLab, server: GassServer) -> None:
    server.hold = asyncio.Event()
    files = await lab.create(file_stage_in=copies((f"{server.url}/a", "a")))
    agent = await lab.agent()
    waiting = asyncio.create_task(agent.stage_in(files))
    await server.until(lambda: server.gets)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await server.until(lambda: not leftovers(lab.home))
    assert await agent.sizes(files) == (0, 0, False)


# After the job.


async def test_files_are_copied_out(lab: AgentLab, server: GassServer) -> None:
    binary = os.urandom(600_000)
    (lab.home / "result").write_bytes(binary)
    (lab.home / "empty").write_bytes(b"")
    files = await lab.create(
        file_stage_out=copies(
            ("result", f"{server.url}/dir/re%20sult"),
            (f"file://{lab.home}/empty", f"{server.url}/empty"),
            ("result", f"file://{lab.home}/copy"),
            ("result", "/dev/null"),
        )
    )
    await (await lab.agent()).stage_out(files)
    assert server.files["/dir/re sult"] == binary
    assert server.files["/empty"] == b""
    assert (lab.home / "copy").read_bytes() == binary
    assert sorted(server.complete) == ["/dir/re sult", "/empty"]


async def test_a_repetition_sends_only_what_is_missing(lab: AgentLab, server: GassServer) -> None:
    (lab.home / "a").write_text("a")
    files = await lab.create(
        file_stage_out=copies(("a", f"{server.url}/a"), ("b", f"{server.url}/b"))
    )
    error = await fails(lab, files, out=True)
    assert error.code is ErrorCode.STAGE_OUT_FAILED
    assert error.failure == Failure(error.message, "filestageout", "b", f"{server.url}/b")
    (lab.home / "b").write_text("b")
    await (await lab.agent()).stage_out(files)
    assert server.puts == [("/a", False), ("/b", False)]


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("absent", "{server}/x"),
        (".", "{server}/x"),
        ("x-gass-cache://absent", "{server}/x"),
        ("file", "gsiftp://host.example/x"),
        ("file", "/nowhere/x"),
        ("https://host.example/x", "{server}/x"),
    ],
)
async def test_what_cannot_be_delivered(
    lab: AgentLab, server: GassServer, source: str, destination: str
) -> None:
    (lab.home / "file").write_text("x")
    target = destination.format(server=server.url)
    error = await fails(lab, await lab.create(file_stage_out=copies((source, target))), out=True)
    assert error.code is ErrorCode.STAGE_OUT_FAILED
    assert (error.failure.source, error.failure.destination) == (source, target)


async def test_an_upload_that_is_refused(lab: AgentLab, server: GassServer) -> None:
    server.refuse = 400
    (lab.home / "file").write_bytes(bytes(5 << 20))
    files = await lab.create(file_stage_out=copies(("file", f"{server.url}/x")))
    assert "400" in (await fails(lab, files, out=True)).message


async def test_staging_a_job_that_is_gone(lab: AgentLab) -> None:
    files = await lab.create(file_stage_in=copies(("file:///etc/hostname", "x")))
    agent = await lab.agent()
    await agent.clean_up(files)
    with pytest.raises(GramError) as caught:
        await agent.stage_in(files)
    assert caught.value.code is ErrorCode.NO_RESOURCES
