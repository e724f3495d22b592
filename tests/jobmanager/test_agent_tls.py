"""Transfers over TLS: whose server is accepted, and which credential is shown (§5.5)."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gram.labca import LabCA
from jobmanager.agent.client import Settings, StagingError
from protocol.aio.gsi import Acceptor
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxies import ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from tests.support.agent_lab import AgentLab, agent_lab, copies, to
from tests.support.gass_server import GassServer, gass_server
from tests.support.keys import rsa_key


class Lab:
    """A CA with two users."""

    def __init__(self, directory: Path) -> None:
        past = datetime.now(UTC) - timedelta(days=2)
        self.ca = LabCA(directory, key=rsa_key("agent ca"), now=past)
        self.certificates = self.ca.ca_directory()
        self.alice = self.ca.user("Alice", key=rsa_key("alice")).credential
        self.bob = self.ca.user("Bob", key=rsa_key("bob")).credential

    def proxy(self, user: Credential, **options: object) -> Credential:
        return create_proxy(user, key=rsa_key("proxy"), **options)  # type: ignore[arg-type]

    def acceptor(self, user: Credential) -> Acceptor:
        return Acceptor(self.proxy(user), CADirectory(self.certificates))


@pytest.fixture
def site(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "ca")


@pytest.fixture
async def lab(site: Lab, tmp_path: Path) -> AsyncIterator[AgentLab]:
    settings = Settings(
        certificates=str(site.certificates), delivery_timeout=1.0, connect_timeout=10.0
    )
    async with agent_lab(tmp_path / "home", settings=settings) as made:
        made.proxy = site.proxy(site.alice, policy=ProxyPolicy.LIMITED).pem()
        yield made


@pytest.fixture
async def server(site: Lab) -> AsyncIterator[GassServer]:
    async with gass_server(site.acceptor(site.alice)) as made:
        yield made


async def test_ones_own_server_whatever_its_host(
    lab: AgentLab, server: GassServer, site: Lab
) -> None:
    server.files["/in"] = bytearray(b"over tls")
    files = await lab.create(
        file_stage_in=copies((f"{server.url}/in", "in")),
        stdout=to(f"https://localhost:{server.port}/out"),
    )
    agent = await lab.agent()
    await agent.stage_in(files)
    assert (lab.home / "in").read_bytes() == b"over tls"
    opened = await agent.open_job(files)
    await agent.stream(files)
    block = os.urandom(3 << 20)
    os.write(opened.descriptors[2], block)
    for descriptor in opened.descriptors:
        os.close(descriptor)
    await agent.finish_output(files)
    assert server.files["/out"] == block
    assert server.peers == [site.alice.identity] * 2


async def test_somebody_elses_server_gets_nothing(lab: AgentLab, site: Lab) -> None:
    async with gass_server(site.acceptor(site.bob)) as server:
        files = await lab.create(file_stage_out=copies(("/etc/hostname", f"{server.url}/x")))
        with pytest.raises(StagingError, match="belongs to /O=Gram Lab/CN=Bob"):
            await (await lab.agent()).stage_out(files)
        assert server.puts == []


async def test_an_unknown_ca_is_refused(lab: AgentLab, tmp_path: Path) -> None:
    stranger = Lab(tmp_path / "other-ca")
    stranger.ca = LabCA(tmp_path / "other", subject="/O=Elsewhere/CN=CA", key=rsa_key("other ca"))
    alice = stranger.ca.user("Alice", key=rsa_key("alice")).credential
    async with gass_server(stranger.acceptor(alice)) as server:
        files = await lab.create(executable=f"{server.url}/x")
        with pytest.raises(StagingError):
            await (await lab.agent()).stage_in(files)
        assert server.gets == []


async def test_a_server_without_tls(lab: AgentLab) -> None:
    async with gass_server() as server:
        files = await lab.create(executable=f"https://127.0.0.1:{server.port}/x")
        with pytest.raises(StagingError):
            await (await lab.agent()).stage_in(files)
        assert server.gets == []


async def test_a_renewed_proxy_counts_for_the_next_connection(
    lab: AgentLab, server: GassServer, site: Lab
) -> None:
    server.files["/in"] = bytearray(b"x")
    lab.proxy = site.proxy(site.bob).pem()
    files = await lab.create(file_stage_in=copies((f"{server.url}/in", "in")))
    agent = await lab.agent()
    with pytest.raises(StagingError, match="not to /O=Gram Lab/CN=Bob"):
        await agent.stage_in(files)
    await agent.write_proxy(files, site.proxy(site.alice).pem())
    await agent.stage_in(files)
    assert (lab.home / "in").read_bytes() == b"x"


async def test_an_expired_proxy_is_named(lab: AgentLab, server: GassServer, site: Lab) -> None:
    server.files["/in"] = bytearray(b"x")
    past = datetime.now(UTC) - timedelta(days=1)
    lab.proxy = site.proxy(site.alice, now=past, lifetime=timedelta(hours=1)).pem()
    files = await lab.create(file_stage_in=copies((f"{server.url}/in", "in")))
    with pytest.raises(StagingError) as caught:
        await (await lab.agent()).stage_in(files)
    assert "expired" in caught.value.message


@pytest.mark.parametrize("what", ["nonsense", "no key", "another key", "nothing"])
async def test_a_credential_that_cannot_be_used(
    lab: AgentLab, server: GassServer, site: Lab, what: str
) -> None:
    files = await lab.create(file_stage_in=copies((f"{server.url}/in", "in")))
    agent = await lab.agent()
    leaf = site.proxy(site.alice)
    key = site.bob.pem()[site.bob.pem().index(b"-----BEGIN PRIVATE KEY") :]
    certificate = leaf.pem()[: leaf.pem().index(b"-----BEGIN PRIVATE KEY")]
    pem = {"nonsense": b"nonsense\n", "no key": certificate, "another key": certificate + key}
    if what == "nothing":
        Path(files.paths.proxy).unlink()
    else:
        await agent.write_proxy(files, pem[what])
    with pytest.raises(StagingError) as caught:
        await agent.stage_in(files)
    assert "BEGIN" not in str(caught.value)
    assert server.connections == 0


async def test_delivery_goes_on_with_a_renewed_proxy(
    lab: AgentLab, server: GassServer, site: Lab
) -> None:
    lab.proxy = site.proxy(site.bob).pem()
    files = await lab.create(stdout=to(f"{server.url}/dev/stdout"))
    agent = await lab.agent()
    opened = await agent.open_job(files)
    await agent.stream(files)
    os.write(opened.descriptors[2], b"hello\n")
    await server.until(lambda: server.connections)
    await agent.write_proxy(files, site.proxy(site.alice).pem())
    for descriptor in opened.descriptors:
        os.close(descriptor)
    async with asyncio.timeout(20):
        await agent.finish_output(files)
    assert server.files["/dev/stdout"] == b"hello\n"
