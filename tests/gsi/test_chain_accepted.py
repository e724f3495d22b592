"""Chains that must be accepted, and what is concluded from them."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from gram.labca import CA_EXTENSIONS, LabCA, key_usage
from protocol.gsi.chain import ChainRefused, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import generate_ec_key
from protocol.gsi.directory import CADirectory
from protocol.gsi.names import subject_hash
from protocol.gsi.proxies import ProxyFormat, ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from tests.gsi import forge
from tests.gsi.forge import DRAFT, FULL, INDEPENDENT, LEGACY, LIMITED, NOW, RFC
from tests.support.keys import rsa_key

ALICE = "/O=Gram Lab/CN=Alice"
PLAIN = ((x509.BasicConstraints(ca=False, path_length=None), True),)


def make(
    issuer: Credential,
    policy: ProxyPolicy = FULL,
    kind: ProxyFormat = RFC,
    path_length: int | None = None,
) -> Credential:
    return create_proxy(
        issuer,
        policy=policy,
        format=kind,
        path_length=path_length,
        key=rsa_key(f"proxy {len(issuer.chain)}"),
        now=NOW,
    )


def test_end_entity_alone(alice: Credential, directory: CADirectory) -> None:
    peer = verify_chain([alice.certificate], directory, now=NOW)
    assert peer.identity == ALICE
    assert not peer.limited
    assert peer.eec == alice.certificate
    assert peer.chain == (alice.certificate,)
    assert peer.expires == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    ("kind", "policy", "limited", "own_name"),
    [
        (RFC, FULL, False, False),
        (RFC, LIMITED, True, False),
        (RFC, INDEPENDENT, False, True),
        (DRAFT, FULL, False, False),
        (DRAFT, LIMITED, True, False),
        (DRAFT, INDEPENDENT, False, True),
    ],
)
def test_kinds_of_proxies(
    alice: Credential,
    directory: CADirectory,
    kind: ProxyFormat,
    policy: ProxyPolicy,
    limited: bool,
    own_name: bool,
) -> None:
    proxy = make(alice, policy, kind)
    peer = verify_chain(proxy.certificates, directory, now=NOW)
    number = proxy.certificate.serial_number
    assert peer.identity == (f"{ALICE}/CN={number}" if own_name else ALICE)
    assert peer.identity == proxy.identity
    assert peer.limited is limited
    assert peer.eec == alice.certificate
    assert peer.chain == proxy.certificates
    assert peer.expires == NOW + timedelta(hours=12)


@pytest.mark.parametrize("usage", [(), ("digital_signature", "key_cert_sign")])
@pytest.mark.parametrize(("policy", "limited"), [(FULL, False), (LIMITED, True)])
def test_legacy_proxies(
    ca: LabCA, directory: CADirectory, usage: tuple[str, ...], policy: ProxyPolicy, limited: bool
) -> None:
    extra = ((key_usage(*usage), True),) if usage else ()
    bob = ca.user("Bob", key=rsa_key("bob"), extensions=(*PLAIN, *extra)).credential
    # The maker of a proxy clears keyCertSign, so what it copied must not stand in the way of the
    # next level: only an end entity without keyUsage gets two levels.
    proxy = make(bob, policy, LEGACY)
    if not usage:
        proxy = make(proxy, policy, LEGACY)
    peer = verify_chain(proxy.certificates, directory, now=NOW)
    assert (peer.identity, peer.limited) == ("/O=Gram Lab/CN=Bob", limited)
    assert proxy.certificate.serial_number == bob.certificate.serial_number


def test_levels_policies_and_any_order(alice: Credential, directory: CADirectory) -> None:
    proxy = make(make(make(alice, FULL, path_length=2)), LIMITED)
    peer = verify_chain(proxy.certificates, directory, now=NOW)
    assert peer.limited
    assert peer.chain == proxy.certificates
    leaf, *rest = proxy.certificates
    assert verify_chain([leaf, *reversed(rest)], directory, now=NOW) == peer


def test_independent_below_limited_is_a_new_but_limited_identity(
    alice: Credential, directory: CADirectory
) -> None:
    proxy = make(make(alice, LIMITED), INDEPENDENT)
    peer = verify_chain(proxy.certificates, directory, now=NOW)
    assert peer.identity.startswith(f"{ALICE}/CN=")
    assert peer.limited


def test_proxies_below_an_independent_one_carry_its_name(
    alice: Credential, directory: CADirectory
) -> None:
    independent = make(alice, INDEPENDENT)
    peer = verify_chain(make(independent).certificates, directory, now=NOW)
    assert peer.identity == f"{ALICE}/CN={independent.certificate.serial_number}"


def test_many_levels(alice: Credential, directory: CADirectory) -> None:
    proxy = alice
    for _ in range(12):
        proxy = make(proxy)
    assert verify_chain(proxy.certificates, directory, now=NOW).identity == ALICE


def test_the_root_may_be_sent_along(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    chain = [*make(alice).certificates, ca.certificate]
    peer = verify_chain(chain, directory, now=NOW)
    assert peer.chain == tuple(chain[:-1])


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.SERVER_AUTH, "1.3.6.1.5.5.7.3.4"])
def test_extended_key_usage_is_never_enforced(
    ca: LabCA, directory: CADirectory, purpose: x509.ObjectIdentifier | str
) -> None:
    oid = purpose if isinstance(purpose, x509.ObjectIdentifier) else x509.ObjectIdentifier(purpose)
    user = ca.user(
        "Bob", key=rsa_key("bob"), extensions=(*PLAIN, (x509.ExtendedKeyUsage([oid]), True))
    ).credential
    proxy = make(user)
    assert verify_chain(proxy.certificates, directory, now=NOW).identity == "/O=Gram Lab/CN=Bob"


@pytest.mark.parametrize("key", [generate_ec_key(), rsa_key("short", 1024)], ids=["P-256", "1024"])
def test_proxy_keys(
    alice: Credential, directory: CADirectory, key: ec.EllipticCurvePrivateKey
) -> None:
    proxy = create_proxy(alice, key=key, now=NOW)
    assert verify_chain(proxy.certificates, directory, now=NOW).identity == ALICE


def test_intermediate_ca_from_the_peer_or_the_directory(ca: LabCA, directory: CADirectory) -> None:
    sub = LabCA(
        ca.directory,
        subject="/O=Gram Lab/CN=Sub CA",
        key=rsa_key("sub"),
        parent=ca,
        now=NOW,
    )
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    sub_files = sub.ca_directory()
    expected = (carol.certificate, sub.certificate)
    assert verify_chain([carol.certificate], directory, now=NOW).chain == expected
    for path in sub_files.glob(f"{subject_hash(sub.name)}.0"):
        path.unlink()  # the signing policy stays: it is needed in any case
    assert verify_chain(expected, directory, now=NOW).chain == expected
    assert verify_chain((*expected, ca.certificate), directory, now=NOW).chain == expected


@pytest.mark.parametrize("kind", ["Ed25519", "Ed448", "P-256", "PSS"])
def test_other_signature_algorithms(
    ca: LabCA, directory: CADirectory, kind: str, alice: Credential
) -> None:
    """CA keys of any good type; revocation lists are checked with them as well."""
    keys = {
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "Ed448": ed448.Ed448PrivateKey.generate(),
        "P-256": generate_ec_key(),
        "PSS": rsa_key("other"),
    }
    key = keys[kind]
    digest = hashes.SHA256() if kind in ("P-256", "PSS") else None
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if kind == "PSS" else None

    def issue(subject: x509.Name, public_key: object, ca_flag: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            ca.name, subject, public_key, 5, NOW, NOW + timedelta(days=1)
        ).add_extension(x509.BasicConstraints(ca_flag, None), critical=True)
        return builder.sign(key, digest, rsa_padding=pss)

    root = issue(ca.name, key.public_key(), True)
    user = issue(alice.certificate.subject, rsa_key("alice").public_key(), False)
    crl = x509.CertificateRevocationListBuilder(ca.name, NOW, NOW + timedelta(days=1))
    stem = directory.path / subject_hash(ca.name)
    stem.with_suffix(".0").write_bytes(root.public_bytes(Encoding.PEM))
    signed = crl.sign(key, digest, rsa_padding=pss)
    stem.with_suffix(".r0").write_bytes(signed.public_bytes(Encoding.PEM))
    assert verify_chain([user], directory, now=NOW).identity == ALICE
    with pytest.raises(ChainRefused, match="not signed"):
        verify_chain(alice.certificates, directory, now=NOW)


def test_ca_path_length_does_not_count_proxies(ca: LabCA, directory: CADirectory) -> None:
    sub = LabCA(
        ca.directory,
        subject="/O=Gram Lab/CN=Sub CA",
        key=rsa_key("sub"),
        parent=ca,
        now=NOW,
        extensions=((x509.BasicConstraints(ca=True, path_length=0), True), CA_EXTENSIONS[1]),
    )
    sub.ca_directory()
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    assert verify_chain(make(make(carol)).certificates, directory, now=NOW).identity


def test_a_renewed_ca_shares_the_name(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    """`<hash>.0` holds the old, expired certificate and `.1` its successor with the same key."""
    stem = directory.path / subject_hash(ca.name)
    good = stem.with_suffix(".0").read_bytes()
    old = LabCA(ca.directory, key=rsa_key("ca"), now=NOW - timedelta(days=60))
    old.ca_directory()
    stem.with_suffix(".1").write_bytes(good)
    assert verify_chain([alice.certificate], directory, now=NOW).identity == ALICE


def test_a_proxy_may_name_its_issuer_in_another_string_type(
    alice: Credential, directory: CADirectory
) -> None:
    """Some makers of proxies write every string anew, here as PrintableString."""
    owner = forge.name(
        forge.attribute("2.5.4.10", b"Gram Lab", 0x13), forge.attribute("2.5.4.3", b"Alice", 0x13)
    )
    assert owner != alice.certificate.subject.public_bytes()
    proxy = forge.proxy(
        alice, issuer_name=owner, subject=forge.below(owner, forge.common_name("5"))
    )
    assert verify_chain(proxy.certificates, directory, now=NOW).identity == ALICE
