"""Our certificates under real tools, and theirs under our rules."""

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gram.labca import USER_EXTENSIONS, Issued, LabCA, key_usage
from protocol.gsi.chain import ChainRefused, Refusal, verify_chain
from protocol.gsi.credential import Credential, write_private
from protocol.gsi.delegation import accept_reply, make_request, sign_request
from protocol.gsi.directory import CADirectory
from protocol.gsi.issue import BACKDATE, issue_proxy, proxy_number
from protocol.gsi.names import subject_hash
from protocol.gsi.proxies import ProxyFormat, ProxyInfo, ProxyPolicy, proxy_info
from protocol.gsi.proxy_init import create_proxy
from tests.gsi.forge import DRAFT, FULL, INDEPENDENT, LEGACY, LIMITED, RFC
from tests.support.keys import rsa_key

ALICE = "/O=Gram Lab/CN=Alice"
KEY_ENCIPHERMENT = (key_usage("key_encipherment"), True)
PLAIN = ((x509.BasicConstraints(ca=False, path_length=None), True),)


@pytest.fixture
def ca(tmp_path: Path) -> LabCA:
    """The tools take the real time."""
    return LabCA(tmp_path, key=rsa_key("ca"))


@pytest.fixture
def plain(ca: LabCA) -> Issued:
    """A user whose certificate has no keyUsage, as legacy proxies need."""
    return ca.user("Alice", key=rsa_key("alice"), extensions=PLAIN)


def run(directory: CADirectory, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("X509_")}
    environ["X509_CERT_DIR"] = str(directory.path)
    return subprocess.run(
        [str(item) for item in command], env=environ, capture_output=True, text=True, check=False
    )


def grid_proxy_init(
    directory: CADirectory, issued: Issued, out: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run the real tool; `-verify` makes it check the chain against our CA directory."""
    files = ("-cert", issued.certificate, "-key", issued.key, "-out", out)
    return run(directory, "grid-proxy-init", "-q", "-verify", "-bits", "1024", *files, *options)


# -- theirs, under our rules ----------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(
    ("options", "info", "limited"),
    [
        ([], ProxyInfo(RFC, FULL), False),
        (["-rfc"], ProxyInfo(RFC, FULL), False),
        (["-limited"], ProxyInfo(RFC, LIMITED), True),
        (["-independent"], ProxyInfo(RFC, INDEPENDENT), False),
        (["-path-length", "3"], ProxyInfo(RFC, FULL, 3), False),
        (["-draft"], ProxyInfo(DRAFT, FULL), False),
        (["-draft", "-limited"], ProxyInfo(DRAFT, LIMITED), True),
        (["-draft", "-path-length", "3"], ProxyInfo(DRAFT, FULL, 3), False),
        (["-old"], ProxyInfo(LEGACY, FULL), False),
        (["-old", "-limited"], ProxyInfo(LEGACY, LIMITED), True),
    ],
    ids=str,
)
def test_proxies_of_grid_proxy_init(
    plain: Issued,
    directory: CADirectory,
    tmp_path: Path,
    options: list[str],
    info: ProxyInfo,
    limited: bool,
) -> None:
    done = grid_proxy_init(directory, plain, tmp_path / "proxy", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    proxy = Credential.load(tmp_path / "proxy")
    assert proxy_info(proxy.certificate) == info
    peer = verify_chain(proxy.certificates, directory)
    assert (peer.limited, peer.chain) == (limited, proxy.certificates)
    own = f"/CN={proxy.certificate.serial_number}" if info.policy is INDEPENDENT else ""
    assert peer.identity == ALICE + own
    if info.format is not LEGACY:
        key_info = proxy.certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        assert proxy_number(key_info) == proxy.certificate.serial_number


@pytest.mark.peers
@pytest.mark.parametrize("options", [[], ["-limited"], ["-draft"], ["-old"]], ids=" ".join)
def test_same_octets_as_grid_proxy_init(
    ca: LabCA, directory: CADirectory, tmp_path: Path, options: list[str]
) -> None:
    """But for key, times, number and signature, our proxy is theirs."""
    extensions = PLAIN if "-old" in options else USER_EXTENSIONS
    issued = ca.user("Alice", key=rsa_key("alice"), extensions=extensions)
    assert grid_proxy_init(directory, issued, tmp_path / "proxy", *options).returncode == 0
    theirs = Credential.load(tmp_path / "proxy")
    info = proxy_info(theirs.certificate)
    assert info is not None
    ours = create_proxy(
        issued.credential,
        policy=info.policy,
        format=info.format,
        key=theirs.private_key,
        now=theirs.certificate.not_valid_before_utc + BACKDATE,
    )
    assert ours.certificate == theirs.certificate
    assert ours.pem() == (tmp_path / "proxy").read_bytes()


@pytest.mark.peers
def test_delegating_from_a_real_proxy(
    plain: Issued, directory: CADirectory, tmp_path: Path
) -> None:
    for options in ([], ["-draft"], ["-old"]):
        path = tmp_path / "proxy"
        assert grid_proxy_init(directory, plain, path, *options).returncode == 0
        issuer = Credential.load(path)
        key = rsa_key("delegated")
        reply = sign_request(make_request(key, issuer.certificate), issuer)
        credential = accept_reply(reply.public_bytes(Encoding.DER), key, issuer.certificates)
        assert verify_chain(credential.certificates, directory).limited


@pytest.mark.peers
def test_refused_like_grid_proxy_init(ca: LabCA, directory: CADirectory, tmp_path: Path) -> None:
    """What the tool refuses is refused here, and what it accepts is accepted."""
    alice = ca.user("Alice", key=rsa_key("alice"))
    usage = ca.user("Usage", key=rsa_key("bob"), extensions=(*PLAIN, KEY_ENCIPHERMENT))
    other = LabCA(tmp_path / "other", subject="/O=Gram Lab/CN=Other", key=rsa_key("other"))
    stranger = other.user("Alice", key=rsa_key("mallory"))
    policy = directory.path / f"{subject_hash(ca.name)}.signing_policy"
    text = policy.read_text()

    def both(issued: Issued) -> tuple[bool, Refusal | None]:
        done = grid_proxy_init(directory, issued, tmp_path / "proxy")
        user = issued.credential.certificate
        proxy = issue_proxy(
            user,
            issued.credential.private_key,
            rsa_key("proxy")
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            ProxyInfo(RFC, FULL),
            not_before=ca.now - BACKDATE,
            not_after=ca.now + timedelta(hours=1),
        )
        try:
            verify_chain([proxy, user], directory)
        except ChainRefused as refused:
            return done.returncode == 0, refused.reason
        return done.returncode == 0, None

    assert both(alice) == (True, None)
    assert both(usage) == (False, Refusal.PROXY_RULE)
    assert both(stranger) == (False, Refusal.UNTRUSTED)
    policy.write_text(text.replace("Gram Lab/*", "Other/*"))
    assert both(alice) == (False, Refusal.SIGNING_POLICY)
    policy.write_text(text)
    revoked = [alice.credential.certificate.serial_number]
    for crl, reason in (
        (ca.crl(revoked), Refusal.REVOKED),
        (ca.crl(last_update=ca.now - timedelta(hours=1), lifetime=BACKDATE), Refusal.CRL),
        (ca.crl(last_update=ca.now + timedelta(hours=1)), Refusal.CRL),
    ):
        ca.ca_directory(crl=crl)
        assert both(alice) == (False, reason)
    ca.ca_directory(crl=ca.crl())
    assert both(alice) == (True, None)


# -- ours, under their rules ----------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "policy", "words"),
    [
        (RFC, FULL, "RFC 3820 compliant impersonation proxy"),
        (RFC, LIMITED, "RFC 3820 compliant limited proxy"),
        (RFC, INDEPENDENT, "RFC 3820 compliant independent proxy"),
        (DRAFT, FULL, "Proxy draft (pre-RFC) compliant impersonation proxy"),
        (DRAFT, LIMITED, "Proxy draft (pre-RFC) compliant limited proxy"),
        (LEGACY, FULL, "full legacy globus proxy"),
        (LEGACY, LIMITED, "limited legacy globus proxy"),
    ],
)
def test_grid_proxy_info_knows_our_proxies(
    plain: Issued,
    directory: CADirectory,
    tmp_path: Path,
    kind: ProxyFormat,
    policy: ProxyPolicy,
    words: str,
) -> None:
    proxy = create_proxy(plain.credential, policy=policy, format=kind, key=rsa_key("proxy"))
    path = tmp_path / "proxy"
    write_private(path, proxy.pem())
    done = run(directory, "grid-proxy-info", "-file", path)
    assert done.returncode == 0, done.stderr
    fields = dict(line.split(" : ", 1) for line in done.stdout.splitlines() if " : " in line)
    shown = {name.strip(): value.strip() for name, value in fields.items()}
    assert shown["type"] == words
    assert shown["identity"] == proxy.identity
    assert shown["issuer"] == ALICE
    assert shown["strength"] == "2048 bits"


@pytest.mark.parametrize("policies", [[FULL], [LIMITED], [INDEPENDENT], [FULL, FULL, LIMITED]])
def test_openssl_verifies_our_proxies(
    ca: LabCA, directory: CADirectory, tmp_path: Path, policies: list[ProxyPolicy]
) -> None:
    proxy = ca.user("Alice", key=rsa_key("alice")).credential
    for policy in policies:
        proxy = create_proxy(proxy, policy=policy, key=rsa_key(f"proxy {len(proxy.chain)}"))
    leaf, rest = tmp_path / "leaf.pem", tmp_path / "rest.pem"
    leaf.write_bytes(proxy.certificate.public_bytes(Encoding.PEM))
    rest.write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in proxy.chain))
    options = ("-allow_proxy_certs", "-CApath", directory.path, "-untrusted", rest)
    done = run(directory, "openssl", "verify", *options, leaf)
    assert done.returncode == 0, done.stderr


def test_openssl_reads_our_request(tmp_path: Path, directory: CADirectory) -> None:
    path = tmp_path / "request.der"
    path.write_bytes(make_request(rsa_key("delegated")))
    done = run(
        directory, "openssl", "req", "-inform", "DER", "-in", path, "-verify", "-noout", "-text"
    )
    assert done.returncode == 0, done.stderr
    assert "CN = NULL SUBJECT NAME ENTRY" in done.stdout
    assert "Proxy Certificate Information: critical" in done.stdout
