"""Certificates that policy refuses, in both roles (wire-protocol.md 2.2, 8: P15, P20)."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from gram.labca import USER_EXTENSIONS, LabCA, make_name
from protocol.aio import gsi
from protocol.aio.doubles import memory_pair
from protocol.aio.gsi import Acceptor, Connector
from protocol.errors import GramError
from protocol.gsi import tls
from protocol.gsi.chain import ChainRefused, Refusal, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.tls import TLSContext, TLSError, TLSSession
from protocol.tables import ErrorCode
from tests.aio.lab import (
    Lab,
    ScriptGatekeeper,
    Wiretap,
    establish,
    exchange,
    limit_tls,
)
from tests.support.keys import rsa_key

VERSIONS = pytest.mark.parametrize(
    "version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["tls1.2", "tls1.3"]
)


def flawed(lab: Lab, flaw: str) -> tuple[Credential, CADirectory]:
    """A credential that breaks one rule, and the CA directory by which it does."""
    ca, key, now = lab.ca, rsa_key("flawed"), datetime.now(UTC)
    name, directory = make_name("/O=Gram Lab/CN=Flawed"), lab.directory
    start, days = now - timedelta(minutes=5), 1
    match flaw:
        case "expired":
            start = now - timedelta(days=9)
        case "future":
            start = now + timedelta(days=9)
        case "policy":
            name = make_name("/O=Elsewhere/CN=Flawed")
        case "foreign":
            ca = LabCA(lab.path / "far", subject="/O=Far/CN=CA", base="/O=Far", key=rsa_key("far"))
        case "critical":
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
            certificate = ca.sign(name, key.public_key(), ((extension, True),))
            return Credential(certificate, key), directory
        case "revoked":
            revoked = ca.crl([77])
            directory = CADirectory(ca.ca_directory(lab.path / "with-crl", crl=revoked))
    certificate = ca.sign(
        name, key.public_key(), USER_EXTENSIONS,
        not_before=start, lifetime=timedelta(days=days), serial=77,
    )  # fmt: skip
    return Credential(certificate, key), directory


FLAWS = pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("expired", Refusal.EXPIRED),
        ("future", Refusal.NOT_YET_VALID),
        ("policy", Refusal.SIGNING_POLICY),
        ("foreign", Refusal.UNTRUSTED),
        ("critical", Refusal.CRITICAL_EXTENSION),
        ("revoked", Refusal.REVOKED),
    ],
)


@VERSIONS
@FLAWS
async def test_p20_a_refused_client_completes_the_handshake_and_can_be_answered(
    lab: Lab, version: int, flaw: str, reason: Refusal
) -> None:
    credential, directory = flawed(lab, flaw)
    acceptor = Acceptor(lab.host, directory)
    limit_tls(acceptor, version)
    pair = await establish(acceptor, lab.connector(credential), gatekeeper=True)
    assert pair.server.peer is None
    assert pair.server.refusal is not None
    assert pair.server.refusal.reason is reason
    await exchange(pair)


@VERSIONS
@FLAWS
async def test_a_server_that_policy_refuses_gets_nothing(
    lab: Lab, version: int, flaw: str, reason: Refusal
) -> None:
    credential, directory = flawed(lab, flaw)
    connector = Connector(lab.proxy, directory)
    limit_tls(connector, version)
    ends = memory_pair()
    wire = Wiretap(ends[0])
    accepting = asyncio.create_task(lab.acceptor(credential).accept(ends[1], gatekeeper=True))
    with pytest.raises(ChainRefused) as refused:
        await connector.establish(wire, gatekeeper=True)
    assert refused.value.reason is reason
    assert refused.value.code is ErrorCode.AUTHORIZATION
    # After its hello the client sends an alert at most, never its certificate.
    assert all(len(write) < 60 for write in wire.writes[1:])
    with pytest.raises(GramError):
        await accepting
    assert ends[0].closed


async def test_openssls_own_complaint_is_enough_to_refuse(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If our policy were blind to expiry, OpenSSL's verdict would still count."""
    credential, directory = flawed(lab, "expired")
    blind = verify_chain(lab.alice.certificates, directory)
    monkeypatch.setattr(tls, "verify_chain", lambda *_: blind)
    pair = await establish(Acceptor(lab.host, directory), lab.connector(credential))
    assert pair.server.peer is None
    assert pair.server.refusal is not None
    assert pair.server.refusal.reason is Refusal.EXPIRED
    with pytest.raises(ChainRefused):
        await establish(lab.acceptor(credential), lab.connector())


async def test_proof_of_possession_is_never_waived(lab: Lab) -> None:
    """Tolerance is about chains: a wrong signature of the handshake ends it."""
    server = TLSSession(TLSContext(lab.host, lab.directory, server=True))
    client = TLSSession(TLSContext(lab.alice, lab.directory, server=False))
    flight = bytearray(client.advance(server.advance(client.advance())))
    flight[-80] ^= 1
    with pytest.raises(TLSError):
        server.advance(bytes(flight))
    assert not server.established
    assert server.peer is None


@VERSIONS
async def test_a_server_refusal_in_the_handshake_reaches_the_client(lab: Lab, version: int) -> None:
    """Unlike us, most servers refuse with an alert; the client says so, code 7 (P20)."""
    context = lab.standard_server(0, maximum_version=ssl.TLSVersion.TLSv1_3)
    if version == SSL.TLS1_2_VERSION:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    credential, _ = flawed(lab, "expired")
    ours, theirs = memory_pair()

    async def gatekeeper() -> None:
        script = ScriptGatekeeper(context, sync=b"\0", apart=False)
        with pytest.raises(ssl.SSLError):
            await script.serve(theirs)

    script = asyncio.create_task(gatekeeper())
    with pytest.raises(TLSError, match="alert") as error:
        await lab.connector(credential).establish(ours, gatekeeper=True)
    assert error.value.code is ErrorCode.AUTHORIZATION
    await script


async def test_elliptic_curve_credentials_work(lab: Lab) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    host = lab.ca.host(["localhost"], key=key).credential
    pair = await establish(lab.acceptor(host), lab.connector())
    assert pair.client.peer is not None
    assert pair.client.peer.eec == host.certificate


@pytest.mark.parametrize("flaw", ["mismatch", "weak"])
def test_an_unusable_credential_is_reported_at_once(lab: Lab, flaw: str) -> None:
    key = rsa_key("weak", 1024)
    certificate = lab.alice.certificate
    if flaw == "weak":
        certificate = lab.ca.sign(make_name("/O=Gram Lab/CN=Weak"), key.public_key())
    for make in (Acceptor, Connector):
        with pytest.raises(TLSError) as error:
            make(Credential(certificate, key), lab.directory)
        assert error.value.code is ErrorCode.AUTHORIZATION


async def test_a_replaced_ca_is_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab.path / "renewed"
    old = LabCA(
        lab.path / "old", subject="/O=Again/CN=CA", base="/O=Again", key=rsa_key("again"),
        now=datetime.now(UTC) - timedelta(days=90),
    )  # fmt: skip
    new = LabCA(lab.path / "new", subject="/O=Again/CN=CA", base="/O=Again", key=rsa_key("again"))
    user = new.user("User", key=rsa_key("eve")).credential
    acceptor = Acceptor(lab.host, CADirectory(old.ca_directory(path)))
    pair = await establish(acceptor, lab.connector(user))
    assert pair.server.peer is None
    new.ca_directory(path)
    monkeypatch.setattr(gsi, "CONTEXT_LIFETIME", -1.0)
    pair = await establish(acceptor, lab.connector(user))
    assert pair.server.peer is not None
    assert pair.server.peer.identity == "/O=Again/CN=User"
