"""A job answers its owner only: every query, asked by somebody else (wire-protocol.md §7.7)."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gram import Client, Job
from gram.client.errors import GramClientError
from protocol.gsi.credential import Credential
from protocol.tables import ErrorCode, JobState, Signal
from tests.support.server import Server
from tests.support.site import Site, User, make_site

QUERIES = {
    "status": lambda job: job.status(),
    "cancel": lambda job: job.cancel(),
    "suspend": lambda job: job.signal(Signal.SUSPEND, "now"),
    "commit": lambda job: job.signal(Signal.COMMIT_REQUEST),
    "stop manager": lambda job: job.signal(Signal.STOP_MANAGER),
    "stdio update": lambda job: job.signal(Signal.STDIO_UPDATE, "&(stdout=/dev/null)"),
    "stdio size": lambda job: job.signal(Signal.STDIO_SIZE, "0 0"),
    "unknown signal": lambda job: job.signal(99, "x"),
    "register": lambda job: job.register("https://127.0.0.1:1/", 255),
    "unregister": lambda job: job.unregister("https://127.0.0.1:1/"),
    "renew": lambda job: job.renew(),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@pytest.fixture(scope="module", params=["per-identity", "shared"])
def server(site: Site, request: pytest.FixtureRequest) -> Iterator[Server]:
    started = site.configure(request.param, gatekeeper=f'job_contacts = "{request.param}"').start()
    yield started
    assert started.stop() == 0, started.log


def client_of(user: User) -> Client:
    proxy = Credential.from_pem(user.proxy.read_bytes())
    return Client(proxy, trusted_certificates=user.certificates, callbacks=False)


@pytest.fixture
async def job(site: Site, server: Server) -> AsyncIterator[Job]:
    async with client_of(site.alice) as alice:
        job = await alice.submit(server.contact, "&(executable=/bin/sleep)(arguments=300)")
        while (await job.status()).state is not JobState.ACTIVE:
            await asyncio.sleep(0.05)
        yield job
        await job.cancel()


@pytest.mark.parametrize("query", QUERIES)
async def test_a_stranger_learns_and_changes_nothing(
    query: str, job: Job, site: Site, server: Server
) -> None:
    # mallory has a certificate of a trusted CA but is nobody here; as root bob is mapped too.
    for somebody in filter(None, (site.mallory, site.bob)):
        async with client_of(somebody) as stranger:
            with pytest.raises(GramClientError) as refused:
                await QUERIES[query](stranger.job(with_subject(job, server, site)))
        assert refused.value.code is ErrorCode.AUTHORIZATION_DENIED
    async with client_of(site.alice) as alice:
        assert (await alice.job(job.contact).status()).state is JobState.ACTIVE


def with_subject(job: Job, server: Server, site: Site) -> str:
    """The contact as a stranger must write it so that its own client does not refuse to talk."""
    if server.subject in job.contact:
        return job.contact
    return f"{job.contact}:{site.alice.identity}"


async def test_the_owner_may(job: Job) -> None:
    assert (await job.status()).state is JobState.ACTIVE
    await job.signal(Signal.SUSPEND, "now")
    assert (await job.status()).state is JobState.SUSPENDED
    await job.signal(Signal.RESUME, "now")
    assert (await job.status()).state is JobState.ACTIVE


async def test_suspended_processes_do_not_run(site: Site, server: Server) -> None:
    ticks = site.alice.home / "ticks"
    script = f"while :; do echo >> {ticks}; sleep 0.02; done"
    async with client_of(site.alice) as alice:
        job = await alice.submit(server.contact, f'&(executable=/bin/sh)(arguments=-c "{script}")')
        while not ticks.exists():
            await asyncio.sleep(0.05)  # another process makes the file
        await job.signal(Signal.SUSPEND, "now")
        stopped_at = ticks.stat().st_size
        await asyncio.sleep(0.3)
        assert ticks.stat().st_size == stopped_at
        await job.signal(Signal.RESUME, "now")
        while ticks.stat().st_size == stopped_at:
            await asyncio.sleep(0.05)  # another process writes the file
        await job.cancel()
    ticks.unlink()


@pytest.mark.root
async def test_files_of_a_job_are_private(site: Site, server: Server) -> None:
    if site.bob is None or site.bob.account is None:
        pytest.skip("a second account needs root")
    alice, bob = site.alice, site.bob
    secret = alice.home / "secret"
    script = f"echo hidden > {secret}; echo $X509_USER_PROXY > {secret}.path; sleep 300"
    async with client_of(alice) as client:
        job = await client.submit(
            server.contact, f'&(executable=/bin/sh)(arguments=-c "umask 077; {script}")'
        )
        while not Path(f"{secret}.path").exists():
            await asyncio.sleep(0.05)  # another process makes the file
        proxy = Path(Path(f"{secret}.path").read_text().strip())
        for path in (secret, proxy):
            assert path.stat().st_uid == alice.account.pw_uid  # type: ignore[union-attr]  # root
            assert bob.run("cat", str(path)).returncode != 0
        assert proxy.stat().st_mode & 0o777 == 0o600
        assert proxy.parent.stat().st_mode & 0o777 == 0o700
        pids = bob.run("pgrep", "-u", str(alice.account.pw_uid), "sleep").stdout.split()  # type: ignore[union-attr]  # root
        assert pids
        for pid in pids:
            assert bob.run("kill", pid.decode()).returncode != 0
        await job.cancel()
    secret.unlink()
    Path(f"{secret}.path").unlink()


async def test_the_service_holds_no_privilege(server: Server) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert fields["NoNewPrivs"].strip() == "1"
    assert int(fields["CapEff"], 16) == 0
    if os.geteuid() == 0:
        assert set(fields["Uid"].split()) != {"0"}
        assert "0" not in fields["Uid"].split()
