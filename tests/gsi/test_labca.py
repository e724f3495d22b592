"""The throw-away CA writes what GSI programs expect."""

import stat
from pathlib import Path

import pytest
from cryptography import x509

from gram.labca import LabCA, make_name
from protocol.gsi.chain import verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.hostcheck import check_host
from protocol.gsi.names import oneline
from tests.gsi.forge import LIMITED, NOW
from tests.support.keys import rsa_key


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_users_hosts_and_proxies(ca: LabCA, tmp_path: Path) -> None:
    directory = CADirectory(ca.ca_directory())
    assert directory.path == tmp_path / "certificates"
    user = ca.user("Ada L", key=rsa_key("alice"))
    assert user.certificate == tmp_path / "Ada L/usercert.pem"
    assert (mode(user.certificate), mode(user.key)) == (0o644, 0o600)
    loaded = Credential.load_pair(user.certificate, user.key)
    peer = verify_chain(loaded.certificates, directory, now=NOW)
    assert peer.identity == "/O=Gram Lab/CN=Ada L"

    proxy = ca.proxy(loaded, tmp_path / "proxy", key=rsa_key("proxy"), policy=LIMITED, now=NOW)
    assert mode(tmp_path / "proxy") == 0o600
    assert Credential.load(tmp_path / "proxy").certificates == proxy.certificates
    assert verify_chain(proxy.certificates, directory, now=NOW).limited

    host = ca.host(key=rsa_key("host"))
    assert (host.certificate.name, host.key.name) == ("hostcert.pem", "hostkey.pem")
    peer = verify_chain(host.credential.certificates, directory, now=NOW)
    check_host(peer, "localhost")
    names = host.credential.certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName)[0] == "localhost"


def test_keys_are_made_when_none_are_given(tmp_path: Path) -> None:
    ca = LabCA(tmp_path)
    one, two = ca.user("One"), ca.user("Two")
    assert one.credential.private_key.key_size == 2048
    assert one.key.read_bytes() != two.key.read_bytes()
    verify_chain(one.credential.certificates, CADirectory(ca.ca_directory(tmp_path / "x")))


def test_names() -> None:
    text = "/C=SE/DC=org/O=A b/OU=c/UID=d/CN=e/emailAddress=f@g"
    assert oneline(make_name(text)) == text
    with pytest.raises(KeyError):
        make_name("/X=y")
