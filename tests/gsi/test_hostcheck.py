"""Names of gatekeepers (wire-protocol.md 4.1).  The verdicts are those of globusrun."""

import ipaddress
from collections.abc import Sequence

import pytest
from cryptography import x509

from gram.labca import LabCA, make_name
from protocol.gsi.chain import verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.hostcheck import NameMismatch, check_host
from protocol.gsi.proxy_init import create_proxy
from protocol.tables import ErrorCode
from tests.gsi import forge
from tests.gsi.forge import INDEPENDENT, NOW
from tests.support.keys import rsa_key


def certificate(
    ca: LabCA, common_names: Sequence[str], *alternatives: x509.GeneralName
) -> Credential:
    names = x509.SubjectAlternativeName(alternatives)
    made = ca.sign(
        x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Gram Lab"),
                *(x509.NameAttribute(x509.NameOID.COMMON_NAME, text) for text in common_names),
            ]
        ),
        rsa_key("host").public_key(),
        [(names, False)] if alternatives else [],
    )
    return Credential(made, rsa_key("host"))


def matches(
    credential: Credential, directory: CADirectory, host: str, subject: str | None = None
) -> bool:
    peer = verify_chain(credential.certificates, directory, now=NOW)
    try:
        check_host(peer, host, subject)
    except NameMismatch:
        return False
    return True


@pytest.mark.parametrize(
    ("common_name", "host", "verdict"),
    [
        ("ce.x.org", "ce.x.org", True),
        ("ce.x.org", "CE.X.Org", True),
        ("CE.X.ORG", "ce.x.org", True),
        ("host/ce.x.org", "ce.x.org", True),
        ("ldap/ce.x.org", "ce.x.org", True),
        ("a/b/ce.x.org", "ce.x.org", False),
        ("host/", "host/", False),
        ("*.x.org", "ce.x.org", False),
        ("ce.x.org", "ce", False),
        ("ce.x.org", "ce.x.org.", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("xce.x.org", "ce.x.org", False),
        ("ce.x.orgx", "ce.x.org", False),
    ],
)
def test_common_name(
    ca: LabCA, directory: CADirectory, common_name: str, host: str, verdict: bool
) -> None:
    assert matches(certificate(ca, [common_name]), directory, host) is verdict


def test_only_the_first_common_name(ca: LabCA, directory: CADirectory) -> None:
    both = certificate(ca, ["one", "two"])
    assert matches(both, directory, "one")
    assert not matches(both, directory, "two")


@pytest.mark.parametrize(
    ("pattern", "host", "verdict"),
    [
        ("ce.x.org", "Ce.x.org", True),
        ("ce.x.org", "cx.x.org", False),
        ("*.x.org", "ce.x.org", True),
        ("c*.x.org", "ce.x.org", True),
        ("ce*.x.org", "ce.x.org", True),
        ("*.x.org", "a.b.x.org", False),
        ("*.x.org", "x.org", False),
        ("*e.x.org", "ce.x.org", False),
        ("c*e.x.org", "ce.x.org", False),
        ("ce.*.org", "ce.x.org", False),
        ("*", "localhost", True),
        ("*", "ce.x.org", False),
        ("l*", "localhost", True),
        ("localhost*", "localhost", True),
    ],
)
def test_dns_names(
    ca: LabCA, directory: CADirectory, pattern: str, host: str, verdict: bool
) -> None:
    made = certificate(ca, ["other.name"], x509.DNSName("unrelated.org"), x509.DNSName(pattern))
    assert matches(made, directory, host) is verdict
    assert not matches(made, directory, "other.name")


def test_other_alternative_names_do_not_count(ca: LabCA, directory: CADirectory) -> None:
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    mail = x509.RFC822Name("root@ce.x.org")
    made = certificate(ca, ["ce.x.org"], address, mail)
    assert matches(made, directory, "ce.x.org")
    assert not matches(made, directory, "127.0.0.1")


@pytest.mark.parametrize(
    ("common_name", "alternative", "subject", "verdict"),
    [
        ("localhost", False, "host@localhost", True),
        ("localhost", False, "ldap@localhost", False),
        ("host/localhost", False, "host@localhost", True),
        ("host/localhost", False, "ldap@localhost", False),
        ("ldap/localhost", False, "host@localhost", False),
        ("ldap/localhost", False, "ldap@localhost", True),
        ("ldap/localhost", False, "LDAP@LOCALHOST", True),
        ("ldap/localhost", True, "ldap@localhost", False),
        ("ldap/localhost", True, "host@localhost", True),
        ("x", True, "host@localhost", True),
        ("x", True, "ldap@localhost", False),
    ],
)
def test_service_and_host(
    ca: LabCA,
    directory: CADirectory,
    common_name: str,
    alternative: bool,
    subject: str,
    verdict: bool,
) -> None:
    names = [x509.DNSName("localhost")] if alternative else []
    made = certificate(ca, [common_name], *names)
    assert matches(made, directory, "127.0.0.1", subject) is verdict


def test_subject_is_exact(ca: LabCA, directory: CADirectory) -> None:
    made = certificate(ca, ["host/ce.x.org"])
    for subject, verdict in (
        ("/O=Gram Lab/CN=host/ce.x.org", True),
        (r"/O=Gram Lab/CN=host\/ce.x.org", True),
        ("/O=Gram Lab/CN=host/CE.x.org", False),
        ("/o=Gram Lab/CN=host/ce.x.org", False),
        ("/CN=host/ce.x.org/O=Gram Lab", False),
        ("/O=Gram Lab/CN=ce.x.org", False),
        ("", False),
    ):
        assert matches(made, directory, "wrong.host", subject) is verdict


def test_subjects_that_do_not_stand_for_a_host(ca: LabCA, directory: CADirectory) -> None:
    mail = certificate(ca, ["ada@ce.x.org"])
    assert matches(mail, directory, "x", "/O=Gram Lab/CN=ada@ce.x.org")
    unit = Credential(
        ca.sign(make_name("/O=Gram Lab/OU=x"), rsa_key("host").public_key()), rsa_key("host")
    )
    assert matches(unit, directory, "x", "/O=Gram Lab/OU=x")


def test_an_unescaped_value_is_no_other_name(ca: LabCA, directory: CADirectory) -> None:
    """A certificate whose value, unescaped, reads like the name of somebody else."""
    made = certificate(ca, ["x/CN=ce.x.org"])
    assert not matches(made, directory, "x", "/O=Gram Lab/CN=x/CN=ce.x.org")
    assert matches(made, directory, "x", r"/O=Gram Lab/CN=x\/CN=ce.x.org")
    plus = certificate(ca, ["x+CN=ce.x.org"])
    assert not matches(plus, directory, "x", "/O=Gram Lab/CN=x+CN=ce.x.org")


def test_a_proxy_stands_for_its_host(ca: LabCA, directory: CADirectory) -> None:
    host = certificate(ca, ["ce.x.org"])
    proxy = create_proxy(host, key=rsa_key("proxy"), now=NOW)
    assert matches(proxy, directory, "ce.x.org")
    independent = create_proxy(host, policy=INDEPENDENT, key=rsa_key("proxy"), now=NOW)
    assert not matches(independent, directory, "ce.x.org")
    assert matches(independent, directory, "x", independent.identity)


def test_certificates_without_usable_names(ca: LabCA, directory: CADirectory) -> None:
    nameless = ca.sign(make_name("/O=Gram Lab/OU=x"), rsa_key("host").public_key())
    peer = verify_chain([nameless], directory, now=NOW)
    with pytest.raises(NameMismatch, match="does not name the host x") as caught:
        check_host(peer, "x")
    assert caught.value.code is ErrorCode.AUTHORIZATION
    broken = forge.certificate(
        subject=forge.name(forge.attribute("2.5.4.10", b"Gram Lab"), forge.common_name("x")),
        issuer=ca.name.public_bytes(),
        signer=rsa_key("ca"),
        key=rsa_key("host"),
        extensions=(forge.encode_extension("2.5.29.17", b"\x30\x05", critical=False),),
    )
    assert not matches(Credential(broken, rsa_key("host")), directory, "x")
