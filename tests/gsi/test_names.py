"""Distinguished names: slash form, identity, comparison, hash (wire-protocol.md 2.4, 3.1)."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gram.labca import make_name
from protocol.gsi import der
from protocol.gsi.names import (
    SHORT_NAMES,
    DNError,
    canonical,
    comparison_key,
    identity,
    oneline,
    subject_hash,
)
from tests.gsi import forge
from tests.gsi.forge import attribute, common_name, name
from tests.support.keys import rsa_key

ORGANISATION = attribute("2.5.4.10", b"X")


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (name(attribute("2.5.4.6", b"SE", der.PRINTABLE_STRING), ORGANISATION), "/C=SE/O=X"),
        (
            name(
                attribute("2.5.4.6", b"SE", der.PRINTABLE_STRING),
                ORGANISATION,
                [common_name("one"), attribute("0.9.2342.19200300.100.1.1", b"two")],
            ),
            "/C=SE/O=X/CN=one+UID=two",
        ),
        (name(common_name("Å")), r"/CN=\xC3\x85"),
        (
            name(attribute("2.5.4.3", "aÅ".encode("utf-16-be"), der.BMP_STRING)),
            r"/CN=\x00a\x00\xC5",
        ),
        (
            name(attribute("2.5.4.3", "a".encode("utf-32-be"), der.UNIVERSAL_STRING)),
            r"/CN=\x00\x00\x00a",
        ),
        (name(common_name("host/ce.example.org")), r"/CN=host\/ce.example.org"),
        (name(common_name("a+b")), r"/CN=a\+b"),
        (name(common_name('a\\b=c,d"e')), '/CN=a\\b=c,d"e'),
        (name(common_name("\t\x7f~ ")), r"/CN=\x09\x7F~ "),
        (
            name(attribute("1.2.840.113549.1.9.1", b"a@b.c", der.IA5_STRING)),
            "/emailAddress=a@b.c",
        ),
        (
            name(
                attribute("0.9.2342.19200300.100.1.25", b"org", der.IA5_STRING),
                attribute("2.5.4.7", b"l"),
                attribute("2.5.4.8", b"s"),
                attribute("2.5.4.9", b"r"),
                attribute("2.5.4.4", b"n"),
                attribute("2.5.4.42", b"g"),
                attribute("2.5.4.12", b"t"),
                attribute("2.5.4.65", b"p"),
                attribute("2.5.4.5", b"1"),
            ),
            "/DC=org/L=l/ST=s/street=r/SN=n/GN=g/title=t/pseudonym=p/serialNumber=1",
        ),
        (name(attribute("1.2.3.4.200000", b"v")), "/1.2.3.4.200000=v"),
        (name(attribute("2.999.1", b"v")), "/2.999.1=v"),
        (name(common_name("")), "/CN="),
        (name(), ""),
    ],
)
def test_oneline(encoded: bytes, text: str) -> None:
    assert oneline(encoded) == text


def test_names_of_the_library_are_taken_too() -> None:
    assert oneline(make_name("/C=SE/O=X/CN=a b")) == "/C=SE/O=X/CN=a b"


def test_short_names_differ_even_without_case() -> None:
    folded = [short.lower() for short in SHORT_NAMES.values()]
    assert len(set(folded)) == len(folded)


@pytest.mark.parametrize(
    "encoded",
    [
        name(),
        name(ORGANISATION, []),
        name(common_name("a\\b")),
        name(common_name("a\0b")),
        name(common_name("a\nb")),
        name(common_name("a\x7f")),
        name(attribute("2.5.4.3", b"\xff")),
        name(attribute("2.5.4.3", b"\xc5", der.T61_STRING)),
        name(attribute("2.5.4.3", b"\xc3\x85", der.IA5_STRING)),
        name(attribute("2.5.4.3", b"AB", der.BMP_STRING)),
        name(attribute("2.5.4.3", b"ABC", der.BMP_STRING)),
        name(attribute("2.5.4.3", b"\0\0\0A", der.BMP_STRING)),
        name(attribute("2.5.4.3", b"AB", der.OCTET_STRING)),
        name(attribute("2.5.4.3", b"\0AB", der.BIT_STRING)),
        name([common_name("ok"), common_name("not\\ok")]),
    ],
)
def test_names_that_others_could_share_are_no_identity(encoded: bytes) -> None:
    oneline(encoded)
    with pytest.raises(DNError):
        identity(encoded)


@pytest.mark.parametrize(
    "encoded", [b"", b"\x30", b"\x31\x00", b"\x30\x02\x31\x05", b"\x30\x04\x31\x02\x30\x00"]
)
def test_what_is_no_name(encoded: bytes) -> None:
    with pytest.raises(DNError):
        oneline(encoded)


def test_identity_keeps_what_is_clear() -> None:
    wide = attribute("2.5.4.3", "Å".encode("utf-16-be"), der.BMP_STRING)
    assert identity(name(ORGANISATION, wide)) == r"/O=X/CN=\x00\xC5"
    assert identity(name(common_name("a/b=c"))) == r"/CN=a\/b=c"


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("/O=Spec/CN=A", "/o=SPEC/cn=a", True),
        ("/UID=x", "/USERID=x", True),
        ("/uid=x", "/UserId=X", True),
        ("/O=a/E=x", "/O=a/emailAddress=x", True),
        ("/O=a/Email=x", "/O=a/EMAILADDRESS=x", True),
        ("/O=a/Email=x/CN=b", "/O=a/E=x/CN=b", True),
        ("/O=a+E=x", "/O=a+emailAddress=x", False),
        (r"/O=a\/E=x", r"/O=a\/emailAddress=x", False),
        ("/CN=a ", "/CN=a", False),
        ("/CN=a/O=b", "/O=b/CN=a", False),
        ("/Emails=x", "/emailAddress=x", False),
        (r"/CN=\xC3\x85", r"/CN=\xc3\x85", True),
    ],
)
def test_comparison(first: str, second: str, equal: bool) -> None:
    assert (comparison_key(first) == comparison_key(second)) is equal


NAMES_TO_HASH = [
    name(attribute("2.5.4.6", b"SE", der.PRINTABLE_STRING), ORGANISATION, common_name("Ca  x ")),
    name(common_name(" \t Mixed \n CASE ÅÄÖ ")),
    name(attribute("2.5.4.3", "Å b".encode("utf-16-be"), der.BMP_STRING)),
    name(attribute("2.5.4.3", "Å b".encode("utf-32-be"), der.UNIVERSAL_STRING)),
    name(attribute("2.5.4.5", b"0012", der.NUMERIC_STRING)),
    name([common_name("B"), attribute("2.5.4.10", b"a")], ORGANISATION),
    name(attribute("1.2.840.113549.1.9.1", b"A@b.C", der.IA5_STRING), common_name("")),
    name(),
]


@pytest.mark.parametrize("encoded", NAMES_TO_HASH, ids=range(len(NAMES_TO_HASH)))
def test_subject_hash_is_that_of_openssl(encoded: bytes, tmp_path: Path) -> None:
    made = forge.certificate(
        subject=encoded, issuer=encoded, signer=rsa_key("ca"), key=rsa_key("ca")
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM))
    answer = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-hash"], check=True, capture_output=True
    )
    assert subject_hash(encoded) == answer.stdout.decode().strip()


def test_canonical_form_ignores_case_blanks_and_string_types() -> None:
    first = canonical(name(common_name(" A  b ")))
    assert first == canonical(name(attribute("2.5.4.3", b"a B", der.PRINTABLE_STRING)))
    assert first != canonical(name(common_name("ab")))
