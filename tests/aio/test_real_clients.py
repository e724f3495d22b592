"""The real C client against a script server: what the transport promises (wire-protocol.md 8)."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from gram.labca import LabCA
from protocol.aio import delegation
from protocol.aio.gsi import Acceptor, GsiStream
from protocol.aio.raw import RawStream
from protocol.aio.server import Server, serve
from protocol.gsi.credential import Credential, key_pem, write_private
from protocol.gsi.delegation import make_request
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxy_init import create_proxy
from tests.support.keys import rsa_key
from tests.support.site import Site, make_site

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

TLS12 = {"GLOBUS_GSSAPI_MAX_TLS_PROTOCOL": "TLS1_2_VERSION"}
TLS13 = {"GLOBUS_GSSAPI_MIN_TLS_PROTOCOL": "TLS1_3_VERSION"}
BOTH = pytest.mark.parametrize("tls", [TLS12, TLS13], ids=["tls1.2", "tls1.3"])

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-globus-gram\r\nContent-Length: %d\r\n\r\n%b"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n"
VERSION = b'protocol-version: 2\r\nstatus: 0\r\nversion: "1.2.3"\r\ntoolkit-version: "6.2"\r\n\0'


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@dataclass
class ScriptServer:
    """Answers pings and version queries; keeps what it saw."""

    acceptor: Acceptor
    server: Server | None = None
    descriptions: list[str] = field(default_factory=list)
    identities: list[str | None] = field(default_factory=list)
    limited: list[bool | None] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    delegated: list[Credential] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @property
    def contact(self) -> str:
        assert self.server is not None
        return f"localhost:{self.server.port}"

    async def handle(self, raw: RawStream) -> None:
        try:
            stream = await self.acceptor.accept(raw, gatekeeper=True, timeout=10)
            async with asyncio.timeout(20):
                await self.answer(stream)
            await stream.aclose()
        except Exception as error:
            self.errors.append(error)
            raise

    async def answer(self, stream: GsiStream) -> None:
        self.descriptions.append(stream.description)
        self.identities.append(stream.peer.identity if stream.peer else None)
        self.limited.append(stream.peer.limited if stream.peer else None)
        if stream.refusal is not None:
            self.refusals.append(stream.refusal.reason.value)
        if await delegation.read_flag(stream) == delegation.DELEGATION:
            key = rsa_key("delegation")
            request = make_request(key)
            if stream.peer is None:
                await delegation.discard_delegation(stream, request)
            else:
                credential = await delegation.receive_delegation(stream, key, request)
                self.delegated.append(credential)
        request = b""
        while not request.endswith((b"\r\n\r\n", b"\0")):
            piece = await stream.receive()
            assert piece
            request += piece
        self.requests.append(request)
        if stream.peer is None:
            await stream.send(FORBIDDEN)
            return
        body = b"" if b"ping/" in request else VERSION
        reply = OK % (len(body), body)
        await stream.send(reply)


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[ScriptServer]:
    host = Credential.load_pair(site.host_certificate, site.host_key)
    script = ScriptServer(Acceptor(host, CADirectory(site.certificates)))
    script.server = await serve(script.handle)
    try:
        yield script
    finally:
        await script.server.aclose()


async def globusrun(
    site: Site, *arguments: str, proxy: Path | None = None, tls: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return await asyncio.to_thread(
        site.alice.run, "globusrun", *arguments, proxy=proxy, timeout=20, extra=tls
    )


def certificates_pem(credential: Credential) -> bytes:
    return b"".join(item.public_bytes(Encoding.PEM) for item in credential.certificates)


def give(site: Site, name: str, data: bytes) -> Path:
    """A private file in alice's directory, owned by her account."""
    path = site.alice.directory / name
    path.unlink(missing_ok=True)
    write_private(path, data)
    if site.alice.account is not None:
        os.chown(path, site.alice.account.pw_uid, site.alice.account.pw_gid)
    return path


def grid_proxy_init(site: Site, credential: Credential, *options: str) -> Path:
    """A proxy made by the reference's own tool."""
    certificate = give(site, "usercert.pem", certificates_pem(credential))
    key = give(site, "userkey.pem", key_pem(credential.private_key))
    path = site.alice.directory / "x509up"
    done = site.alice.run(
        *("grid-proxy-init", "-q", "-cert", str(certificate), "-key", str(key)),
        *("-out", str(path), *options),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def place_proxy(site: Site, credential: Credential) -> Path:
    """A proxy file for somebody else's credential, readable for alice's account."""
    return give(site, "other-proxy", create_proxy(credential, key=rsa_key("proxy")).pem())


@BOTH
async def test_p1_p2_p3_ping(site: Site, tls: dict[str, str]) -> None:
    async with running(site) as script:
        done = await globusrun(site, "-a", "-r", script.contact, tls=tls)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"GRAM Authentication test successful" in done.stdout
    assert script.identities == [site.alice.identity]
    assert script.descriptions[0].startswith("TLSv1.2 " if tls is TLS12 else "TLSv1.3 ")
    assert b"NULL" not in script.descriptions[0].encode()
    assert script.requests[0].startswith(b"POST ping/jobmanager HTTP/1.1\r\n")
    assert script.errors == []


@BOTH
async def test_p1_p2_p3_delegation(site: Site, tls: dict[str, str]) -> None:
    async with running(site) as script:
        done = await globusrun(site, "-j", "-r", script.contact, tls=tls)
    assert script.errors == []
    assert len(script.delegated) == 1
    assert script.delegated[0].identity == site.alice.identity
    assert script.requests[0].startswith(b"POST /jobmanager HTTP/1.1\r\n")
    assert b"1.2.3" in done.stdout, done.stdout + done.stderr


@BOTH
@pytest.mark.parametrize(
    ("options", "limited"),
    [
        ((), False),
        (("-limited",), True),
        (("-draft",), False),
        (("-draft", "-limited"), True),
        (("-old",), False),
        (("-old", "-limited"), True),
    ],
    ids=["rfc", "rfc-limited", "draft", "draft-limited", "legacy", "legacy-limited"],
)
async def test_p6_p12_proxies_of_every_format(
    site: Site, tls: dict[str, str], options: tuple[str, ...], limited: bool
) -> None:
    # The issuer of a legacy proxy counts as a CA, so its keyUsage, if any, has to allow that.
    user = site.ca.user("any", key=rsa_key("any"), extensions=()).credential
    proxy = grid_proxy_init(site, user, *options)
    async with running(site) as script:
        ping = await globusrun(site, "-a", "-r", script.contact, proxy=proxy, tls=tls)
        version = await globusrun(site, "-j", "-r", script.contact, proxy=proxy, tls=tls)
    assert script.refusals == []
    assert script.errors == []
    assert ping.returncode == 0, ping.stdout + ping.stderr
    assert b"1.2.3" in version.stdout, version.stdout + version.stderr
    assert script.identities == [user.identity] * 2
    assert script.limited == [limited] * 2
    assert len(script.delegated) == 1


async def test_p5_a_client_with_any_extended_key_usage(site: Site) -> None:
    for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION):
        user = site.ca.user(
            f"eku {usage.dotted_string}",
            key=rsa_key("eku"),
            extensions=((x509.ExtendedKeyUsage([usage]), False),),
        )
        proxy = place_proxy(site, user.credential)
        async with running(site) as script:
            done = await globusrun(site, "-a", "-r", script.contact, proxy=proxy)
        assert done.returncode == 0, done.stdout + done.stderr
        assert script.identities == [user.credential.identity]


@BOTH
@pytest.mark.parametrize("action", ["-a", "-j"])
async def test_p20_a_refused_client_gets_a_readable_answer(
    site: Site, tls: dict[str, str], action: str
) -> None:
    stranger = LabCA(
        site.directory / "stranger", subject="/O=Strange/CN=CA", base="/O=Strange",
        key=rsa_key("stranger"),
    )  # fmt: skip
    known_to_the_client = site.directory / "both"
    stranger.ca_directory(known_to_the_client)
    site.ca.ca_directory(known_to_the_client)
    proxy = place_proxy(site, stranger.user("Eve", key=rsa_key("eve")).credential)
    environment = {**tls, "X509_CERT_DIR": str(known_to_the_client)}
    async with running(site) as script:
        done = await globusrun(site, action, "-r", script.contact, proxy=proxy, tls=environment)
    assert script.refusals == ["untrusted"]
    assert script.identities == [None]
    assert script.errors == []
    assert script.delegated == []
    assert len(script.requests) == 1
    assert done.returncode != 0
    assert b"authentication with the remote server failed" in done.stdout + done.stderr
