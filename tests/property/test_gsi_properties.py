"""Decoders survive any octets, and names never share an identity."""

import re

import pytest
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.gsi import der, names
from protocol.gsi.certificate import PARSING_ERRORS, decode_key_usage
from protocol.gsi.credential import Credential, CredentialError
from protocol.gsi.delegation import (
    DelegationError,
    accept_renewal,
    accept_reply,
    sign_request,
)
from protocol.gsi.proxies import (
    ProxyError,
    ProxyFormat,
    ProxyInfo,
    ProxyPolicy,
    decode_proxy_info,
    encode_proxy_info,
)
from protocol.gsi.proxy_rules import check_proxies
from protocol.gsi.refusal import ChainRefused
from protocol.gsi.revocation import RevocationList
from protocol.gsi.signing_policy import PolicyError, SigningPolicy
from tests.gsi import forge
from tests.gsi.forge import NOW
from tests.support.keys import rsa_key

USER = forge.certificate(
    subject=forge.name(forge.attribute("2.5.4.10", b"Lab"), forge.common_name("Alice")),
    issuer=forge.name(forge.common_name("CA")),
    signer=rsa_key("ca"),
    key=rsa_key("alice"),
)
ALICE = Credential(USER, rsa_key("alice"))
KEY = rsa_key("delegated")

TAGS = [
    der.UTF8_STRING,
    der.PRINTABLE_STRING,
    der.IA5_STRING,
    der.T61_STRING,
    der.BMP_STRING,
    der.UNIVERSAL_STRING,
    der.OCTET_STRING,
]
NARROW = (der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING, der.T61_STRING)
TYPES = ["2.5.4.3", "2.5.4.10", "0.9.2342.19200300.100.1.1", "1.2.3"]
# Few, troublesome pieces, so that two random names come close to one another.
PIECES = [
    "a",
    "A",
    "B",
    "/",
    "+",
    "=",
    "\\",
    "\\/",
    "/CN=",
    "+O=",
    "x",
    "\\x00",
    "Å",
    "\0",
    "䅂",
    "",
]


@st.composite
def attributes(draw: st.DrawFn) -> bytes:
    tag = draw(st.sampled_from(TAGS))
    text = "".join(draw(st.lists(st.sampled_from(PIECES), max_size=3)))
    encoding = {der.BMP_STRING: "utf-16-be", der.UNIVERSAL_STRING: "utf-32-be"}.get(tag, "utf-8")
    return forge.attribute(draw(st.sampled_from(TYPES)), text.encode(encoding), tag)


@st.composite
def encoded_names(draw: st.DrawFn) -> bytes:
    rdns = draw(st.lists(st.lists(attributes(), min_size=1, max_size=2), min_size=1, max_size=3))
    return forge.name(*rdns)


def meaning(name: bytes) -> list[list[tuple[str, bool, bytes]]]:
    """What a name says, up to the choice among the single-byte string types."""
    return [
        [(item.type, item.tag in NARROW, item.value) for item in rdn]
        for rdn in names.relative_names(name)
    ]


def read_back(text: str) -> list[list[tuple[str, bool, bytes]]]:
    """Read an identity as the name that it must have come from."""
    oids = {short: oid for oid, short in names.SHORT_NAMES.items()}
    found = []
    for rdn in re.split(r"(?<!\\)/", text)[1:]:
        parts = []
        for item in re.split(r"(?<!\\)\+", rdn):
            kind, _, shown = item.partition("=")
            plain = re.sub(r"\\([/+])", r"\1", shown)
            octets = re.sub(
                rb"\\x([0-9A-F]{2})",
                lambda match: bytes([int(match[1], 16)]),
                plain.encode("ascii"),
            )
            parts.append((oids.get(kind, kind), 0 not in octets, octets))
        found.append(parts)
    return found


@settings(max_examples=400)
@given(encoded_names())
@example(forge.name(forge.common_name("a/CN=b")))
@example(forge.name(forge.attribute("2.5.4.3", b"\0A", der.BMP_STRING)))
def test_an_identity_tells_its_name(name: bytes) -> None:
    try:
        text = names.identity(name)
    except names.DNError:
        return
    assert text == names.oneline(name)
    assert text.isascii()
    assert text.isprintable()
    assert read_back(text) == meaning(name)


@settings(max_examples=400)
@given(encoded_names(), encoded_names())
@example(
    forge.name(forge.attribute("2.5.4.3", b"AB", der.BMP_STRING)),
    forge.name(forge.common_name("AB")),
)
@example(
    forge.name(forge.common_name("a"), forge.common_name("b")),
    forge.name(forge.common_name("a/CN=b")),
)
@example(
    forge.name(forge.common_name("\\x00A")),
    forge.name(forge.attribute("2.5.4.3", b"\0A", der.BMP_STRING)),
)
def test_names_that_differ_have_no_common_identity(first: bytes, second: bytes) -> None:
    try:
        same = names.identity(first) == names.identity(second)
    except names.DNError:
        return
    assert same == (meaning(first) == meaning(second))


@given(encoded_names())
def test_comparison_keys_are_stable(name: bytes) -> None:
    key = names.comparison_key(names.oneline(name))
    assert names.comparison_key(key) == key
    assert names.comparison_key(names.oneline(name).swapcase()) == key


@given(encoded_names())
def test_every_identity_has_a_hash(name: bytes) -> None:
    try:
        names.identity(name)
    except names.DNError:
        return
    assert re.fullmatch("[0-9a-f]{8}", names.subject_hash(name))


@given(st.binary(max_size=200))
def test_any_octets_as_name(data: bytes) -> None:
    for read in (names.oneline, names.identity, names.subject_hash):
        try:
            read(data)
        except names.DNError:
            continue


# -- DER ------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x80\x00\x00")
@example(b"\x1f\x81\x01\x00")
def test_any_octets_as_der(data: bytes) -> None:
    try:
        found = der.elements(data)
    except der.DERError:
        return
    assert b"".join(item.encoded for item in found) == data
    for item in found:
        assert der.encode(item.tag, item.content) == item.encoded
        for decode, encode in (
            (der.decode_integer, der.encode_integer),
            (der.decode_oid, der.encode_oid),
        ):
            try:
                value = decode(item)
            except der.DERError:
                continue
            assert encode(value) == item.encoded


@given(st.integers(), st.lists(st.integers(0, 1 << 70), max_size=6), st.integers(0, 2))
def test_integers_and_object_identifiers(value: int, arcs: list[int], first: int) -> None:
    assert der.decode_integer(der.read(der.encode_integer(value))[0]) == value
    dotted = ".".join(map(str, [first, 39, *arcs]))
    assert der.decode_oid(der.read(der.encode_oid(dotted))[0]) == dotted


@given(st.binary(max_size=40), st.sampled_from([ProxyFormat.RFC, ProxyFormat.DRAFT]))
def test_any_octets_as_proxy_information(data: bytes, kind: ProxyFormat) -> None:
    try:
        decode_proxy_info(data, kind)
    except ProxyError:
        return


@given(
    st.sampled_from([ProxyFormat.RFC, ProxyFormat.DRAFT]),
    st.sampled_from([ProxyPolicy.FULL, ProxyPolicy.LIMITED, ProxyPolicy.INDEPENDENT]),
    st.none() | st.integers(0, 1 << 70),
)
def test_proxy_information_round_trip(
    kind: ProxyFormat, policy: ProxyPolicy, length: int | None
) -> None:
    info = ProxyInfo(kind, policy, length)
    assert decode_proxy_info(encode_proxy_info(info), kind) == info


@given(st.binary(max_size=8))
def test_any_octets_as_key_usage(data: bytes) -> None:
    try:
        decode_key_usage(data)
    except der.DERError:
        return


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    octets = bytearray(data)
    for position, value in changes:
        octets[position % len(octets)] = value
    return bytes(octets)


CHANGES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=3)
PROXY = forge.proxy(ALICE).certificate
PROXY_DER = PROXY.public_bytes(forge.Encoding.DER)


@settings(max_examples=400)
@given(CHANGES)
def test_damaged_proxies_are_refused(changes: list[tuple[int, int]]) -> None:
    """A changed octet breaks the signature at the latest; no other error comes out."""
    damaged = changed(PROXY_DER, changes)
    if damaged == PROXY_DER:
        return
    try:
        certificate = x509.load_der_x509_certificate(damaged)
    except PARSING_ERRORS:
        return
    try:
        path = check_proxies([certificate, USER], now=NOW)
    except ChainRefused:
        return
    # Damage to the mark of a proxy leaves an end-entity certificate: who issued it is not asked.
    assert not path.proxies


@given(st.binary(max_size=300) | CHANGES.map(lambda changes: changed(PROXY_DER, changes)))
def test_any_octets_in_delegation(data: bytes) -> None:
    for call in (
        lambda: sign_request(data, ALICE, now=NOW),
        lambda: accept_reply(data, KEY, [USER], now=NOW),
        lambda: accept_renewal(data, KEY, now=NOW),
        lambda: accept_renewal(data + PROXY_DER, KEY, now=NOW),
    ):
        with pytest.raises(DelegationError):
            call()


@given(st.binary(max_size=300))
def test_any_octets_as_files(data: bytes) -> None:
    with pytest.raises(CredentialError):
        Credential.from_pem(data)
    with pytest.raises(ValueError, match="unusable CRL"):
        RevocationList.parse(data)


# -- signing policies -----------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        b"access_id_CA",
        b"access_id_ANYBODY",
        b"X509",
        b"'/O=Lab/CN=CA'",
        b"pos_rights",
        b"neg_rights",
        b"globus",
        b"CA:sign",
        b"cond_subjects",
        b"'\"/O=Lab/*\"'",
        b"cond_banned_subjects",
        b"#",
        b"'",
        b'"',
        b"\\",
        b"*",
        b"\n",
    ]
)


@settings(max_examples=400)
@given(st.binary(max_size=200) | st.lists(WORDS, max_size=16).map(b" ".join))
def test_any_octets_as_signing_policy(data: bytes) -> None:
    for text in (data, data + b"\n"):
        try:
            SigningPolicy.parse(text).check("/O=Lab/CN=CA", "/O=Lab/CN=Alice")
        except PolicyError:
            continue


@given(st.lists(st.text(st.sampled_from("abAB/=.* "), min_size=1, max_size=8), min_size=1))
def test_only_what_a_pattern_says_is_allowed(patterns: list[str]) -> None:
    """Against a plain model: the last star stands for one character or more."""
    subject = "/O=ab/CN=aB"
    listed = " ".join(f'"{pattern}"' for pattern in patterns)
    policy = (
        f"access_id_ANYBODY\npos_rights globus CA:sign\ncond_subjects globus '{listed}'\n"
    ).encode()

    def model(pattern: str) -> bool:
        head, star, tail = pattern.lower().rpartition("*")
        expression = re.escape(head) + (".+" if star else "") + re.escape(tail)
        return re.fullmatch(expression, subject.lower()) is not None

    try:
        SigningPolicy.parse(policy).check("/O=Lab/CN=CA", subject)
    except PolicyError:
        assert not any(map(model, patterns))
    else:
        assert any(map(model, patterns))
