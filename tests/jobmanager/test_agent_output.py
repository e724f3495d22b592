"""Delivery of output: while the job runs, at its end, again, and to somebody else (§5.3)."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.agent.client import JobFiles, OpenedJob, Settings, StagingError
from jobmanager.description import Destination, JobType
from jobmanager.records import Failure
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.agent_lab import AgentLab, agent_lab, run_opened, to, with_paths
from tests.support.gass_server import GassServer, gass_server

SETTINGS = Settings(delivery_timeout=1.0, connect_timeout=5.0, stall_timeout=5.0)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AgentLab]:
    async with agent_lab(tmp_path / "home", settings=SETTINGS) as made:
        yield made


@pytest.fixture
async def server() -> AsyncIterator[GassServer]:
    async with gass_server() as made:
        yield made


class Running:
    """A job's processes in the hands of the test: `say` is what they write."""

    def __init__(self, opened: OpenedJob) -> None:
        self.opened = opened

    def say(self, data: bytes, *, error: bool = False, process: int = 0) -> None:
        os.write(self.opened.descriptors[1 + 3 * process + (2 if error else 1)], data)

    def end(self) -> None:
        for descriptor in self.opened.descriptors:
            os.close(descriptor)


async def start(lab: AgentLab, files: JobFiles) -> Running:
    agent = await lab.agent()
    running = Running(await agent.open_job(files))
    await agent.stream(files)
    return running


async def test_output_arrives_while_the_job_runs(lab: AgentLab, server: GassServer) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out"), stderr=to(f"{server.url}/err"))
    running = await start(lab, files)
    agent = await lab.agent()
    assert await agent.sizes(files) == (0, 0, True)
    for text in (b"one\n", b"two without end", b" of line\n"):
        running.say(text)
        await server.until(lambda: server.files.get("/out", b"").endswith(text))  # noqa: B023
    assert server.files["/out"] == b"one\ntwo without end of line\n"
    assert "/err" not in server.files
    assert server.complete == []
    assert await agent.sizes(files) == (28, 0, True)
    running.end()
    await agent.finish_output(files)
    assert server.files == {"/out": b"one\ntwo without end of line\n", "/err": b""}
    assert sorted(server.puts) == [("/err", False), ("/out", False)]
    assert sorted(server.complete) == ["/err", "/out"]
    assert await agent.sizes(files) == (28, 0, False)


async def test_no_connection_before_there_is_something_to_say(
    lab: AgentLab, server: GassServer
) -> None:
    running = await start(lab, await lab.create(stdout=to(f"{server.url}/out")))
    await asyncio.sleep(0.3)
    assert server.connections == 0
    running.say(b"now")
    await server.until(lambda: server.files.get("/out") == b"now")
    running.end()


async def test_output_is_sent_even_if_nobody_asked_for_streaming(
    lab: AgentLab, server: GassServer
) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out"))
    agent = await lab.agent()
    run_opened((await agent.open_job(files)).descriptors, "/bin/echo", "late")
    await agent.finish_output(files)
    assert server.files["/out"] == b"late 0\n"


async def test_every_destination_gets_a_copy(
    lab: AgentLab, server: GassServer, tmp_path: Path
) -> None:
    (lab.home / "copy").write_text("something old and longer than the new")
    destinations = (
        *to(f"{server.url}/a", f"{server.url}/b", "/dev/null", "copy"),
        *to(f"file://{tmp_path}/file-url"),
        Destination("x-gass-cache://entry", "kept"),
    )
    files = await lab.create(stdout=destinations)
    running = await start(lab, files)
    running.say(b"to all\n")
    running.end()
    agent = await lab.agent()
    await agent.finish_output(files)
    assert server.files["/a"] == server.files["/b"] == b"to all\n"
    assert (lab.home / "copy").read_bytes() == b"to all\n"
    assert (tmp_path / "file-url").read_bytes() == b"to all\n"
    cached = list((lab.home / ".globus").rglob("data"))
    assert {path.read_bytes() for path in cached} == {b"to all\n"}
    assert await agent.sizes(files) == (7, 0, False)
    await agent.clean_up(files)
    assert [path.read_bytes() for path in (lab.home / ".globus").rglob("data")] == [b"to all\n"] * 2


async def test_local_output_needs_no_delivery(lab: AgentLab) -> None:
    files = await lab.create(stdout=to("out"))
    running = await start(lab, files)
    running.say(b"mine\n")
    running.end()
    agent = await lab.agent()
    assert await agent.sizes(files) == (0, 0, False)
    await agent.finish_output(files)
    assert (lab.home / "out").read_bytes() == b"mine\n"


async def test_a_job_that_was_never_opened_delivers_nothing(
    lab: AgentLab, server: GassServer
) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out"))
    agent = await lab.agent()
    await agent.stream(files)
    await agent.finish_output(files)
    assert server.connections == 0


async def test_large_binary_output(lab: AgentLab, server: GassServer) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out"))
    running = await start(lab, files)
    block = os.urandom(1 << 20)
    for _ in range(20):
        running.say(block)
        await asyncio.sleep(0)
    running.end()
    await (await lab.agent()).finish_output(files)
    assert server.files["/out"] == block * 20


# Several processes.


@pytest.mark.parametrize("kind", ["url", "local", "cache", "list"])
async def test_output_of_several_processes_is_merged_in_order(
    lab: AgentLab, server: GassServer, kind: str
) -> None:
    destination = {
        "url": to(f"{server.url}/out"),
        "local": to("out"),
        "cache": (Destination("x-gass-cache://entry", "kept"),),
        "list": to(f"{server.url}/out", "out"),
    }[kind]
    files = await lab.create(count=12, stdout=destination, stderr=to(f"{server.url}/err"))
    running = await start(lab, files)
    for process in reversed(range(12)):
        running.say(b"%d\n" % process, process=process)
    running.say(b"partial", process=3, error=True)
    agent = await lab.agent()
    assert (await agent.sizes(files))[1] == 7
    running.end()
    await agent.finish_output(files)
    expected = b"".join(b"%d\n" % process for process in range(12))
    places = {
        "url": lambda: server.files["/out"],
        "local": lambda: (lab.home / "out").read_bytes(),
        "cache": lambda: next((lab.home / ".globus").rglob("data")).read_bytes(),
        "list": lambda: (lab.home / "out").read_bytes(),
    }
    assert places[kind]() == expected
    assert server.files["/err"] == b"partial"
    await agent.finish_output(files)
    assert places[kind]() == expected


async def test_processes_that_write_to_dev_null_need_no_files(lab: AgentLab) -> None:
    files = await lab.create(count=4, job_type=JobType.MULTIPLE)
    running = await start(lab, files)
    running.end()
    await (await lab.agent()).finish_output(files)
    assert sorted(path.name for path in Path(files.paths.directory).iterdir()) == [
        "output", "x509_user_proxy"
    ]  # fmt: skip


async def test_an_interrupted_merge_goes_on(lab: AgentLab) -> None:
    (lab.home / "out").write_text("before\n")
    files = await lab.create(count=2, stdout=to("out"))
    running = await start(lab, files)
    running.say(b"first\n")
    running.say(b"second\n", process=1)
    running.end()
    directory = Path(files.paths.directory)
    (directory / "stdout").write_text("first\nsecond\n")
    (directory / "merged-stdout").write_text("7")
    (lab.home / "out").write_text("before\nfirst\nse")
    await (await lab.agent()).finish_output(files)
    assert (lab.home / "out").read_text() == "before\nfirst\nsecond\n"


# Trouble.


async def fails(lab: AgentLab, files: JobFiles) -> StagingError:
    with pytest.raises(StagingError) as caught:
        await (await lab.agent()).finish_output(files)
    assert caught.value.code is ErrorCode.OPENING_STDOUT
    return caught.value


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_refused_delivery(lab: AgentLab, server: GassServer, stream: str) -> None:
    server.refuse = 400
    url = f"{server.url}/refused"
    files = await lab.create(**{stream: to(url)})
    running = await start(lab, files)
    running.say(b"x" * 3_000_000, error=stream == "stderr")
    await server.until(lambda: server.puts)
    running.end()
    error = await fails(lab, files)
    source = f"{files.paths.directory}/{stream}"
    assert error.failure == Failure(error.message, "filestageout", source, url)
    assert "400" in error.message
    server.refuse = None
    await (await lab.agent()).finish_output(files)
    assert server.files["/refused"] == b"x" * 3_000_000


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://127.0.0.1:1/x", "cannot connect"),
        ("gsiftp://host.example/x", "only https, http, file"),
        ("file:///nowhere/x", "No such file"),
        ("x-gass-cache:// ", None),
    ],
)
async def test_destinations_that_cannot_be_reached(
    lab: AgentLab, server: GassServer, url: str, text: str | None
) -> None:
    files = await lab.create()
    running = await start(
        lab, with_paths(files.paths, files, stdout=to(url, f"{server.url}/reached"))
    )
    running.say(b"x")
    running.end()
    files = with_paths(files.paths, files, stdout=to(url, f"{server.url}/reached"))
    if text is None:
        await (await lab.agent()).finish_output(files)
    else:
        assert text in (await fails(lab, files)).message
    assert server.files["/reached"] == b"x"


async def test_a_client_that_goes_away_does_not_disturb_the_job(
    lab: AgentLab, server: GassServer
) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out"))
    running = await start(lab, files)
    running.say(b"heard\n")
    await server.until(lambda: server.files.get("/out") == b"heard\n")
    await server.stop()
    running.say(b"not heard\n")
    agent = await lab.agent()
    assert await agent.sizes(files) == (16, 0, True)
    running.end()
    assert (await fails(lab, files)).failure.destination == f"{server.url}/out"


async def test_a_file_is_sent_again_from_its_beginning(lab: AgentLab, server: GassServer) -> None:
    server.die_after = 6
    files = await lab.create(stdout=to(f"{server.url}/out"))
    running = await start(lab, files)
    running.say(b"first\n")
    await server.until(lambda: server.die_after is None)
    running.say(b"second\n")
    running.end()
    await (await lab.agent()).finish_output(files)
    assert server.files["/out"] == b"first\nsecond\n"
    assert server.puts == [("/out", False)] * 2


async def test_a_clients_own_output_is_not_repeated(lab: AgentLab, server: GassServer) -> None:
    server.die_after = 6
    files = await lab.create(stdout=to(f"{server.url}/dev/stdout"))
    running = await start(lab, files)
    running.say(b"first\n")
    await server.until(lambda: server.die_after is None)
    running.say(b"second\n")
    running.end()
    await (await lab.agent()).finish_output(files)
    assert server.files["/dev/stdout"] == b"first\nsecond\n"
    assert len(server.puts) == 2


async def test_a_server_that_dies_while_it_acknowledges(lab: AgentLab, server: GassServer) -> None:
    server.hold = asyncio.Event()
    files = await lab.create(stdout=to(f"{server.url}/dev/stdout"))
    running = await start(lab, files)
    running.say(b"all of it\n")
    running.end()
    waiting = asyncio.create_task((await lab.agent()).finish_output(files))
    await server.until(lambda: server.files.get("/dev/stdout") == b"all of it\n")
    await server.stop()
    server.hold = None
    await server.start()
    await waiting
    assert server.files["/dev/stdout"] == b"all of it\n"


async def test_finishing_again_sends_nothing_again(lab: AgentLab, server: GassServer) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out", "copy"))
    running = await start(lab, files)
    running.say(b"x")
    running.end()
    agent = await lab.agent()
    await agent.finish_output(files)
    (lab.home / "copy").unlink()
    await server.stop()
    await agent.finish_output(files)
    assert not (lab.home / "copy").exists()


async def test_another_agent_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    async with (
        gass_server() as server,
        agent_lab(tmp_path / "home", processes=True, settings=SETTINGS) as lab,
    ):
        files = await lab.create(
            stdout=to(f"{server.url}/dev/stdout"), stderr=to(f"{server.url}/err")
        )
        running = await start(lab, files)
        running.say(b"before ")
        running.say(b"before ", error=True)
        await server.until(lambda: sum(map(len, server.files.values())) == 14)
        lab.processes[0].kill()
        await lab.processes[0].wait()
        running.say(b"after")
        running.say(b"after", error=True)
        # Nobody asks for anything: the agent comes back because there is output to send.
        await server.until(lambda: server.files["/err"] == b"before after")
        await server.until(lambda: server.files["/dev/stdout"] == b"before after")
        running.end()
        await (await lab.agent()).finish_output(files)
        assert len(lab.processes) == 2


async def test_a_job_that_is_cleaned_up_stops_sending(lab: AgentLab, server: GassServer) -> None:
    files = await lab.create(stdout=to(f"{server.url}/out"))
    running = await start(lab, files)
    running.say(b"x")
    await server.until(lambda: server.files.get("/out") == b"x")
    await (await lab.agent()).clean_up(files)
    running.say(b"y")
    running.end()
    await asyncio.sleep(0.3)
    assert server.files["/out"] == b"x"
    assert server.complete == []


# STDIO_UPDATE.


async def test_a_redirection_sends_everything_to_the_new_place(
    lab: AgentLab, server: GassServer
) -> None:
    files = await lab.create(stdout=to(f"{server.url}/old"))
    running = await start(lab, files)
    running.say(b"first\n")
    await server.until(lambda: server.files.get("/old") == b"first\n")
    agent = await lab.agent()
    moved = with_paths(files.paths, files, stdout=to(f"{server.url}/new"))
    await agent.redirect(moved)
    await server.until(lambda: server.files.get("/new") == b"first\n")
    await server.until(lambda: server.complete == ["/old"])
    running.say(b"second\n")
    running.end()
    await agent.finish_output(moved)
    assert server.files == {"/old": b"first\n", "/new": b"first\nsecond\n"}


async def test_a_redirection_away_from_a_dead_server(lab: AgentLab, server: GassServer) -> None:
    files = await lab.create(stdout=to("http://127.0.0.1:1/dead"))
    running = await start(lab, files)
    running.say(b"x")
    moved = with_paths(files.paths, files, stdout=to(f"{server.url}/new"))
    agent = await lab.agent()
    await agent.redirect(moved)
    running.end()
    await agent.finish_output(moved)
    assert server.files["/new"] == b"x"


async def test_a_redirection_from_a_file_sends_the_jobs_part_of_it(
    lab: AgentLab, server: GassServer
) -> None:
    (lab.home / "log").write_text("of another job\n")
    files = await lab.create(stdout=to("log"))
    running = await start(lab, files)
    running.say(b"of this job\n")
    moved = with_paths(files.paths, files, stdout=to(f"{server.url}/new", "copy"))
    agent = await lab.agent()
    await agent.redirect(moved)
    running.end()
    await agent.finish_output(moved)
    assert server.files["/new"] == b"of this job\n"
    assert (lab.home / "copy").read_text() == "of this job\n"
    assert (lab.home / "log").read_text() == "of another job\nof this job\n"


async def test_what_was_written_before_a_second_opening_counts(
    lab: AgentLab, server: GassServer
) -> None:
    (lab.home / "log").write_text("of another job\n")
    files = await lab.create(stdout=to("log"))
    for text in (b"first\n", b"second\n"):
        running = await start(lab, files)
        running.say(text)
        running.end()
    await (await lab.agent()).finish_output(
        with_paths(files.paths, files, stdout=to(f"{server.url}/new"))
    )
    assert server.files["/new"] == b"first\nsecond\n"


async def test_a_redirection_to_nowhere(lab: AgentLab) -> None:
    files = await lab.create(stdout=to("http://127.0.0.1:1/dead"))
    running = await start(lab, files)
    running.say(b"x")
    moved = with_paths(files.paths, files, stdout=to("/dev/null"))
    agent = await lab.agent()
    await agent.redirect(moved)
    running.end()
    await agent.finish_output(moved)
    assert await agent.sizes(moved) == (1, 0, False)


async def test_a_record_that_makes_no_sense(lab: AgentLab) -> None:
    files = await lab.create(stdout=to("http://127.0.0.1:1/dead"))
    running = await start(lab, files)
    running.end()
    (Path(files.paths.directory) / "output").write_text('{"kind":"Sinks"}')
    with pytest.raises(GramError) as caught:
        await (await lab.agent()).finish_output(files)
    assert caught.value.code is ErrorCode.NO_RESOURCES
