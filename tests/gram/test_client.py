"""The client at a scripted gatekeeper: what is sent, and what answers become."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import rsl
from gram import Client as FromThePackage
from gram.client import (
    Client,
    ConnectionFailed,
    CredentialProblem,
    ErrorCode,
    GatekeeperContact,
    GramClientError,
    InvalidContact,
    JobRequestFailed,
    NotTrusted,
    Refused,
    Side,
    SyncClient,
    Version,
)
from protocol.gsi.proxies import ProxyPolicy, proxy_info
from protocol.gsi.proxy_init import create_proxy
from protocol.messages import (
    Extensions,
    GatekeeperRequest,
    HttpError,
    JobReply,
    JobRequest,
    Ping,
    PingReply,
    Reply,
    VersionReply,
    VersionRequest,
)
from tests.gram.lab import Lab
from tests.gram.servers import accepting, always, gatekeeper, job_manager
from tests.support.keys import rsa_key


async def test_ping(lab: Lab) -> None:
    async with gatekeeper(lab, always(PingReply())) as door, lab.client() as client:
        await client.ping(door.contact)
        await client.ping(f"{door.contact}/a-b", user="bob")
        await client.ping(GatekeeperContact("localhost", door.port, "x"))
    assert door.asked == [Ping("jobmanager"), Ping("a-b", "bob"), Ping("x")]
    assert door.delegated == []


async def test_version(lab: Lab) -> None:
    async with gatekeeper(lab, always(VersionReply("15.8", "6.2"))) as door, lab.client() as client:
        assert await client.version(door.contact) == Version("15.8", "6.2")
    assert door.asked == [VersionRequest("jobmanager")]
    (delegated,) = door.delegated
    info = proxy_info(delegated.certificate)
    assert info is not None
    assert info.policy is ProxyPolicy.LIMITED


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (HttpError(400), ErrorCode.PROTOCOL_FAILED),
        (HttpError(403), ErrorCode.AUTHORIZATION),
        (HttpError(404), ErrorCode.SERVICE_NOT_FOUND),
        (HttpError(500), ErrorCode.GATEKEEPER_MISCONFIGURED),
    ],
)
async def test_http_errors(lab: Lab, answer: Reply, code: ErrorCode) -> None:
    async with gatekeeper(lab, always(answer)) as door, lab.client() as client:
        for question in (client.ping(door.contact), client.submit(door.contact, "&(a=b)")):
            with pytest.raises(Refused) as refused:
                await question
            assert (refused.value.code, refused.value.side) == (code, Side.GATEKEEPER)


async def test_job_request(lab: Lab) -> None:
    async with job_manager(lab) as manager, lab.client() as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            text = "&(executable=/bin/true)(user_name=bob)  "
            job = await client.submit(door.contact, text, full_delegation=True)
            assert job.contact == manager.contact
            quiet = await client.submit(
                door.contact, rsl.parse("&(executable=/bin/true)"), callbacks=False
            )
            assert quiet.contact == manager.contact
            await client.submit(door.contact, "no RSL", callbacks=False)
        first, second, third = door.asked
        assert isinstance(first, JobRequest)
        assert (first.rsl, first.user, first.state_mask) == (text, "bob", 0xFFFFF)
        assert first.callback_url.startswith("https://127.0.0.1:")
        assert second == JobRequest("jobmanager", None, '&("executable" = "/bin/true" )', "", 0)
        assert third == JobRequest("jobmanager", None, "no RSL", "", 0)
        kinds = [proxy_info(item.certificate) for item in door.delegated]
        assert [kind and kind.policy for kind in kinds] == [
            ProxyPolicy.FULL,
            ProxyPolicy.LIMITED,
            ProxyPolicy.LIMITED,
        ]


async def test_refused_job_carries_code_and_text(lab: Lab) -> None:
    answer = JobReply(ErrorCode.BAD_RSL, None, Extensions(failure_message="no such thing"))
    async with gatekeeper(lab, always(answer)) as door, lab.client() as client:
        with pytest.raises(JobRequestFailed, match="no such thing") as failed:
            await client.submit(door.contact, "&(executable=a)")
        assert failed.value.code is ErrorCode.BAD_RSL
        with pytest.raises(GramClientError, match="cannot be printed"):
            await client.submit(
                door.contact,
                rsl.Relation("a", "=", (rsl.Variable((rsl.Sequence((rsl.Literal("x"),)),)),)),
            )


async def test_silent_gatekeeper(lab: Lab) -> None:
    async def never(_: GatekeeperRequest) -> Reply | None:
        await asyncio.sleep(60)
        return None

    async with gatekeeper(lab, always(None)) as door, lab.client() as client:
        with pytest.raises(ConnectionFailed) as closed:
            await client.ping(door.contact)
        assert closed.value.code is ErrorCode.PROTOCOL_FAILED
    async with gatekeeper(lab, never) as door, lab.client(reply_timeout=0.5) as client:
        with pytest.raises(ConnectionFailed, match=r"within 0\.5 seconds"):
            await client.ping(door.contact)


async def test_nobody_listens(lab: Lab) -> None:
    async with gatekeeper(lab, always(None)) as door:
        contact = door.contact
    async with lab.client() as client:
        with pytest.raises(ConnectionFailed) as failed:
            await client.ping(contact)
    assert (failed.value.code, failed.value.side) == (12, Side.NETWORK)


async def test_names_of_gatekeepers(lab: Lab) -> None:
    async with gatekeeper(lab, always(PingReply())) as door, lab.client() as client:
        await client.ping(f"{door.contact}:{lab.host.identity}")
        with pytest.raises(NotTrusted):
            await client.ping(f"{door.contact}:/O=Gram Lab/CN=other")
    async with gatekeeper(lab, always(PingReply()), lab.mallory) as door, lab.client() as client:
        with pytest.raises(NotTrusted, match="does not name the host"):
            await client.ping(door.contact)
        assert door.asked == []


async def test_untrusted_gatekeeper(lab: Lab, tmp_path: Path) -> None:
    empty = tmp_path / "certificates"
    empty.mkdir()
    async with (
        gatekeeper(lab, always(PingReply())) as door,
        Client(lab.alice, trusted_certificates=empty) as client,
    ):
        with pytest.raises(NotTrusted) as refused:
            await client.ping(door.contact)
    assert refused.value.side is Side.HERE
    assert "X509_CERT_DIR" in refused.value.advice


async def test_full_delegation_needs_a_full_proxy(lab: Lab) -> None:
    limited = create_proxy(lab.alice, policy=ProxyPolicy.LIMITED, key=rsa_key("limited"))
    async with job_manager(lab) as manager, lab.client(limited) as client:
        async with gatekeeper(lab, accepting(manager)) as door:
            with pytest.raises(GramClientError) as failed:
                await client.submit(door.contact, "&(executable=a)", full_delegation=True)
        assert failed.value.code is ErrorCode.DELEGATION_FAILED


@pytest.mark.parametrize("contact", ["", "[::1]:2119", "https://host", "h:99999"])
async def test_wrong_gatekeeper_contacts(lab: Lab, contact: str) -> None:
    async with lab.client() as client:
        with pytest.raises(InvalidContact) as wrong:
            await client.ping(contact)
    assert wrong.value.code is ErrorCode.BAD_GATEKEEPER_CONTACT


async def test_wrong_job_contact(lab: Lab) -> None:
    async with lab.client() as client:
        with pytest.raises(InvalidContact) as wrong:
            client.job("http://h:1/2/")
    assert wrong.value.code is ErrorCode.INVALID_JOB_CONTACT


async def test_credential_is_found_or_missed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X509_CERT_DIR", str(lab.certificates))
    monkeypatch.setenv("X509_USER_PROXY", str(lab.alice_file))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with FromThePackage() as client:
        assert client.identity == lab.alice.identity
    async with Client(lab.alice_file) as client:
        assert client.identity == lab.alice.identity
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "none"))
    with pytest.raises(CredentialProblem, match="No such file"):
        await Client().__aenter__()
    with pytest.raises(CredentialProblem, match="no directory of trusted CAs"):
        await Client(lab.alice, trusted_certificates=tmp_path / "none").__aenter__()
    shared = tmp_path / "shared"
    shared.write_bytes(lab.alice_file.read_bytes())
    os.chmod(shared, 0o644)
    with pytest.raises(CredentialProblem, match="mode 0644"):
        await Client(shared).__aenter__()


async def test_expired_credential(lab: Lab) -> None:
    past = datetime.now(UTC) - timedelta(minutes=4)
    expired = create_proxy(
        lab.alice, lifetime=timedelta(minutes=1), key=rsa_key("expired"), now=past
    )
    with pytest.raises(CredentialProblem, match="expired at"):
        await lab.client(expired).__aenter__()


async def test_client_must_be_entered(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="context manager"):
        await lab.client().ping("localhost")


async def test_no_key_is_shown(lab: Lab) -> None:
    async with lab.client() as client:
        assert "PRIVATE" not in repr(client) + repr(client._own) + str(vars(client))


async def test_blocking_facade(lab: Lab) -> None:
    async with job_manager(lab) as manager, gatekeeper(lab, accepting(manager)) as door:
        loop = asyncio.get_running_loop()

        def work() -> list[str]:
            with SyncClient(lab.alice, trusted_certificates=lab.certificates) as client:
                assert client.identity == lab.alice.identity
                job = client.submit(door.contact, "&(executable=/bin/true)")
                assert job.status().name == "ACTIVE"
                assert client.job(job.contact).contact == manager.contact
                asyncio.run_coroutine_threadsafe(manager.callback(8), loop).result(10)  # type: ignore[arg-type]  # DONE
                assert job.wait(10).succeeded
                with pytest.raises(Refused):
                    client.ping(door.contact)
                return [event.status.name for event in job.events()]

        assert await asyncio.to_thread(work) == ["DONE"]


def test_blocking_facade_without_credential(tmp_path: Path) -> None:
    with pytest.raises(CredentialProblem):
        SyncClient(tmp_path / "none").__enter__()


def test_names_of_the_package() -> None:
    import gram

    assert gram.Job.__module__ == "gram.client.job"
    assert not hasattr(gram, "Nothing")
