"""Delivery of output: while the job runs and at its end (§5.3)."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.agent.client import Settings
from jobmanager.description import Destination, JobType
from tests.support.agent_lab import AgentLab, agent_lab, run_opened, start, to
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
