"""The CA directory: file names, changes, limits (wire-protocol.md 3.1)."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gram.labca import LabCA
from protocol.errors import GramError
from protocol.gsi.chain import ChainRefused, Refusal, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory, default_directory
from protocol.gsi.names import subject_hash
from tests.gsi.forge import NOW
from tests.support.keys import rsa_key


def refused(call: object, reason: Refusal, words: str) -> None:
    assert callable(call)
    with pytest.raises(ChainRefused, match=words) as caught:
        call()
    assert caught.value.reason is reason


def file(directory: CADirectory, ca: LabCA, suffix: str) -> Path:
    return directory.path / f"{subject_hash(ca.name)}.{suffix}"


def test_look_up_by_name_or_der(ca: LabCA, directory: CADirectory) -> None:
    assert directory.issuers(ca.name) == (ca.certificate,)
    assert directory.issuers(ca.name.public_bytes()) == (ca.certificate,)
    assert directory.signing_policy(ca.name).entries
    assert directory.crl(ca.name) is None


def test_files_are_parsed_once_and_again_when_they_change(
    ca: LabCA, directory: CADirectory
) -> None:
    first = directory.signing_policy(ca.name)
    certificate = directory.issuers(ca.name)[0]
    assert directory.signing_policy(ca.name) is first
    assert directory.issuers(ca.name)[0] is certificate
    path = file(directory, ca, "signing_policy")
    path.write_bytes(path.read_bytes() + b"# more\n")
    assert directory.signing_policy(ca.name) is not first


def test_a_change_of_equal_size_in_the_same_clock_tick(ca: LabCA, directory: CADirectory) -> None:
    path = file(directory, ca, "signing_policy")
    directory.signing_policy(ca.name)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Lab/*", b"Lax/*"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert b"Lax" in directory.signing_policy(ca.name).entries[0].conditions[0].value.encode()


def test_a_replaced_file(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    verify_chain(alice.certificates, directory, now=NOW)
    path = file(directory, ca, "signing_policy")
    new = directory.path / "new"
    new.write_bytes(path.read_bytes().replace(b"Lab/*", b"Lax/*"))
    new.rename(path)
    refused(
        lambda: verify_chain(alice.certificates, directory, now=NOW), Refusal.SIGNING_POLICY, "no"
    )


def test_removed_and_added_files(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    path = file(directory, ca, "0")
    content = path.read_bytes()
    verify_chain(alice.certificates, directory, now=NOW)
    path.unlink()
    refused(lambda: verify_chain(alice.certificates, directory, now=NOW), Refusal.UNTRUSTED, "0 in")
    path.write_bytes(content)
    verify_chain(alice.certificates, directory, now=NOW)
    ca.ca_directory(crl=ca.crl([alice.certificate.serial_number]))
    refused(lambda: verify_chain(alice.certificates, directory, now=NOW), Refusal.REVOKED, "Alice")
    file(directory, ca, "r0").unlink()
    verify_chain(alice.certificates, directory, now=NOW)


def test_numbers_start_at_zero_and_leave_no_gap(ca: LabCA, directory: CADirectory) -> None:
    zero, one, two = (file(directory, ca, suffix) for suffix in "012")
    zero.rename(one)
    assert directory.issuers(ca.name) == ()
    one.rename(two)
    other = LabCA(ca.directory, key=rsa_key("other"), now=NOW)
    zero.write_bytes(other.certificate.public_bytes(Encoding.PEM))
    assert directory.issuers(ca.name) == (other.certificate,)
    two.rename(one)
    assert directory.issuers(ca.name) == (other.certificate, ca.certificate)


def test_a_broken_file_hides_the_next(ca: LabCA, directory: CADirectory) -> None:
    zero, one = file(directory, ca, "0"), file(directory, ca, "1")
    one.write_bytes(zero.read_bytes())
    for content in (b"", b"rubbish", zero.read_bytes()[:300]):
        zero.write_bytes(content)
        refused(lambda: directory.issuers(ca.name), Refusal.UNTRUSTED, f"cannot use {zero}")


def test_certificates_of_other_names_in_a_file_do_not_count(
    ca: LabCA, directory: CADirectory
) -> None:
    other = LabCA(ca.directory, subject="/O=Other/CN=CA", key=rsa_key("other"), now=NOW)
    path = file(directory, ca, "0")
    path.write_bytes(other.certificate.public_bytes(Encoding.PEM) + path.read_bytes())
    assert directory.issuers(ca.name) == (ca.certificate,)
    path.write_bytes(other.certificate.public_bytes(Encoding.PEM))
    assert directory.issuers(ca.name) == ()


def test_only_the_first_crl_counts(ca: LabCA, alice: Credential, directory: CADirectory) -> None:
    file(directory, ca, "r1").write_bytes(ca.crl([alice.certificate.serial_number]))
    verify_chain(alice.certificates, directory, now=NOW)


def test_unreadable_files(ca: LabCA, directory: CADirectory) -> None:
    for suffix, reason, read in (
        ("0", Refusal.UNTRUSTED, directory.issuers),
        ("signing_policy", Refusal.SIGNING_POLICY, directory.signing_policy),
        ("r0", Refusal.CRL, directory.crl),
    ):
        path = file(directory, ca, suffix)
        path.unlink(missing_ok=True)
        path.mkdir()
        refused(lambda read=read: read(ca.name), reason, f"cannot use {path}")


def test_size_limit(ca: LabCA, directory: CADirectory) -> None:
    path = file(directory, ca, "0")
    path.write_bytes(path.read_bytes() + b"\n" * (1 << 20))
    refused(lambda: directory.issuers(ca.name), Refusal.UNTRUSTED, "is larger than")


def test_where_the_directory_is(tmp_path: Path) -> None:
    home, location = tmp_path / "home", tmp_path / "globus"
    environ = {"HOME": str(home), "GLOBUS_LOCATION": str(location)}
    (location / "share/certificates").mkdir(parents=True)
    system = Path("/etc/grid-security/certificates")
    expected = system if system.is_dir() else location / "share/certificates"
    assert default_directory(environ).path == expected
    (home / ".globus/certificates").mkdir(parents=True)
    assert default_directory(environ).path == home / ".globus/certificates"
    explicit = tmp_path / "explicit"
    environ["X509_CERT_DIR"] = str(explicit)
    with pytest.raises(GramError, match=f"no directory of trusted CAs: {explicit}"):
        default_directory(environ)
    explicit.mkdir()
    assert default_directory(environ).path == explicit
