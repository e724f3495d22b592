"""Chains that break exactly one rule, and the reason that is given."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gram.labca import CA_EXTENSIONS, USER_EXTENSIONS, Extensions, LabCA, key_usage, make_name
from protocol.gsi import der
from protocol.gsi.chain import ChainRefused, Refusal, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.issue import extension
from protocol.gsi.names import subject_hash
from protocol.tables import ErrorCode
from tests.gsi import forge
from tests.gsi.forge import (
    DRAFT,
    FULL,
    HOUR,
    INDEPENDENT,
    LIMITED,
    NOW,
    RFC,
    common_name,
    proxy,
    proxy_extension,
)
from tests.support.keys import rsa_key

Chain = Sequence[x509.Certificate]
NO_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
ALTERNATIVE_NAME = "2.5.29.17"
DNS_LOCALHOST = bytes.fromhex("300b82096c6f63616c686f7374")


def refuse(chain: Chain, directory: CADirectory, reason: Refusal, words: str = "") -> ChainRefused:
    with pytest.raises(ChainRefused) as caught:
        verify_chain(chain, directory, now=NOW)
    assert caught.value.reason is reason, caught.value.message
    assert words in caught.value.message
    assert caught.value.code is ErrorCode.AUTHORIZATION
    return caught.value


def user(ca: LabCA, *extensions: tuple[x509.ExtensionType, bool]) -> Credential:
    return ca.user("Bob", key=rsa_key("bob"), extensions=extensions).credential


def p(
    kind: forge.ProxyFormat = RFC, policy: forge.ProxyPolicy = FULL, length: int | None = None
) -> tuple[bytes]:
    return (proxy_extension(kind, policy, length),)


def language(oid: str, octets: bytes | None = None) -> tuple[bytes]:
    text = b"" if octets is None else der.encode(der.OCTET_STRING, octets)
    policy = der.encode(der.SEQUENCE, der.encode_oid(oid), text)
    return (proxy_extension(value=der.encode(der.SEQUENCE, policy)),)


def owner(credential: Credential) -> bytes:
    return credential.certificate.subject.public_bytes()


# Each case makes a credential from Alice's (or from another proxy of hers).
PROXY_CASES: dict[str, tuple[Refusal, str, Callable[[Credential], Credential]]] = {
    "expired": (
        Refusal.EXPIRED,
        "expired at 2026-11-21T11:59:59Z",
        lambda alice: proxy(alice, not_after=NOW - timedelta(seconds=1)),
    ),
    "not yet valid, by a second": (
        Refusal.NOT_YET_VALID,
        "later than now",
        lambda alice: proxy(alice, not_before=NOW + timedelta(seconds=1)),
    ),
    "expired in the middle": (
        Refusal.EXPIRED,
        "",
        lambda alice: proxy(proxy(alice, not_after=NOW - HOUR)),
    ),
    "signed with another key": (
        Refusal.SIGNATURE,
        "not signed by its issuer",
        lambda alice: proxy(alice, signer=rsa_key("mallory")),
    ),
    "another issuer name": (
        Refusal.PROXY_RULE,
        "not in the chain",
        lambda alice: proxy(alice, issuer_name=forge.name(common_name("Mallory"))),
    ),
    "another subject": (
        Refusal.PROXY_RULE,
        "not the issuer's subject and one CN",
        lambda alice: proxy(alice, subject=forge.name(common_name("Mallory"), common_name("1"))),
    ),
    "owner's name in other case": (
        Refusal.PROXY_RULE,
        "not the issuer's subject and one CN",
        lambda alice: proxy(
            alice,
            subject=forge.name(
                forge.attribute("2.5.4.10", b"Gram Lab"), common_name("ALICE"), common_name("1")
            ),
        ),
    ),
    "no CN appended": (
        Refusal.PROXY_RULE,
        "not the issuer's subject and one CN",
        lambda alice: proxy(alice, subject=owner(alice)),
    ),
    "two CNs appended": (
        Refusal.PROXY_RULE,
        "not the issuer's subject and one CN",
        lambda alice: proxy(
            alice, subject=forge.below(owner(alice), common_name("1"), common_name("2"))
        ),
    ),
    "an OU appended": (
        Refusal.PROXY_RULE,
        "single CN",
        lambda alice: proxy(
            alice, subject=forge.below(owner(alice), forge.attribute("2.5.4.11", b"1"))
        ),
    ),
    "two CNs in one relative name": (
        Refusal.PROXY_RULE,
        "single CN",
        lambda alice: proxy(
            alice, subject=forge.below(owner(alice), [common_name("1"), common_name("2")])
        ),
    ),
    "ProxyCertInfo not critical": (
        Refusal.PROXY_RULE,
        "not critical",
        lambda alice: proxy(alice, extensions=(proxy_extension(critical=False),)),
    ),
    "both ProxyCertInfo forms": (
        Refusal.PROXY_RULE,
        "more than one",
        lambda alice: proxy(alice, extensions=p(RFC) + p(DRAFT)),
    ),
    "the same ProxyCertInfo twice": (
        Refusal.MALFORMED,
        "twice",
        lambda alice: proxy(alice, extensions=p(RFC) + p(RFC)),
    ),
    "ProxyCertInfo unreadable": (
        Refusal.PROXY_RULE,
        "bad ProxyCertInfo",
        lambda alice: proxy(alice, extensions=(proxy_extension(value=b"\x30\x01"),)),
    ),
    "ProxyCertInfo in a CA certificate": (
        Refusal.PROXY_RULE,
        "CA certificate",
        lambda alice: proxy(
            alice,
            extensions=(*p(), extension("2.5.29.19", bytes.fromhex("30030101ff"), critical=True)),
        ),
    ),
    "negative path length": (
        Refusal.PROXY_RULE,
        "negative",
        lambda alice: proxy(
            alice,
            extensions=(
                proxy_extension(value=bytes.fromhex("300f0201ff300a06082b06010505071501")),
            ),
        ),
    ),
    "unknown policy language": (
        Refusal.PROXY_RULE,
        "policy is not understood",
        lambda alice: proxy(alice, extensions=language("1.2.3.4", b"only reading")),
    ),
    "unknown policy language without octets": (
        Refusal.PROXY_RULE,
        "policy is not understood",
        lambda alice: proxy(alice, extensions=language("1.3.6.1.5.5.7.21.0")),
    ),
    "policy octets in inherit-all": (
        Refusal.PROXY_RULE,
        "policy is not understood",
        lambda alice: proxy(alice, extensions=language("1.3.6.1.5.5.7.21.1", b"")),
    ),
    "policy octets in limited": (
        Refusal.PROXY_RULE,
        "policy is not understood",
        lambda alice: proxy(alice, extensions=language("1.3.6.1.4.1.3536.1.1.1.9", b"x")),
    ),
    "unknown policy in the middle": (
        Refusal.PROXY_RULE,
        "policy is not understood",
        lambda alice: proxy(proxy(alice, extensions=language("1.2.3.4", b"x"))),
    ),
    "full below limited": (
        Refusal.PROXY_RULE,
        "full proxy made from a limited one",
        lambda alice: proxy(proxy(alice, extensions=p(RFC, LIMITED))),
    ),
    "full below limited below full": (
        Refusal.PROXY_RULE,
        "full proxy made from a limited one",
        lambda alice: proxy(proxy(proxy(alice), extensions=p(RFC, LIMITED))),
    ),
    "draft full below limited": (
        Refusal.PROXY_RULE,
        "full proxy made from a limited one",
        lambda alice: proxy(proxy(alice, extensions=p(DRAFT, LIMITED)), extensions=p(DRAFT, FULL)),
    ),
    "RFC below draft": (
        Refusal.PROXY_RULE,
        "mixed",
        lambda alice: proxy(proxy(alice, extensions=p(DRAFT))),
    ),
    "draft below RFC": (
        Refusal.PROXY_RULE,
        "mixed",
        lambda alice: proxy(proxy(alice), extensions=p(DRAFT)),
    ),
    "legacy below RFC": (
        Refusal.PROXY_RULE,
        "mixed",
        lambda alice: proxy(proxy(alice), cn="proxy", extensions=()),
    ),
    "path length 0 with one below": (
        Refusal.PROXY_RULE,
        "path length 0 with 1",
        lambda alice: proxy(proxy(alice, extensions=p(RFC, FULL, 0))),
    ),
    "path length 1 with two below": (
        Refusal.PROXY_RULE,
        "path length 1 with 2",
        lambda alice: proxy(proxy(proxy(alice, extensions=p(RFC, FULL, 1)))),
    ),
    "draft path length 0 with one below": (
        Refusal.PROXY_RULE,
        "path length 0 with 1",
        lambda alice: proxy(proxy(alice, extensions=p(DRAFT, FULL, 0)), extensions=p(DRAFT, FULL)),
    ),
    "path length of an independent proxy": (
        Refusal.PROXY_RULE,
        "path length 0 with 1",
        lambda alice: proxy(proxy(alice, extensions=p(RFC, INDEPENDENT, 0))),
    ),
    "alternative name in a proxy": (
        Refusal.PROXY_RULE,
        "no alternative names",
        lambda alice: proxy(
            alice, extensions=(*p(), extension(ALTERNATIVE_NAME, DNS_LOCALHOST, critical=False))
        ),
    ),
    "issuing proxy without digitalSignature": (
        Refusal.PROXY_RULE,
        "digitalSignature",
        lambda alice: proxy(
            proxy(
                alice,
                extensions=(extension("2.5.29.15", b"\x03\x02\x05\x20", critical=True), *p()),
            )
        ),
    ),
    "legacy proxy of a user without keyCertSign": (
        Refusal.PROXY_RULE,
        "keyCertSign",
        lambda alice: proxy(alice, cn="limited proxy", extensions=()),
    ),
    "no extension and no legacy name": (
        Refusal.CA_RULE,
        "/O=Gram Lab/CN=Alice is not a CA",
        lambda alice: proxy(alice, cn="Proxy", extensions=()),
    ),
    "unknown critical extension": (
        Refusal.CRITICAL_EXTENSION,
        "1.2.3.4",
        lambda alice: proxy(alice, extensions=(*p(), extension("1.2.3.4", b"", critical=True))),
    ),
    "a control character in the appended CN": (
        Refusal.NAME,
        "control character",
        lambda alice: proxy(alice, cn="1\n2"),
    ),
    "a backslash in the appended CN": (
        Refusal.NAME,
        "backslash",
        lambda alice: proxy(alice, cn="1\\2"),
    ),
    "SHA-1": (Refusal.KEY_STRENGTH, "SHA-1", lambda alice: proxy(alice, digest="sha1")),
    "MD5": (Refusal.KEY_STRENGTH, "MD5", lambda alice: proxy(alice, digest="md5")),
}


@pytest.mark.parametrize("case", PROXY_CASES)
def test_proxies(case: str, alice: Credential, directory: CADirectory) -> None:
    reason, words, make = PROXY_CASES[case]
    refuse(make(alice).certificates, directory, reason, words)


def test_the_pattern_of_the_proxy_cases_is_acceptable(
    alice: Credential, directory: CADirectory
) -> None:
    """What every proxy case changes one thing of is itself accepted."""
    for depth in (proxy(alice), proxy(proxy(alice)), proxy(proxy(alice, extensions=p(length=1)))):
        verify_chain(depth.certificates, directory, now=NOW)


def test_no_certificate(directory: CADirectory) -> None:
    refuse([], directory, Refusal.NO_CERTIFICATE)


def test_too_many(alice: Credential, directory: CADirectory) -> None:
    refuse([alice.certificate] * 65, directory, Refusal.TOO_LONG)


def test_proxy_without_its_user(alice: Credential, directory: CADirectory) -> None:
    refuse(proxy(alice).certificates[:1], directory, Refusal.PROXY_RULE, "not in the chain")


def test_proxy_of_a_ca(ca: LabCA, directory: CADirectory) -> None:
    made = proxy(Credential(ca.certificate, rsa_key("ca")))
    refuse(made.certificates, directory, Refusal.CA_RULE)


def test_a_ca_is_nobody(ca: LabCA, directory: CADirectory) -> None:
    refuse([ca.certificate], directory, Refusal.CA_RULE, "not an end entity")


def test_a_user_is_no_ca(alice: Credential, directory: CADirectory) -> None:
    """An end entity that certifies another one; its proxies would be fine."""
    victim = forge.certificate(
        subject=forge.name(forge.attribute("2.5.4.10", b"Gram Lab"), common_name("Victim")),
        issuer=owner(alice),
        signer=rsa_key("alice"),
        key=rsa_key("mallory"),
    )
    with_policy = directory.path / f"{subject_hash(owner(alice))}.signing_policy"
    with_policy.write_text("access_id_ANYBODY\npos_rights globus CA:sign\n")
    refuse([victim, alice.certificate], directory, Refusal.CA_RULE, "basicConstraints")


@pytest.mark.parametrize("usages", [("key_encipherment",), ("content_commitment", "key_agreement")])
def test_user_without_digital_signature(
    ca: LabCA, directory: CADirectory, usages: tuple[str, ...]
) -> None:
    bob = user(ca, NO_CA, (key_usage(*usages), True))
    verify_chain(bob.certificates, directory, now=NOW)
    refuse(proxy(bob).certificates, directory, Refusal.PROXY_RULE, "digitalSignature")


def test_legacy_chain_through_a_proxy_with_key_usage(ca: LabCA, directory: CADirectory) -> None:
    bob = user(ca, NO_CA)
    usage = extension("2.5.29.15", b"\x03\x02\x05\xa0", critical=True)
    first = proxy(bob, cn="proxy", extensions=(usage,))
    verify_chain(first.certificates, directory, now=NOW)
    second = proxy(first, cn="proxy", extensions=())
    refuse(second.certificates, directory, Refusal.PROXY_RULE, "keyCertSign")


def test_legacy_full_below_limited(ca: LabCA, directory: CADirectory) -> None:
    limited = proxy(user(ca, NO_CA), cn="limited proxy", extensions=())
    verify_chain(limited.certificates, directory, now=NOW)
    full = proxy(limited, cn="proxy", extensions=())
    refuse(full.certificates, directory, Refusal.PROXY_RULE, "limited")


def test_critical_alternative_name(ca: LabCA, directory: CADirectory) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    verify_chain(user(ca, (names, False)).certificates, directory, now=NOW)
    refuse(user(ca, (names, True)).certificates, directory, Refusal.CRITICAL_EXTENSION)


def test_user_validity(ca: LabCA, directory: CADirectory) -> None:
    public = rsa_key("bob").public_key()
    old = ca.sign(make_name("/O=Gram Lab/CN=Bob"), public, lifetime=timedelta(seconds=-1))
    new = ca.sign(make_name("/O=Gram Lab/CN=Bob"), public, not_before=NOW + HOUR)
    refuse([old], directory, Refusal.EXPIRED, "/O=Gram Lab/CN=Bob expired")
    refuse([new], directory, Refusal.NOT_YET_VALID)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa_key("short", 1024).public_key(), "RSA key of 1024 bits"),
        (ec.generate_private_key(ec.SECP224R1()).public_key(), "curve of 224 bits"),
    ],
    ids=["1024", "P-224"],
)
def test_weak_user_keys(
    ca: LabCA, directory: CADirectory, key: ec.EllipticCurvePublicKey, words: str
) -> None:
    weak = ca.sign(make_name("/O=Gram Lab/CN=Bob"), key)
    refuse([weak], directory, Refusal.KEY_STRENGTH, words)


def test_weak_and_huge_proxy_keys(alice: Credential, directory: CADirectory) -> None:
    """1024 bits are accepted in a proxy; 512 are too few, and 16384 would cost us time."""
    verify_chain(proxy(alice, key=rsa_key("short", 1024)).certificates, directory, now=NOW)
    for bits in (512, 16384):
        odd = forge.certificate(
            subject=forge.below(owner(alice), common_name("1")),
            issuer=owner(alice),
            signer=rsa_key("alice"),
            key=rsa.RSAPublicNumbers(65537, (1 << bits) - 1).public_key(),
            extensions=p(),
        )
        refuse([odd, alice.certificate], directory, Refusal.KEY_STRENGTH, f"RSA key of {bits} bits")


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_weak_user_signature(
    ca: LabCA, alice: Credential, directory: CADirectory, digest: str
) -> None:
    weak = forge.certificate(
        subject=owner(alice),
        issuer=ca.name.public_bytes(),
        signer=rsa_key("ca"),
        key=rsa_key("alice"),
        digest=digest,
    )
    refuse([weak], directory, Refusal.KEY_STRENGTH, "MD5 or SHA-1")


def test_two_signature_algorithms(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    odd = forge.certificate(
        subject=owner(alice),
        issuer=ca.name.public_bytes(),
        signer=rsa_key("ca"),
        key=rsa_key("alice"),
        outer_digest="sha1",
    )
    refuse([odd], directory, Refusal.MALFORMED, "signature algorithms differ")


def test_odd_certificates(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    """Whatever cannot be read is refused, never a traceback."""
    for extensions in (
        (extension("2.5.29.15", b"\x03\x02", critical=True),),
        (extension("2.5.29.19", b"\x30\x03\x02\x01\xff", critical=True),),
        (extension("2.5.29.19", b"\x04\x00", critical=True),),
        (extension("2.5.29.19", bytes.fromhex("30080101ff0201000500"), critical=True),),
    ):
        odd = forge.certificate(
            subject=owner(alice),
            issuer=ca.name.public_bytes(),
            signer=rsa_key("ca"),
            key=rsa_key("alice"),
            extensions=extensions,
        )
        refuse([odd], directory, Refusal.MALFORMED)


def test_ambiguous_user_names(ca: LabCA, directory: CADirectory) -> None:
    for last, words in (
        (common_name("Alice\\x41"), "backslash"),
        (common_name("Alice\r"), "control character"),
        (forge.attribute("2.5.4.3", "慬".encode("utf-16-be"), der.BMP_STRING), "wide string"),
        (forge.attribute("2.5.4.3", b"Alice", der.OCTET_STRING), "not text"),
    ):
        odd = forge.certificate(
            subject=forge.name(forge.attribute("2.5.4.10", b"Gram Lab"), last),
            issuer=ca.name.public_bytes(),
            signer=rsa_key("ca"),
            key=rsa_key("alice"),
        )
        refuse([odd], directory, Refusal.NAME, words)


def test_empty_user_name(ca: LabCA, directory: CADirectory) -> None:
    nobody = ca.sign(x509.Name([]), rsa_key("bob").public_key())
    refuse([nobody], directory, Refusal.NAME, "empty")


# -- above the end entity -----------------------------------------------------------------------


def other_ca(tmp_path: Path, **options: object) -> LabCA:
    return LabCA(tmp_path / "other", key=rsa_key("other"), now=NOW, **options)


def test_unknown_ca(tmp_path: Path, directory: CADirectory) -> None:
    other = other_ca(tmp_path, subject="/O=Other/CN=CA")
    mallory = other.user("Alice", key=rsa_key("mallory")).credential
    refused = refuse(mallory.certificates, directory, Refusal.UNTRUSTED, "/O=Other/CN=CA")
    assert subject_hash(other.name) in refused.message
    refuse([*mallory.certificates, other.certificate], directory, Refusal.UNTRUSTED)


def test_ca_of_the_same_name(tmp_path: Path, directory: CADirectory) -> None:
    other = other_ca(tmp_path)
    mallory = other.user("Alice", key=rsa_key("mallory")).credential
    refuse(mallory.certificates, directory, Refusal.SIGNATURE)
    refuse([*mallory.certificates, other.certificate], directory, Refusal.SIGNATURE)


def test_self_signed_user(tmp_path: Path, directory: CADirectory) -> None:
    own = LabCA(
        tmp_path,
        subject="/O=Gram Lab/CN=Alice",
        key=rsa_key("mallory"),
        now=NOW,
        extensions=USER_EXTENSIONS,
    )
    refuse([own.certificate], directory, Refusal.UNTRUSTED)
    own.ca_directory(directory.path)
    refuse([own.certificate], directory, Refusal.CA_RULE)


def sub_ca(ca: LabCA, extensions: Extensions, *, subject: str = "/O=Gram Lab/CN=Sub CA") -> LabCA:
    sub = LabCA(
        ca.directory,
        subject=subject,
        key=rsa_key(subject),
        parent=ca,
        now=NOW,
        extensions=extensions,
    )
    sub.ca_directory()
    return sub


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ([CA_EXTENSIONS[1]], "basicConstraints"),
        ([NO_CA, CA_EXTENSIONS[1]], "basicConstraints"),
        ([CA_EXTENSIONS[0], (key_usage("crl_sign"), True)], "keyUsage"),
    ],
)
def test_issuer_that_is_no_ca(
    ca: LabCA, directory: CADirectory, extensions: Extensions, words: str
) -> None:
    carol = sub_ca(ca, extensions).user("Carol", key=rsa_key("carol")).credential
    refuse(carol.certificates, directory, Refusal.CA_RULE, words)


def test_ca_path_length(ca: LabCA, directory: CADirectory) -> None:
    first = sub_ca(ca, ((x509.BasicConstraints(ca=True, path_length=0), True), CA_EXTENSIONS[1]))
    second = sub_ca(first, CA_EXTENSIONS, subject="/O=Gram Lab/CN=Sub Sub CA")
    direct = first.user("Carol", key=rsa_key("carol")).credential
    verify_chain(direct.certificates, directory, now=NOW)
    too_deep = second.user("Carol", key=rsa_key("carol")).credential
    refuse(too_deep.certificates, directory, Refusal.CA_RULE, "path length 0 and 1 CAs")


def test_intermediate_without_root(ca: LabCA, directory: CADirectory) -> None:
    sub = sub_ca(ca, CA_EXTENSIONS)
    (directory.path / f"{subject_hash(ca.name)}.0").unlink()
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    refuse(carol.certificates, directory, Refusal.UNTRUSTED, "CN=Gram Lab CA")


def test_ca_validity(tmp_path: Path, ca: LabCA, directory: CADirectory) -> None:
    old = LabCA(tmp_path, key=rsa_key("ca"), now=NOW - timedelta(days=60))
    old.ca_directory()
    user = ca.user("Bob", key=rsa_key("bob")).credential
    refuse(user.certificates, directory, Refusal.EXPIRED, "CN=Gram Lab CA")


def test_weak_ca_key(tmp_path: Path) -> None:
    weak = LabCA(tmp_path, key=rsa_key("short", 1024), now=NOW)
    bob = weak.user("Bob", key=rsa_key("bob")).credential
    refuse(bob.certificates, CADirectory(weak.ca_directory()), Refusal.KEY_STRENGTH, "Lab CA")


def test_weak_root_signature_is_nobodys_business(alice: Credential, ca: LabCA) -> None:
    """The signature of a root on itself proves nothing, so its hash does not matter."""
    usage = extension("2.5.29.19", bytes.fromhex("30030101ff"), critical=True)
    root = forge.certificate(
        subject=ca.name.public_bytes(),
        issuer=ca.name.public_bytes(),
        signer=rsa_key("ca"),
        key=rsa_key("ca"),
        digest="sha1",
        extensions=(usage,),
    )
    directory = CADirectory(ca.ca_directory())
    path = directory.path / f"{subject_hash(ca.name)}.0"
    path.write_bytes(root.public_bytes(Encoding.PEM))
    assert verify_chain(alice.certificates, directory, now=NOW).expires == root.not_valid_after_utc


def test_weak_intermediate_signature(ca: LabCA, directory: CADirectory) -> None:
    sub = sub_ca(ca, CA_EXTENSIONS)
    weak = forge.certificate(
        subject=sub.name.public_bytes(),
        issuer=ca.name.public_bytes(),
        signer=rsa_key("ca"),
        key=rsa_key("/O=Gram Lab/CN=Sub CA"),
        digest="sha1",
        extensions=(extension("2.5.29.19", bytes.fromhex("30030101ff"), critical=True),),
    )
    path = directory.path / f"{subject_hash(sub.name)}.0"
    path.write_bytes(weak.public_bytes(Encoding.PEM))
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    refuse(carol.certificates, directory, Refusal.KEY_STRENGTH, "SHA-1")


def test_critical_extension_in_a_ca(ca: LabCA, directory: CADirectory) -> None:
    permitted = x509.NameConstraints([x509.DirectoryName(make_name("/O=X"))], None)
    sub = sub_ca(ca, [*CA_EXTENSIONS, (permitted, True)])
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    refuse(carol.certificates, directory, Refusal.CRITICAL_EXTENSION, "2.5.29.30")


def test_search_among_many_cas_ends(tmp_path: Path, directory: CADirectory) -> None:
    """CAs that certify one another in circles and share one name."""
    name = make_name("/O=Loop/CN=CA").public_bytes()
    ring = [
        forge.certificate(
            subject=name,
            issuer=name,
            signer=rsa_key("loop 1"),
            key=rsa_key("loop 2" if number % 2 else "loop 1"),
            serial=number + 1,
            extensions=(extension("2.5.29.19", bytes.fromhex("30030101ff"), critical=True),),
        )
        for number in range(60)
    ]
    policy = directory.path / f"{subject_hash(name)}.signing_policy"
    policy.write_text("access_id_ANYBODY\npos_rights globus CA:sign\n")
    user = forge.certificate(
        subject=make_name("/O=Loop/CN=User").public_bytes(),
        issuer=name,
        signer=rsa_key("loop 2"),
        key=rsa_key("mallory"),
    )
    refuse([user, *ring], directory, Refusal.TOO_LONG)


def test_signing_policy_missing_and_broken(
    ca: LabCA, alice: Credential, directory: CADirectory
) -> None:
    policy = directory.path / f"{subject_hash(ca.name)}.signing_policy"
    text = policy.read_text()
    for content in ("", text.rstrip("\n"), text.replace("'", '"'), text.replace("CA:sign", "x")):
        policy.write_text(content)
        refuse(proxy(alice).certificates, directory, Refusal.SIGNING_POLICY)
    policy.unlink()
    refuse(proxy(alice).certificates, directory, Refusal.SIGNING_POLICY, f"no {policy}")
    policy.write_text(text)
    verify_chain(proxy(alice).certificates, directory, now=NOW)


def test_signing_policy_of_users_and_intermediates(ca: LabCA, directory: CADirectory) -> None:
    outside = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Other"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Alice"),
        ]
    )
    stray = ca.sign(outside, rsa_key("bob").public_key(), USER_EXTENSIONS)
    refuse([stray], directory, Refusal.SIGNING_POLICY, "no pattern allows /O=Other/CN=Alice")
    sub = sub_ca(ca, CA_EXTENSIONS, subject="/O=Other/CN=Sub CA")
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    refuse(carol.certificates, directory, Refusal.SIGNING_POLICY, "/O=Other/CN=Sub CA")


# -- revocation -----------------------------------------------------------------------------------


def test_revoked_user_with_and_without_proxy(
    ca: LabCA, alice: Credential, directory: CADirectory
) -> None:
    ca.ca_directory(crl=ca.crl([1, 2]))
    verify_chain(proxy(alice).certificates, directory, now=NOW)
    ca.ca_directory(crl=ca.crl([alice.certificate.serial_number]))
    refuse(alice.certificates, directory, Refusal.REVOKED, "/O=Gram Lab/CN=Alice")
    refuse(proxy(proxy(alice)).certificates, directory, Refusal.REVOKED)


def test_proxies_are_not_looked_up(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    made = proxy(alice)
    ca.ca_directory(crl=ca.crl([made.certificate.serial_number]))
    verify_chain(made.certificates, directory, now=NOW)


def test_revoked_intermediate(ca: LabCA, directory: CADirectory) -> None:
    sub = sub_ca(ca, CA_EXTENSIONS)
    carol = sub.user("Carol", key=rsa_key("carol")).credential
    ca.ca_directory(crl=ca.crl([sub.certificate.serial_number]))
    refuse(carol.certificates, directory, Refusal.REVOKED, "Sub CA")


def test_bad_revocation_lists(
    tmp_path: Path, ca: LabCA, alice: Credential, directory: CADirectory
) -> None:
    other = other_ca(tmp_path)  # same name, another key
    stranger = other_ca(tmp_path, subject="/O=Other/CN=CA")
    partial = x509.IssuingDistributionPoint(
        full_name=None,
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=True,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    for crl, words in (
        (ca.crl(last_update=NOW - 2 * HOUR, lifetime=HOUR), "expired at"),
        (ca.crl(last_update=NOW + HOUR), "later than now"),
        (other.crl(), "not signed"),
        (stranger.crl(), "another CA"),
        (ca.crl(extensions=[(partial, True)]), "critical extension"),
        (b"", "unusable CRL"),
        (ca.crl()[:200], "unusable CRL"),
        (ca.certificate.public_bytes(Encoding.PEM), "unusable CRL"),
    ):
        ca.ca_directory(crl=crl)
        refuse(proxy(alice).certificates, directory, Refusal.CRL, words)
    ca.ca_directory(crl=ca.crl())
    verify_chain(proxy(alice).certificates, directory, now=NOW)


def test_revoked_root(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    ca.ca_directory(crl=ca.crl([ca.certificate.serial_number]))
    refuse(alice.certificates, directory, Refusal.REVOKED, "Lab CA was revoked")


@pytest.mark.parametrize(("digest", "good"), [("sha256", True), ("sha1", False), ("md5", False)])
def test_weak_revocation_list(
    ca: LabCA, alice: Credential, directory: CADirectory, digest: str, good: bool
) -> None:
    ca.ca_directory(crl=forge.revocation_list(ca.name.public_bytes(), rsa_key("ca"), digest))
    if good:
        verify_chain(alice.certificates, directory, now=NOW)
    else:
        refuse(alice.certificates, directory, Refusal.CRL, "MD5 or SHA-1")
