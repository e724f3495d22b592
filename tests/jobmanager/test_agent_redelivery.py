"""Delivery of output when something goes wrong, again, and to somebody else (§5.3)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.agent.client import JobFiles, Settings, StagingError
from jobmanager.records import Failure
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.agent_lab import AgentLab, agent_lab, start, to, with_paths
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
