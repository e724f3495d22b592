"""Delegation: the request, the proxy signed for it, the renewal (wire-protocol.md 1.7, 1.8)."""

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gram.labca import USER_EXTENSIONS, LabCA, key_usage, make_name
from protocol.gsi import delegation
from protocol.gsi.chain import verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import (
    DelegationError,
    accept_renewal,
    accept_reply,
    generate_ec_key,
    make_request,
    renewal_reply,
    sign_request,
)
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxies import ProxyFormat, ProxyInfo, proxy_info
from protocol.gsi.proxy_init import create_proxy
from protocol.tables import ErrorCode
from tests.gsi import forge
from tests.gsi.forge import DRAFT, FULL, INDEPENDENT, LEGACY, LIMITED, NOW, RFC
from tests.support.keys import rsa_key

KEY = rsa_key("delegated")
PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
EXTENSION_OIDS = {"1.3.6.1.5.5.7.1.14": RFC, "1.3.6.1.4.1.3536.1.222": DRAFT}


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def make(issuer: Credential, **options: object) -> Credential:
    return create_proxy(issuer, key=rsa_key(f"proxy {len(issuer.chain)}"), now=NOW, **options)


def test_request_octets(alice: Credential) -> None:
    request = make_request(KEY, alice.certificate)
    assert len(request) == 667
    decoded = x509.load_der_x509_csr(request)
    assert decoded.is_signature_valid
    assert isinstance(decoded.signature_hash_algorithm, hashes.SHA256)
    assert request[4:].startswith(
        bytes.fromhex("3082017f020100") + b"\x30\x22\x31\x20\x30\x1e\x06\x03\x55\x04\x03\x13\x17"
        b"NULL SUBJECT NAME ENTRY"
    )
    (extension,) = decoded.extensions
    assert (extension.oid, extension.critical) == (PROXY_INFO, True)
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value.hex() == "300c300a06082b06010505071501"


@pytest.mark.parametrize("digest", ["sha384", "sha512"])
def test_request_is_signed_with_the_hash_of_the_leaf(digest: str, ca: LabCA) -> None:
    algorithm = {"sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[digest]
    leaf = x509.CertificateBuilder(
        ca.name, ca.name, KEY.public_key(), 1, NOW, NOW + timedelta(days=1)
    ).sign(rsa_key("ca"), algorithm)
    request = x509.load_der_x509_csr(make_request(KEY, leaf))
    assert request.signature_hash_algorithm is not None
    assert request.signature_hash_algorithm.name == digest
    assert request.is_signature_valid


def test_request_without_or_with_a_weak_leaf(alice: Credential) -> None:
    weak = forge.proxy(alice, digest="sha1").certificate
    for like in (None, weak):
        request = x509.load_der_x509_csr(make_request(KEY, like))
        assert isinstance(request.signature_hash_algorithm, hashes.SHA256)


def test_request_for_an_ec_key(alice: Credential, directory: CADirectory) -> None:
    key = generate_ec_key()
    request = make_request(key, alice.certificate)
    assert x509.load_der_x509_csr(request).is_signature_valid
    proxy = sign_request(request, alice, now=NOW)
    credential = accept_reply(der(proxy), key, alice.certificates, now=NOW)
    assert verify_chain(credential.certificates, directory, now=NOW).limited


@pytest.mark.parametrize(
    ("limited", "value"),
    [(True, "300f300d060b2b060104019b5001010109"), (False, "300c300a06082b06010505071501")],
)
def test_what_is_signed(alice: Credential, limited: bool, value: str) -> None:
    proxy = sign_request(make_request(KEY), alice, limited=limited, now=NOW)
    key_info = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    h = hashlib.sha1(key_info, usedforsecurity=False).digest()
    number = h[0] + (h[1] << 8) + (h[2] << 16) + ((h[3] >> 1) << 24)
    assert proxy.version is x509.Version.v3
    assert proxy.serial_number == number
    assert proxy.issuer.public_bytes() == alice.certificate.subject.public_bytes()
    expected = [
        *alice.certificate.subject.rdns,
        x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, str(number))]),
    ]
    assert proxy.subject.rdns == expected
    assert f"\x13{chr(len(str(number)))}{number}".encode() in proxy.subject.public_bytes()
    assert proxy.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert proxy.not_valid_after_utc == alice.certificate.not_valid_after_utc
    assert [(item.oid.dotted_string, item.critical) for item in proxy.extensions] == [
        ("2.5.29.37", False),
        ("2.5.29.15", True),
        ("1.3.6.1.5.5.7.1.14", True),
    ]
    information = proxy.extensions.get_extension_for_oid(PROXY_INFO).value
    assert isinstance(information, x509.UnrecognizedExtension)
    assert information.value.hex() == value
    proxy.verify_directly_issued_by(alice.certificate)


def test_key_usage_is_copied_without_two_bits(ca: LabCA) -> None:
    usage = key_usage(
        "digital_signature", "content_commitment", "key_encipherment", "key_cert_sign"
    )
    bob = ca.user("Bob", key=rsa_key("bob"), extensions=[(usage, False)]).credential
    proxy = sign_request(make_request(KEY), bob, now=NOW)
    copied = proxy.extensions.get_extension_for_class(x509.KeyUsage)
    assert copied.critical
    assert copied.value == key_usage("digital_signature", "key_encipherment")


def test_issuer_without_extensions(ca: LabCA) -> None:
    bob = ca.user("Bob", key=rsa_key("bob"), extensions=()).credential
    proxy = sign_request(make_request(KEY), bob, now=NOW)
    assert [item.oid for item in proxy.extensions] == [PROXY_INFO]


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("kind", [RFC, DRAFT])
def test_format_follows_the_issuer(alice: Credential, kind: ProxyFormat, limited: bool) -> None:
    issuer = make(alice, format=kind)
    proxy = sign_request(make_request(KEY), issuer, limited=limited, now=NOW)
    assert proxy_info(proxy) == ProxyInfo(kind, LIMITED if limited else FULL)
    assert proxy.not_valid_after_utc == issuer.certificate.not_valid_after_utc


@pytest.mark.parametrize(("limited", "word"), [(True, "limited proxy"), (False, "proxy")])
def test_legacy_issuer(ca: LabCA, limited: bool, word: str) -> None:
    bob = ca.user("Bob", key=rsa_key("bob"), extensions=()).credential
    issuer = make(bob, format=LEGACY)
    proxy = sign_request(make_request(KEY), issuer, limited=limited, now=NOW)
    assert proxy.serial_number == bob.certificate.serial_number
    assert proxy.subject.rdns[-1].rfc4514_string() == f"CN={word}"
    assert len(proxy.extensions) == 0


def test_odd_names_are_copied_octet_by_octet(ca: LabCA) -> None:
    subject = forge.name(
        forge.attribute("2.5.4.10", b"Gram Lab", 0x13),
        [
            forge.attribute("2.5.4.3", "Åsa".encode("utf-16-be"), 0x1E),
            forge.attribute("0.9.2342.19200300.100.1.1", b"asa", 0x16),
        ],
    )
    made = forge.certificate(
        subject=subject, issuer=ca.name.public_bytes(), signer=rsa_key("ca"), key=rsa_key("bob")
    )
    proxy = sign_request(make_request(KEY), Credential(made, rsa_key("bob")), now=NOW)
    assert subject in der(proxy)
    assert subject[2:] in proxy.subject.public_bytes()


@pytest.mark.parametrize(
    "key",
    [
        rsa_key("short", 1024),
        rsa_key("long", 4096),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["1024", "4096", "P-384"],
)
def test_requests_of_other_servers(alice: Credential, key: rsa.RSAPrivateKey) -> None:
    """Any subject, no attributes, other keys and hashes."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA512())
        .public_bytes(Encoding.DER)
    )
    assert sign_request(request, alice, now=NOW).public_key() == key.public_key()


def failure(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(DelegationError, match=words) as caught:
        call()
    assert caught.value.code is ErrorCode.DELEGATION_FAILED


def test_what_is_not_signed(ca: LabCA, alice: Credential) -> None:
    request = make_request(KEY)
    limited = make(alice, policy=LIMITED)
    sign_request(request, limited, now=NOW)
    failure(lambda: sign_request(request, limited, limited=False, now=NOW), "limited one")
    last = make(alice, path_length=0)
    failure(lambda: sign_request(request, last, now=NOW), "path length 0")
    late = NOW + timedelta(days=31)
    failure(lambda: sign_request(request, alice, now=late), "expired")
    failure(lambda: sign_request(b"", alice, now=NOW), "unusable")
    failure(lambda: sign_request(request + b"\0", alice, now=NOW), "unusable")
    failure(lambda: sign_request(request[:-1], alice, now=NOW), "unusable")
    failure(lambda: sign_request(b"0" * 20000, alice, now=NOW), "larger")
    changed = request.replace(b"NULL SUBJECT", b"FULL SUBJECT")
    failure(lambda: sign_request(changed, alice, now=NOW), "signature is wrong")
    no_signature = ca.user(
        "Bob", key=rsa_key("bob"), extensions=[(key_usage("key_encipherment"), True)]
    ).credential
    failure(lambda: sign_request(request, no_signature, now=NOW), "digitalSignature")
    ed_key = ed25519.Ed25519PrivateKey.generate()
    failure(lambda: sign_request(request, Credential(alice.certificate, ed_key), now=NOW), "type")
    wrong_key = Credential(alice.certificate, rsa_key("mallory"))
    failure(lambda: sign_request(request, wrong_key, now=NOW), "not signed")
    alone = Credential(limited.certificate, limited.private_key)
    failure(lambda: sign_request(request, alone, now=NOW), "not in the chain")


def test_accepting_the_reply(alice: Credential, directory: CADirectory, ca: LabCA) -> None:
    leaf = make(alice)
    shown = (*leaf.certificates, ca.certificate)
    request = make_request(KEY, leaf.certificate)
    reply = der(sign_request(request, leaf, now=NOW))
    credential = accept_reply(reply, KEY, shown, now=NOW)
    assert credential.private_key is KEY
    assert credential.chain == shown
    assert credential.identity == "/O=Gram Lab/CN=Alice"
    assert verify_chain(credential.certificates, directory, now=NOW).limited
    again = Credential.from_pem(credential.pem())
    assert again.certificates == credential.certificates


def test_replies_that_are_refused(ca: LabCA, alice: Credential) -> None:
    leaf = make(alice)
    reply = der(sign_request(make_request(KEY), leaf, now=NOW))
    chain = leaf.certificates

    def accept(octets: bytes, key: rsa.RSAPrivateKey = KEY, at: timedelta = timedelta()) -> object:
        return lambda: accept_reply(octets, key, chain, now=NOW + at)

    failure(accept(reply, rsa_key("mallory")), "another key")
    failure(accept(reply, at=timedelta(hours=13)), "expired")
    failure(accept(reply, at=timedelta(minutes=-6)), "later than now")
    failure(accept(b""), "expected one certificate")
    failure(accept(reply + reply), "expected one certificate")
    failure(accept(reply + b"\0"), "unusable")
    failure(accept(reply[:-1]), "unusable")
    failure(accept(b"\x30\x00"), "unusable")
    failure(accept(b"0" * (1 << 20) + b"0"), "larger")
    # A proxy of the end entity, not of the leaf that was shown.
    sibling = der(sign_request(make_request(KEY), alice, now=NOW))
    failure(accept(sibling), "not a proxy of the client's own")
    # Another user's certificate, for our key.
    stranger = ca.sign(make_name("/O=Gram Lab/CN=Mallory"), KEY.public_key(), USER_EXTENSIONS)
    failure(accept(der(stranger)), "not a proxy")
    not_critical = forge.proxy(
        leaf, key=KEY, extensions=(forge.proxy_extension(critical=False),)
    ).certificate
    failure(accept(der(not_critical)), "not critical")
    forged = forge.proxy(leaf, key=KEY, signer=rsa_key("mallory")).certificate
    failure(accept(der(forged)), "not signed")
    two_names = forge.proxy(
        leaf,
        key=KEY,
        subject=forge.below(
            leaf.certificate.subject.public_bytes(), forge.common_name("1"), forge.common_name("2")
        ),
    ).certificate
    failure(accept(der(two_names)), "one CN")
    foreign = forge.proxy(leaf, key=KEY, issuer_name=ca.name.public_bytes()).certificate
    failure(accept(der(foreign)), "not in the chain")


def test_a_limited_leaf_has_no_full_reply(alice: Credential) -> None:
    leaf = make(alice, policy=LIMITED)
    full = forge.proxy(leaf, key=KEY).certificate
    failure(lambda: accept_reply(der(full), KEY, leaf.certificates, now=NOW), "limited one")


@pytest.mark.parametrize(
    ("levels", "certificates"), [(0, 2), (1, 3), (2, 4)], ids=["end entity", "proxy", "two"]
)
def test_renewal(
    ca: LabCA, alice: Credential, directory: CADirectory, levels: int, certificates: int
) -> None:
    issuer = alice
    for _ in range(levels):
        issuer = make(issuer)
    issuer = Credential(issuer.certificate, issuer.private_key, (*issuer.chain, ca.certificate))
    data = renewal_reply(make_request(KEY), issuer, now=NOW)
    credential = accept_renewal(data, KEY, now=NOW)
    # The root stays at home.
    assert len(credential.certificates) == certificates
    assert credential.chain == issuer.certificates[:-1]
    peer = verify_chain(credential.certificates, directory, now=NOW)
    assert (peer.identity, peer.limited) == (credential.identity, True)
    assert b"".join(map(der, credential.certificates)) == data


def test_full_renewal(alice: Credential) -> None:
    data = renewal_reply(make_request(KEY), alice, limited=False, now=NOW)
    assert proxy_info(accept_renewal(data, KEY, now=NOW).certificate) == ProxyInfo(RFC, FULL)


def test_renewals_that_are_refused(alice: Credential) -> None:
    data = renewal_reply(make_request(KEY), make(alice), now=NOW)
    new, leaf, eec = accept_renewal(data, KEY, now=NOW).certificates

    def accept(*parts: bytes, key: rsa.RSAPrivateKey = KEY) -> object:
        return lambda: accept_renewal(b"".join(parts), key, now=NOW)

    failure(accept(der(new)), "lacks the chain")
    failure(accept(), "lacks the chain")
    failure(accept(der(new), der(leaf)), "not in the chain")
    failure(accept(der(leaf), der(eec)), "another key")
    failure(accept(data, key=rsa_key("mallory")), "another key")
    failure(accept(der(new), der(eec), der(leaf)), "not a proxy of the client's own")
    failure(accept(data, b"\x30\x03\x02\x01\x00"), "unusable")
    failure(accept(*[der(new)] * 65), "more than 64")


def test_independent_issuer_can_delegate(alice: Credential) -> None:
    issuer = make(alice, policy=INDEPENDENT)
    reply = der(sign_request(make_request(KEY), issuer, limited=False, now=NOW))
    credential = accept_reply(reply, KEY, issuer.certificates, now=NOW)
    assert credential.identity == f"/O=Gram Lab/CN=Alice/CN={issuer.certificate.serial_number}"


def test_fresh_keys() -> None:
    key = delegation.generate_key(1024)
    assert (key.key_size, key.public_key().public_numbers().e) == (1024, 65537)
    assert isinstance(generate_ec_key().curve, ec.SECP256R1)
    with pytest.raises(ValueError, match="1024"):
        delegation.generate_key(512)
