"""Our client side against the reference gatekeeper (wire-protocol.md B.4)."""

from collections.abc import Iterator

import pytest
from OpenSSL import SSL

from protocol.aio import delegation
from protocol.aio.gsi import Connector
from protocol.aio.stream import GsiStream
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxy_init import create_proxy
from tests.aio.lab import limit_tls
from tests.support import reference
from tests.support.keys import rsa_key
from tests.support.reference import Reference
from tests.support.site import Site, make_site

pytestmark = [pytest.mark.peers, pytest.mark.root, pytest.mark.timeout(120)]

VERSIONS = pytest.mark.parametrize(
    "version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["tls1.2", "tls1.3"]
)
POST = (
    "POST {uri} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-globus-gram\r\n"
    "Content-Length: {length}\r\n\r\n"
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@pytest.fixture(scope="module")
def peer(site: Site) -> Iterator[Reference]:
    running = reference.start(
        site.directory / "reference",
        certificates=site.certificates,
        host_certificate=site.host_certificate,
        host_key=site.host_key,
        gridmap=site.gridmap,
    )
    yield running
    running.stop()


async def connect(site: Site, peer: Reference, version: int, proxy: Credential) -> GsiStream:
    connector = Connector(proxy, CADirectory(site.certificates))
    limit_tls(connector, version)
    stream = await connector.connect("localhost", peer.port, gatekeeper=True, timeout=20)
    assert stream.peer is not None
    assert stream.peer.identity.endswith("/CN=localhost")
    return stream


async def read_all(stream: GsiStream) -> bytes:
    data = b""
    while piece := await stream.receive():
        data += piece
    await stream.aclose()
    return data


def message(uri: str, body: bytes = b"") -> bytes:
    return POST.format(uri=uri, length=len(body)).encode() + body


@VERSIONS
async def test_ping(site: Site, peer: Reference, version: int) -> None:
    proxy = create_proxy(site.alice.credential, key=rsa_key("proxy"))
    stream = await connect(site, peer, version, proxy)
    await delegation.send_flag(stream, delegation.NO_DELEGATION)
    await stream.send(message("ping/jobmanager"))
    reply = await read_all(stream)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.endswith(b"\r\n\r\n\0")  # P25


@VERSIONS
@pytest.mark.parametrize("limited", [True, False], ids=["limited", "full"])
async def test_version_with_delegation(
    site: Site, peer: Reference, version: int, limited: bool
) -> None:
    proxy = create_proxy(site.alice.credential, key=rsa_key("proxy"))
    stream = await connect(site, peer, version, proxy)
    await delegation.send_flag(stream, delegation.DELEGATION)
    await delegation.delegate(stream, proxy, limited=limited)
    await stream.send(message("/jobmanager", b"command: version\r\n\0"))
    reply = await read_all(stream)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b"toolkit-version: " in reply


async def test_a_request_longer_than_a_record(site: Site, peer: Reference) -> None:
    proxy = create_proxy(site.alice.credential, key=rsa_key("proxy"))
    stream = await connect(site, peer, SSL.TLS1_3_VERSION, proxy)
    await delegation.send_flag(stream, delegation.NO_DELEGATION)
    await stream.send(message("ping/jobmanager", b"x" * 60000))
    assert (await read_all(stream)).startswith(b"HTTP/1.1 200 ")
