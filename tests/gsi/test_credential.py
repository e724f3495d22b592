"""Credential files and where they are looked for (wire-protocol.md 3.4)."""

import os
import stat
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from gram.labca import Issued, LabCA
from protocol.gsi.credential import (
    Credential,
    CredentialError,
    PassphraseError,
    find_credential,
    write_private,
)
from protocol.gsi.proxy_init import create_proxy
from protocol.tables import ErrorCode
from tests.gsi import forge
from tests.gsi.forge import INDEPENDENT, NOW
from tests.support.keys import rsa_key


@pytest.fixture
def proxy(alice: Credential) -> Credential:
    return create_proxy(alice, key=rsa_key("proxy"), now=NOW)


def refused(call: object, words: str) -> CredentialError:
    assert callable(call)
    with pytest.raises(CredentialError, match=words) as caught:
        call()
    return caught.value


def test_pem_order_and_round_trip(proxy: Credential) -> None:
    data = proxy.pem()
    blocks = [line for line in data.decode().splitlines() if "BEGIN" in line]
    kinds = ["CERTIFICATE", "PRIVATE KEY", "CERTIFICATE"]
    assert blocks == [f"-----BEGIN {kind}-----" for kind in kinds]
    again = Credential.from_pem(data)
    assert again.certificates == proxy.certificates
    assert again.pem() == data


def test_old_key_formats_are_read(proxy: Credential) -> None:
    for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
        key = rsa_key("proxy").private_bytes(Encoding.PEM, form, NoEncryption())
        certificates = [item.public_bytes(Encoding.PEM) for item in proxy.certificates]
        data = b"text in front\n" + certificates[0] + key + b"\n" + certificates[1]
        assert Credential.from_pem(data).certificates == proxy.certificates


def test_no_key_is_shown(proxy: Credential) -> None:
    text = repr(proxy) + str(proxy) + repr(vars(type(proxy)))
    assert "private_key=" not in text
    assert "RSAPrivateKey object" not in text


def test_what_is_no_credential(alice: Credential, proxy: Credential) -> None:
    certificate = proxy.certificate.public_bytes(Encoding.PEM)
    key = proxy.pem().removeprefix(certificate)
    for data, words in (
        (b"", "no usable certificate"),
        (b"\xff" * 100, "no usable certificate"),
        (certificate, "no private key"),
        (key.split(b"-----BEGIN CERT")[0], "no usable certificate"),
        (certificate + key.replace(b"MII", b"AAA", 1), "unreadable"),
        (alice.certificate.public_bytes(Encoding.PEM) + key, "do not belong together"),
        (certificate.replace(b"MII", b"AAA") + key, "no usable certificate"),
    ):
        error = refused(lambda data=data: Credential.from_pem(data), words)
        assert error.code is ErrorCode.AUTHORIZATION


def test_identity_and_end(alice: Credential, proxy: Credential) -> None:
    assert proxy.identity == alice.identity == "/O=Gram Lab/CN=Alice"
    assert proxy.expires == NOW + timedelta(hours=12)
    second = create_proxy(
        proxy, policy=INDEPENDENT, lifetime=timedelta(hours=1), key=rsa_key("second"), now=NOW
    )
    assert second.identity.startswith("/O=Gram Lab/CN=Alice/CN=")
    assert second.identity.count("/CN=") == 3
    alone = Credential(proxy.certificate, proxy.private_key)
    refused(lambda: alone.identity, "no end-entity certificate")
    strange = forge.proxy(alice, extensions=(forge.proxy_extension(critical=False),))
    refused(lambda: strange.identity, "no usable identity")


def test_loading_a_proxy_file(tmp_path: Path, proxy: Credential) -> None:
    path = tmp_path / "proxy"
    write_private(path, proxy.pem())
    assert Credential.load(path).certificates == proxy.certificates
    path.chmod(0o400)
    assert Credential.load(path).certificates == proxy.certificates


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o700, 0o500, 0o4600, 0o1600])
def test_modes_of_private_files(tmp_path: Path, proxy: Credential, mode: int) -> None:
    path = tmp_path / "proxy"
    write_private(path, proxy.pem())
    path.chmod(mode)
    error = refused(lambda: Credential.load(path), f"has mode {mode:04o}; at most 0600")
    assert str(path) in error.message


@pytest.mark.parametrize(("mode", "good"), [(0o644, True), (0o444, True), (0o664, False)])
def test_modes_of_certificates(issued: Issued, mode: int, good: bool) -> None:
    issued.certificate.chmod(mode)
    if good:
        loaded = Credential.load_pair(issued.certificate, issued.key)
        assert loaded.certificate == issued.credential.certificate
    else:
        refused(lambda: Credential.load_pair(issued.certificate, issued.key), "at most 0644")


def test_keys_need_their_own_mode(issued: Issued) -> None:
    issued.key.chmod(0o644)
    refused(lambda: Credential.load_pair(issued.certificate, issued.key), "at most 0600")


def test_files_that_are_none(tmp_path: Path, proxy: Credential) -> None:
    path = tmp_path / "proxy"
    refused(lambda: Credential.load(path), "cannot open .*No such file")
    path.mkdir()
    refused(lambda: Credential.load(path), "not a regular file")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    refused(lambda: Credential.load(fifo), "not a regular file")
    empty = tmp_path / "empty"
    write_private(empty, b"")
    refused(lambda: Credential.load(empty), "empty or larger")
    write_private(empty, proxy.pem() + b"\n" * (1 << 20))
    refused(lambda: Credential.load(empty), "empty or larger")


@pytest.mark.root
def test_owner(tmp_path: Path, proxy: Credential) -> None:
    path = tmp_path / "proxy"
    write_private(path, proxy.pem())
    os.chown(path, 65534, -1)
    refused(lambda: Credential.load(path), "owned by user 65534, not by user 0")


def test_encrypted_keys(issued: Issued) -> None:
    key = rsa_key("alice")
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        secret = BestAvailableEncryption(b"secret")
        write_private(issued.key, key.private_bytes(Encoding.PEM, form, secret))
        with pytest.raises(PassphraseError):
            Credential.load_pair(issued.certificate, issued.key)
        loaded = Credential.load_pair(issued.certificate, issued.key, passphrase=b"secret")
        assert loaded.certificate == issued.credential.certificate
        refused(
            lambda: Credential.load_pair(issued.certificate, issued.key, passphrase=b"wrong"),
            "wrong pass phrase",
        )


def test_a_pass_phrase_for_a_plain_key_is_not_needed(issued: Issued) -> None:
    assert Credential.load_pair(issued.certificate, issued.key, passphrase=b"unused")


def test_key_types_that_do_not_work(issued: Issued) -> None:
    key = x25519.X25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(issued.key, data)
    refused(lambda: Credential.load_pair(issued.certificate, issued.key), "type that is not")
    other = ed25519.Ed25519PrivateKey.generate()
    data = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(issued.key, data)
    refused(lambda: Credential.load_pair(issued.certificate, issued.key), "do not belong together")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[set[int]]:
    """The modes of every file seen in a directory while the test runs."""
    modes: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for item in os.scandir(tmp_path):
                try:
                    modes.add(stat.S_IMODE(os.stat(item.path).st_mode))
                except FileNotFoundError:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    yield modes
    stop.set()
    thread.join()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_private_files_are_private_from_the_start(
    tmp_path: Path, watched: set[int], umask: int
) -> None:
    old = os.umask(umask)
    try:
        for number in range(60):
            write_private(tmp_path / f"file{number % 3}", b"secret" * 1000)
    finally:
        os.umask(old)
    assert all(mode & 0o077 == 0 for mode in watched)
    assert stat.S_IMODE((tmp_path / "file0").stat().st_mode) == 0o600
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file0", "file1", "file2"]


def test_writing_replaces_and_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    link = tmp_path / "link"
    link.symlink_to(victim)
    write_private(link, b"new")
    assert victim.read_bytes() == b"untouched"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_private(target, b"data")
    assert [item.name for item in tmp_path.iterdir()] == ["directory"]


# -- discovery ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    (path / ".globus").mkdir(parents=True)
    return path


def find(home: Path, **environ: str) -> Credential:
    return find_credential(
        {"HOME": str(home), **environ}, now=NOW, system=home / "etc", temporary=home / "tmp"
    )


def place(issued: Issued, directory: Path, kind: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, path in (("cert", issued.certificate), ("key", issued.key)):
        target = directory / f"{kind}{name}.pem"
        target.write_bytes(path.read_bytes())
        target.chmod(path.stat().st_mode)


def test_order_of_discovery(
    home: Path, tmp_path: Path, ca: LabCA, issued: Issued, proxy: Credential
) -> None:
    refused(lambda: find(home), "no credential found")

    store = pkcs12.serialize_key_and_certificates(
        None, rsa_key("alice"), issued.credential.certificate, [ca.certificate], NoEncryption()
    )
    write_private(home / ".globus/usercred.p12", store)
    assert find(home).certificates == (issued.credential.certificate, ca.certificate)

    bob = ca.user("Bob", key=rsa_key("bob"))
    place(bob, home / ".globus", "user")
    assert find(home).identity == "/O=Gram Lab/CN=Bob"

    (home / "tmp").mkdir()
    write_private(home / f"tmp/x509up_u{os.geteuid()}", proxy.pem())
    assert find(home).certificates == proxy.certificates

    other = tmp_path / "other"
    write_private(other, create_proxy(proxy, key=rsa_key("second"), now=NOW).pem())
    assert len(find(home, X509_USER_PROXY=str(other)).certificates) == 3

    host = ca.host(["a.example"], key=rsa_key("host"))
    place(host, home / ".globus", "host")
    # The host credential wins over the proxy, even when that is set.
    assert find(home, X509_USER_PROXY=str(other)).identity == "/O=Gram Lab/CN=a.example"

    place(ca.host(["b.example"], key=rsa_key("host")), home / "globus/etc", "host")
    assert find(home, GLOBUS_LOCATION=str(home / "globus")).identity.endswith("b.example")
    place(ca.host(["c.example"], key=rsa_key("host")), home / "etc/grid-security", "host")
    assert find(home, GLOBUS_LOCATION=str(home / "globus")).identity.endswith("c.example")

    settings = {
        "X509_USER_CERT": str(issued.certificate),
        "X509_USER_KEY": str(issued.key),
        "X509_USER_PROXY": str(other),
    }
    assert find(home, **settings).identity == "/O=Gram Lab/CN=Alice"


def test_explicit_settings_that_fail(home: Path, issued: Issued, proxy: Credential) -> None:
    place(issued, home / ".globus", "user")
    refused(lambda: find(home, X509_USER_PROXY="/nonexistent"), "cannot open /nonexistent")
    refused(lambda: find(home, X509_USER_CERT="/a", X509_USER_KEY="/b"), "cannot open /a")
    refused(lambda: find(home, X509_USER_CERT="/a"), "cannot open /a")
    # One of the two alone only replaces that file of the user's pair.
    assert find(home, X509_USER_CERT=str(issued.certificate)).certificates


def test_an_expired_proxy_is_an_error(home: Path, issued: Issued, proxy: Credential) -> None:
    place(issued, home / ".globus", "user")
    path = home / "old"
    write_private(path, proxy.pem())
    later = NOW + timedelta(hours=13)
    with pytest.raises(CredentialError, match="expired at 2026-11-22T00:00:00Z") as caught:
        find_credential({"X509_USER_PROXY": str(path)}, now=later, system=home)
    assert caught.value.code is ErrorCode.USER_PROXY_EXPIRED


def test_encrypted_pkcs12(home: Path, alice: Credential) -> None:
    store = pkcs12.serialize_key_and_certificates(
        None, rsa_key("alice"), alice.certificate, None, BestAvailableEncryption(b"secret")
    )
    path = home / ".globus/usercred.p12"
    write_private(path, store)
    with pytest.raises(PassphraseError):
        find(home)
    assert Credential.load_pkcs12(path, passphrase=b"secret").identity == alice.identity
    key_only = pkcs12.serialize_key_and_certificates(
        None, rsa_key("alice"), None, None, NoEncryption()
    )
    write_private(home / "key.p12", key_only)
    refused(lambda: Credential.load_pkcs12(home / "key.p12"), "holds no certificate")
    refused(lambda: Credential.load_pkcs12(path, passphrase=b"wrong"), "usercred.p12")


def test_no_home() -> None:
    refused(
        lambda: find_credential({}, system=Path("/nonexistent"), temporary=Path("/nonexistent")),
        "HOME is not set",
    )
