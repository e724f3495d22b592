"""`kill -9` of the service while jobs run: nothing is lost, nothing runs twice, contacts answer."""

import asyncio
from collections.abc import Iterator

import pytest

from gram import Client
from gram.client.models import JobStatus
from protocol.gsi.credential import Credential
from protocol.tables import JobState, Signal
from tests.support.reference import free_port
from tests.support.server import Server
from tests.support.site import Site, User, make_site

JOBS = 50


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@pytest.fixture(params=["per-identity", "shared"])
def server(site: Site, request: pytest.FixtureRequest) -> Iterator[Server]:
    mode = str(request.param)
    made = site.configure(f"crash-{mode}", gatekeeper=f'job_contacts = "{mode}"')
    made.config.write_text(made.config.read_text().replace(":0", f":{free_port()}", 1))
    made.start()
    yield made
    made.stop()


def client_of(user: User, *, callbacks: bool = True) -> Client:
    proxy = Credential.from_pem(user.proxy.read_bytes())
    return Client(
        proxy,
        trusted_certificates=user.certificates,
        callbacks=callbacks,
        callback_host="localhost",
        poll_interval=3600,
    )


async def test_fifty_running_jobs_survive_kill_9(site: Site, server: Server) -> None:
    runs = site.alice.home / "runs"
    runs.unlink(missing_ok=True)
    gate = site.alice.home / "gate"
    gate.unlink(missing_ok=True)

    def rsl(number: int) -> str:
        script = (
            f"echo {number} >> {runs}; while [ ! -e {gate} ]; do sleep 0.2; done; exit {number % 7}"
        )
        return f'&(executable=/bin/sh)(arguments=-c "{script}")'

    async with client_of(site.alice) as client:
        jobs = [await client.submit(server.contact, rsl(number)) for number in range(JOBS)]
        ended: list[asyncio.Task[JobStatus]] = [
            asyncio.create_task(job.wait(timeout=90)) for job in jobs
        ]
        while len(runs.read_text().split()) < JOBS:
            await asyncio.sleep(0.1)
        server.kill()
        server.start()
        states = [(await job.status()).state for job in jobs]
        assert states == [JobState.ACTIVE] * JOBS
        assert site.alice.run("touch", str(gate)).returncode == 0
        results = [await task for task in ended]
    assert [result.state for result in results] == [JobState.DONE] * JOBS
    assert [result.exit_code for result in results] == [number % 7 for number in range(JOBS)]
    assert sorted(map(int, runs.read_text().split())) == list(range(JOBS))


async def test_ends_while_the_service_is_down_are_noticed(site: Site, server: Server) -> None:
    marker = site.alice.home / "ended"
    marker.unlink(missing_ok=True)
    script = f"sleep 1; touch {marker}; exit 5"
    async with client_of(site.alice) as client:
        job = await client.submit(server.contact, f'&(executable=/bin/sh)(arguments=-c "{script}")')
        waiting = asyncio.create_task(job.wait(timeout=60))
        while (await job.status()).state is not JobState.ACTIVE:
            await asyncio.sleep(0.05)
        server.kill()
        while not marker.exists():
            await asyncio.sleep(0.1)
        server.start()
        result = await waiting
    assert (result.state, result.exit_code) == (JobState.DONE, 5)


async def test_an_uncommitted_job_waits_for_its_commit_again(site: Site, server: Server) -> None:
    marker = site.alice.home / "committed"
    marker.unlink(missing_ok=True)
    async with client_of(site.alice) as client:
        job = await client.submit(
            server.contact,
            f"&(executable=/bin/touch)(arguments={marker})(two_phase=60)",
            commit=False,
        )
        server.kill()
        server.start()
        assert (await job.status()).state is JobState.UNSUBMITTED
        assert not marker.exists()
        waiting = asyncio.create_task(job.wait(timeout=60))
        await job.signal(Signal.COMMIT_REQUEST, "commit")
        result = await waiting
    assert result.state is JobState.DONE
    assert marker.exists()


async def test_a_stop_leaves_running_jobs_alone(site: Site, server: Server) -> None:
    async with client_of(site.alice) as client:
        job = await client.submit(
            server.contact, "&(executable=/bin/sh)(arguments=-c 'sleep 2; exit 9')"
        )
        waiting = asyncio.create_task(job.wait(timeout=60))
        while (await job.status()).state is not JobState.ACTIVE:
            await asyncio.sleep(0.05)
        assert server.stop() == 0, server.log
        server.start()
        result = await waiting
    assert (result.state, result.exit_code) == (JobState.DONE, 9)
