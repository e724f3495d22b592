"""Transfers with the real GASS server (job-manager.md §5.5), as a job's agent makes them."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobmanager.agent.client import Settings, StagingError
from protocol.gsi.credential import Credential
from protocol.gsi.proxies import ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from protocol.tables import ErrorCode
from tests.support.agent_lab import AgentLab, agent_lab, copies, run_opened, to
from tests.support.site import Site, User

pytestmark = pytest.mark.peers

MEGABYTE = 1 << 20


@dataclass
class RealServer:
    """A running globus-gass-server; `directory` is what it may read and write."""

    process: subprocess.Popen[bytes]
    url: str
    directory: Path

    def path(self, name: str) -> str:
        """The URL of a file in the directory."""
        return f"{self.url}{self.directory}/{name}"


@contextmanager
def real_server(user: User, name: str, *options: str) -> Iterator[RealServer]:
    directory = user.directory / name
    user.run("mkdir", "-p", str(directory))
    process = user.start("globus-gass-server", *options)
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip()
    assert url.startswith("http"), process.stderr and process.stderr.read()
    server = RealServer(process, url, directory)
    try:
        yield server
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def server(alice: User) -> Iterator[RealServer]:
    with real_server(alice, "gass", "-r", "-w", "-l") as started:  # -l: it shows lines at once
        yield started


def delegated(user: User) -> bytes:
    """A limited proxy, such as a gatekeeper gets it."""
    credential = Credential.from_pem(user.proxy.read_bytes())
    return create_proxy(credential, policy=ProxyPolicy.LIMITED).pem()


@pytest.fixture
async def lab(site: Site, alice: User, tmp_path: Path) -> AsyncIterator[AgentLab]:
    settings = Settings(
        certificates=str(site.certificates), delivery_timeout=2.0, stall_timeout=20.0
    )
    async with agent_lab(tmp_path / "home", settings=settings) as made:
        made.proxy = delegated(alice)
        yield made


async def test_files_come_and_go(lab: AgentLab, server: RealServer, alice: User) -> None:
    alice.run("sh", "-c", f"printf 'from the client' > '{server.directory}/in put'")
    alice.run("touch", str(server.directory / "empty"))
    (lab.home / "result").write_bytes(bytes(range(256)) * 100)
    (lab.home / "nothing").touch()
    files = await lab.create(
        file_stage_in=copies((server.path("in%20put"), "got"), (server.path("empty"), "empty")),
        file_stage_out=copies(
            ("result", server.path("re%20sult")), ("nothing", server.path("nothing"))
        ),
    )
    agent = await lab.agent()
    await agent.stage_in(files)
    assert (lab.home / "got").read_bytes() == b"from the client"
    assert (lab.home / "empty").read_bytes() == b""
    await agent.stage_out(files)
    assert (server.directory / "re sult").read_bytes() == bytes(range(256)) * 100
    assert (server.directory / "nothing").read_bytes() == b""


async def test_a_program_of_the_client_runs(lab: AgentLab, server: RealServer, alice: User) -> None:
    alice.run("sh", "-c", f"printf '#!/bin/sh\\necho staged\\n' > {server.directory}/program")
    files = await lab.create(executable=server.path("program"), stdout=to("out"))
    agent = await lab.agent()
    await agent.stage_in(files)
    opened = await agent.open_job(files)
    run_opened(opened.descriptors, opened.executable)
    assert (lab.home / "out").read_text() == "staged\n"


@pytest.mark.parametrize("name", ["absent", "missing/absent"])
async def test_a_missing_file_is_an_error_not_a_hang(
    lab: AgentLab, server: RealServer, name: str
) -> None:
    files = await lab.create(executable=server.path(name))
    with pytest.raises(StagingError, match="404") as caught:
        await (await lab.agent()).stage_in(files)
    assert caught.value.code is ErrorCode.STAGING_EXECUTABLE


async def test_output_shows_up_while_the_job_runs(lab: AgentLab, server: RealServer) -> None:
    files = await lab.create(stdout=to(server.path("live")), stderr=to(server.path("silent")))
    agent = await lab.agent()
    opened = await agent.open_job(files)
    await agent.stream(files)
    live = server.directory / "live"
    expected = b""
    for index in range(3):
        expected += b"line %d\n" % index
        os.write(opened.descriptors[2], b"line %d\n" % index)
        async with asyncio.timeout(20):
            while not live.exists() or live.read_bytes() != expected:
                await asyncio.sleep(0.02)
    for descriptor in opened.descriptors:
        os.close(descriptor)
    await agent.finish_output(files)
    assert live.read_bytes() == expected
    assert (server.directory / "silent").read_bytes() == b""


async def test_a_hundred_megabytes_arrive_unharmed(lab: AgentLab, server: RealServer) -> None:
    block = os.urandom(MEGABYTE)
    digest = hashlib.sha256()
    files = await lab.create(
        stdout=to(server.path("large")), file_stage_in=copies((server.path("large"), "back"))
    )
    agent = await lab.agent()
    opened = await agent.open_job(files)
    await agent.stream(files)
    for index in range(100):
        piece = b"%d" % index + block
        os.write(opened.descriptors[2], piece)
        digest.update(piece)
        await asyncio.sleep(0)
    for descriptor in opened.descriptors:
        os.close(descriptor)
    await agent.finish_output(files)
    with (server.directory / "large").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
    await agent.stage_in(files)
    with (lab.home / "back").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()


async def test_the_clients_own_output(lab: AgentLab, alice: User) -> None:
    with real_server(alice, "streams", "-o", "-e", "-l") as server:
        files = await lab.create(
            stdout=to(f"{server.url}/dev/stdout"), stderr=to(f"{server.url}/dev/stderr")
        )
        agent = await lab.agent()
        opened = await agent.open_job(files)
        await agent.stream(files)
        run_opened(opened.descriptors, "/bin/sh", "-c", "echo out; echo err >&2")
        await agent.finish_output(files)
        server.process.kill()
        out, err = server.process.communicate()
    assert out == b"out\n"
    assert err == b"err\n"


async def test_a_server_without_write_access_refuses(lab: AgentLab, alice: User) -> None:
    with real_server(alice, "readonly", "-r") as server:
        files = await lab.create(stdout=to(server.path("x")))
        agent = await lab.agent()
        run_opened((await agent.open_job(files)).descriptors, "/bin/echo")
        with pytest.raises(StagingError, match="400") as caught:
            await agent.finish_output(files)
    assert caught.value.code is ErrorCode.OPENING_STDOUT


async def test_somebody_elses_server_is_refused(lab: AgentLab, bob: User) -> None:
    with real_server(bob, "gass", "-r", "-w") as server:
        files = await lab.create(
            executable=server.path("x"), stdout=to(server.path("y")), file_stage_out=copies()
        )
        agent = await lab.agent()
        with pytest.raises(StagingError, match=bob.identity):
            await agent.stage_in(files)


async def test_a_server_without_security(lab: AgentLab, alice: User) -> None:
    with real_server(alice, "insecure", "-i", "-r", "-w") as server:
        assert server.url.startswith("http://")
        (lab.home / "file").write_bytes(b"plain" * 100_000)
        files = await lab.create(
            file_stage_out=copies(("file", server.path("out"))),
            file_stage_in=copies((server.path("out"), "back")),
        )
        agent = await lab.agent()
        await agent.stage_out(files)
        await agent.stage_in(files)
        assert (lab.home / "back").read_bytes() == b"plain" * 100_000


async def test_a_client_that_dies_while_the_job_runs(
    lab: AgentLab, server: RealServer, alice: User
) -> None:
    files = await lab.create(stdout=to(server.path("out")))
    agent = await lab.agent()
    opened = await agent.open_job(files)
    await agent.stream(files)
    os.write(opened.descriptors[2], b"heard\n")
    async with asyncio.timeout(20):
        while (await agent.sizes(files))[0] != 6 or not (server.directory / "out").exists():
            await asyncio.sleep(0.02)
    server.process.kill()
    server.process.wait()
    os.write(opened.descriptors[2], b"not heard\n")
    for descriptor in opened.descriptors:
        os.close(descriptor)
    with pytest.raises(StagingError, match="cannot connect"):
        await agent.finish_output(files)


async def test_a_renewed_proxy_is_used(lab: AgentLab, server: RealServer, alice: User) -> None:
    files = await lab.create(stdout=to(server.path("first")))
    agent = await lab.agent()
    run_opened((await agent.open_job(files)).descriptors, "/bin/echo")
    await agent.write_proxy(files, b"not a credential\n")
    with pytest.raises(StagingError):
        await agent.finish_output(files)
    await agent.write_proxy(files, delegated(alice))
    await agent.finish_output(files)
    assert (server.directory / "first").read_bytes() == b"0\n"
