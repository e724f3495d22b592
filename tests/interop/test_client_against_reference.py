"""Our client library against the reference gatekeeper and job manager."""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator

import pytest

from gram.client import (
    Client,
    JobGone,
    JobRequestFailed,
    JobState,
    NotTrusted,
    OutputNotFound,
    Program,
    Refused,
    Signal,
    SyncClient,
    with_stored_output,
)
from protocol.gsi.credential import Credential
from protocol.gsi.proxies import ProxyPolicy
from protocol.tables import ErrorCode
from rsl import parse
from tests.support.reference import Reference
from tests.support.site import Site, User

pytestmark = [pytest.mark.root, pytest.mark.peers]

SLEEP = "&(executable=/bin/sleep)(arguments={})"


def _client(site: Site, user: User, **options: object) -> Client:
    proxy = Credential.from_pem(user.proxy.read_bytes())
    return Client(proxy, trusted_certificates=site.certificates, **options)  # type: ignore[arg-type]  # test helper


@pytest.fixture
async def client(site: Site, alice: User) -> AsyncIterator[Client]:
    async with _client(site, alice) as opened:
        yield opened


@pytest.fixture
def contact(reference_server: Reference) -> str:
    return reference_server.contact


async def test_ping_and_version(client: Client, contact: str) -> None:
    await client.ping(contact)
    version = await client.version(contact)
    assert version.version.startswith("15.")
    assert version.toolkit_version == "6.2"


async def test_ping_with_the_subject_in_the_contact(
    site: Site, client: Client, contact: str
) -> None:
    await client.ping(f"{contact}:/O=Gram Lab/CN=localhost")
    with pytest.raises(NotTrusted):
        await client.ping(f"{contact}:/O=Gram Lab/CN=elsewhere")


async def test_refusals_carry_the_code(
    site: Site, client: Client, contact: str, reference_server: Reference
) -> None:
    with pytest.raises(Refused) as unknown_service:
        await client.ping(f"{contact}/nowhere")
    assert unknown_service.value.code is ErrorCode.SERVICE_NOT_FOUND
    async with _client(site, site.mallory) as mallory:
        with pytest.raises(Refused) as unmapped:
            await mallory.ping(contact)
    assert unmapped.value.code is ErrorCode.AUTHORIZATION
    with pytest.raises(Refused) as foreign_account:
        await client.ping(contact, user="root")
    assert foreign_account.value.code is ErrorCode.AUTHORIZATION
    with pytest.raises(JobRequestFailed) as attribute:
        await client.submit(contact, "&(executable=/bin/true)(nosuch=1)")
    assert attribute.value.code is ErrorCode.PARAMETER_NOT_SUPPORTED
    assert "nosuch" in attribute.value.message
    with pytest.raises(JobRequestFailed) as syntax:
        await client.submit(contact, "&(executable=")
    assert syntax.value.code is ErrorCode.BAD_RSL


async def test_callbacks_to_the_end(client: Client, contact: str) -> None:
    job = await client.submit(contact, SLEEP.format(1))
    states = [event.status.state async for event in job.events()]
    assert states == [JobState.ACTIVE, JobState.DONE]
    final = await job.wait(10)
    assert final.succeeded
    # The reference has forgotten it by now; we have not.
    assert await job.status() == final
    with pytest.raises(JobGone):
        await job.cancel()
    assert (await client.job(job.contact).status()).gone


async def test_status_cancel_and_signal(client: Client, contact: str) -> None:
    job = await client.submit(contact, SLEEP.format(60))
    async for event in job.events():
        if event.status.state is JobState.ACTIVE:
            break
    assert (await job.status()).state is JobState.ACTIVE
    with pytest.raises(Refused) as suspended:
        await job.signal(Signal.SUSPEND, "now")
    assert suspended.value.code is ErrorCode.UNIMPLEMENTED
    await job.cancel()
    final = await job.wait(30)
    assert (final.state, final.failure_code) == (JobState.FAILED, ErrorCode.USER_CANCELLED)


async def test_failed_job_tells_why(client: Client, contact: str) -> None:
    job = await client.submit(contact, "&(executable=/no/such/program)")
    final = await job.wait(30)
    assert final.failure_code == ErrorCode.EXECUTABLE_NOT_FOUND


async def test_attach_to_a_running_job(site: Site, client: Client, contact: str) -> None:
    job = await client.submit(contact, SLEEP.format(3), callbacks=False)
    async with _client(site, site.alice) as other:
        final = await other.job(job.contact).wait(30)
    assert final.succeeded


async def test_lost_callbacks_are_not_taken_for_success(
    site: Site, alice: User, contact: str
) -> None:
    async with _client(site, alice, callbacks=False) as deaf:
        job = await deaf.submit(contact, "&(executable=/bin/false)")
        final = await job.wait(60)
    assert final.gone
    assert not final.succeeded


async def test_two_phase_commit_is_done_for_the_caller(client: Client, contact: str) -> None:
    job = await client.submit(contact, "&(executable=/bin/true)(two_phase=30)")
    assert (await job.wait(30)).succeeded
    assert (await client.job(job.contact).status()).gone  # the end was committed


async def test_two_phase_commit_by_hand(client: Client, contact: str) -> None:
    job = await client.submit(contact, "&(executable=/bin/true)(two_phase=30)", commit=False)
    assert (await job.status()).state is JobState.UNSUBMITTED
    await job.commit()
    assert (await job.wait(30)).succeeded
    assert (await job.status()).succeeded  # still known
    await job.commit_end()
    assert (await client.job(job.contact).status()).gone


async def test_renew(client: Client, contact: str) -> None:
    job = await client.submit(contact, SLEEP.format(5))
    assert (await job.renew()).state in (JobState.UNSUBMITTED, JobState.ACTIVE)
    assert (await job.renew(full=True)).failure_code == 0
    await job.cancel()


async def test_full_delegation_from_a_limited_proxy_fails_here(
    site: Site, alice: User, contact: str
) -> None:
    limited = Credential.from_pem(
        alice.write_proxy("limited", policy=ProxyPolicy.LIMITED).read_bytes()
    )
    async with Client(limited, trusted_certificates=site.certificates) as client:
        with pytest.raises(Refused) as refused:
            await client.ping(contact)
        assert refused.value.code is ErrorCode.AUTHORIZATION


async def test_run_streams_both_ways(client: Client, contact: str) -> None:
    script = "cat; echo oops >&2; echo $1 $NAME; pwd"
    result = await client.run(
        contact,
        Program(
            ("/bin/sh", "-c", script, "sh", 'a "quoted" $word'),
            environment={"NAME": "va#lue"},
            directory="/tmp",
        ),
        stdin=b"binary \0\xff\r\n",
        timeout=60,
    )
    assert result.status.succeeded
    assert result.stdout == b'binary \0\xff\r\na "quoted" $word va#lue\n/tmp\n'
    assert result.stderr == b"oops\n"


async def test_run_with_much_data(client: Client, contact: str) -> None:
    digest = hashlib.sha256()
    size = 0

    async def sink(data: bytes) -> None:
        nonlocal size
        size += len(data)
        digest.update(data)

    blob = bytes(range(256)) * 4096 * 20
    result = await client.run(contact, ["/bin/cat"], stdin=blob, stdout=sink, timeout=60)
    assert result.status.succeeded
    assert size == len(blob)
    assert digest.digest() == hashlib.sha256(blob).digest()


async def test_abandoned_run_cancels_the_job(client: Client, contact: str) -> None:
    contacts: list[str] = []

    async def running() -> None:
        async with client.start(contact, ["/bin/sleep", "60"]) as started:
            contacts.append(started.job.contact)
            await started.wait()

    task = asyncio.create_task(running())
    while not contacts:
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watcher = client.job(contacts[0])
    final = await watcher.wait(30)
    assert final.gone or final.failure_code == ErrorCode.USER_CANCELLED


async def test_stored_output(client: Client, contact: str) -> None:
    job = await client.submit(
        contact,
        with_stored_output(parse("&(executable=/bin/sh)(arguments=-c 'echo out; echo err >&2')")),
    )
    assert (await job.wait(30)).succeeded
    assert await client.output(job.contact, resource=contact) == b"out\n"
    assert await client.output(job.contact, "stderr", resource=contact) == b"err\n"
    with pytest.raises(OutputNotFound):
        await client.output("https://localhost:1/2/3/", resource=contact)


async def test_output_of_globus_job_submit(client: Client, contact: str, alice: User) -> None:
    submitted = alice.run("globus-job-submit", contact, "/bin/echo", "hello")
    assert submitted.returncode == 0, submitted.stderr
    job = client.job(submitted.stdout.decode().strip())
    await job.wait(30)
    assert await client.output(job.contact, resource=contact) == b"hello\n"


def test_command(contact: str, alice: User) -> None:
    gram = (sys.executable, "-m", "gram")
    run = alice.run(*gram, "run", "-i", contact, "--", "/bin/cat", stdin=b"\0\xff")
    assert (run.returncode, run.stdout) == (0, b"\0\xff"), run.stderr
    submitted = alice.run(*gram, "submit", contact, "&(executable=/none)", "--wait")
    assert submitted.returncode == ErrorCode.EXECUTABLE_NOT_FOUND
    job = submitted.stdout.decode().splitlines()[0]
    status = alice.run(*gram, "status", job)
    assert status.returncode == ErrorCode.JOB_CONTACT_NOT_FOUND
    assert status.stdout.startswith(b"GONE")


def test_blocking_client(site: Site, alice: User, contact: str) -> None:
    proxy = Credential.from_pem(alice.proxy.read_bytes())
    with SyncClient(proxy, trusted_certificates=site.certificates) as client:
        client.ping(contact)
        job = client.submit(contact, "&(executable=/bin/true)")
        assert [event.status.name for event in job.events()] == ["ACTIVE", "DONE"]
        assert client.run(contact, ["/bin/echo", "hello"]).stdout == b"hello\n"
        assert client.job(job.contact).status().gone
