"""A throw-away certificate authority for `gram demo` and for tests.  Never use it for a site.

Files get the names and modes that GSI programs expect (wire-protocol.md 3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias, TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.gsi.credential import Credential, key_pem, write_private
from protocol.gsi.delegation import generate_key
from protocol.gsi.issue import BACKDATE
from protocol.gsi.names import oneline, subject_hash
from protocol.gsi.proxies import ProxyFormat, ProxyPolicy
from protocol.gsi.proxy_init import create_proxy

Key: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Extensions: TypeAlias = Sequence[tuple[x509.ExtensionType, bool]]

LIFETIME = timedelta(days=30)

_TYPES = {
    "C": NameOID.COUNTRY_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "UID": NameOID.USER_ID,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class ProxyOptions(TypedDict, total=False):
    """What `create_proxy` can be told."""

    lifetime: timedelta
    policy: ProxyPolicy
    path_length: int | None
    format: ProxyFormat
    bits: int
    key: Key | None
    now: datetime | None


@dataclass(frozen=True, slots=True)
class Issued:
    """A credential and the two files that hold it."""

    credential: Credential
    certificate: Path
    key: Path


def make_name(text: str) -> x509.Name:
    """Build a name from a slash form without escapes, such as `/O=Lab/CN=Alice`.

    Raises KeyError for an attribute type outside C, DC, O, OU, CN, UID, emailAddress.
    """
    pairs = (part.partition("=") for part in text.strip("/").split("/"))
    return x509.Name([x509.NameAttribute(_TYPES[kind], value) for kind, _, value in pairs])


def key_usage(*names: str) -> x509.KeyUsage:
    """Build a keyUsage extension from the names of its bits, e.g. `digital_signature`."""
    return x509.KeyUsage(**{name: name in names for name in _USAGES})


CA_EXTENSIONS: Extensions = (
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (key_usage("key_cert_sign", "crl_sign"), True),
)
USER_EXTENSIONS: Extensions = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (key_usage("digital_signature", "key_encipherment"), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
)


class LabCA:
    """A CA that issues users `<base>/CN=...`, hosts and revocation lists, below `directory`.

    Keys are fresh 2048-bit RSA unless given; making one takes tens of milliseconds.  With a
    `parent` it is an intermediate CA.  `now` (UTC) is what validity counts from.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        subject: str = "/O=Gram Lab/CN=Gram Lab CA",
        base: str = "/O=Gram Lab",
        key: Key | None = None,
        parent: LabCA | None = None,
        now: datetime | None = None,
        extensions: Extensions = CA_EXTENSIONS,
    ) -> None:
        self.directory = Path(directory)
        self.name = make_name(subject)
        self.base = base
        self.key = key or generate_key()
        self.now = now or datetime.now(UTC)
        self.certificate = (parent or self).sign(self.name, self.key.public_key(), extensions)

    def sign(
        self,
        subject: x509.Name,
        public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        extensions: Extensions = (),
        *,
        lifetime: timedelta = LIFETIME,
        not_before: datetime | None = None,
        serial: int | None = None,
    ) -> x509.Certificate:
        """Issue any certificate, with (extension, critical) pairs exactly as given."""
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=subject,
            public_key=public_key,
            serial_number=serial or x509.random_serial_number(),
            not_valid_before=not_before or self.now - BACKDATE,
            not_valid_after=(not_before or self.now) + lifetime,
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())

    def ca_directory(self, path: str | Path | None = None, *, crl: bytes | None = None) -> Path:
        """Write this CA's files into a CA directory (default: `certificates`), and return that.

        The signing policy admits everything below `base`; `crl` is PEM, see `crl`.
        """
        target = Path(path) if path is not None else self.directory / "certificates"
        target.mkdir(parents=True, exist_ok=True)
        stem = subject_hash(self.name)
        _write_public(target / f"{stem}.0", self.certificate.public_bytes(Encoding.PEM))
        policy = (
            f"access_id_CA  X509   '{oneline(self.name)}'\n"
            "pos_rights    globus CA:sign\n"
            f"cond_subjects globus '\"{self.base}/*\"'\n"
        )
        _write_public(target / f"{stem}.signing_policy", policy.encode())
        if crl is not None:
            _write_public(target / f"{stem}.r0", crl)
        return target

    def crl(
        self,
        serials: Sequence[int] = (),
        *,
        last_update: datetime | None = None,
        lifetime: timedelta = LIFETIME,
        extensions: Extensions = (),
    ) -> bytes:
        """Return a PEM revocation list of these serial numbers."""
        start = last_update or self.now - BACKDATE
        builder = x509.CertificateRevocationListBuilder(self.name, start, start + lifetime)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial, start).build()
            builder = builder.add_revoked_certificate(entry)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def user(
        self,
        common_name: str,
        *,
        key: Key | None = None,
        lifetime: timedelta = LIFETIME,
        extensions: Extensions = USER_EXTENSIONS,
    ) -> Issued:
        """Issue a user; write `usercert.pem` and `userkey.pem` into a directory of that name."""
        return self._issue(common_name, "user", key or generate_key(), lifetime, extensions)

    def host(
        self,
        names: Sequence[str] | None = None,
        *,
        key: Key | None = None,
        lifetime: timedelta = LIFETIME,
    ) -> Issued:
        """Issue a host credential; write `hostcert.pem` and `hostkey.pem`.

        The first name is the CN, all are dNSNames; by default `localhost` and this machine's name.
        """
        known = list(names or dict.fromkeys(("localhost", socket.gethostname())))
        extensions: Extensions = (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage("digital_signature", "key_encipherment"), True),
            (x509.SubjectAlternativeName([x509.DNSName(name) for name in known]), False),
        )
        return self._issue(known[0], "host", key or generate_key(), lifetime, extensions)

    def proxy(
        self, issuer: Credential, path: str | Path, **options: Unpack[ProxyOptions]
    ) -> Credential:
        """Make a proxy, as `create_proxy` does, and write it as a proxy file."""
        credential = create_proxy(issuer, **options)
        write_private(path, credential.pem())
        return credential

    def _issue(
        self, common_name: str, kind: str, key: Key, lifetime: timedelta, extensions: Extensions
    ) -> Issued:
        last = x509.NameAttribute(NameOID.COMMON_NAME, common_name)
        subject = x509.Name([*make_name(self.base).rdns, x509.RelativeDistinguishedName([last])])
        certificate = self.sign(subject, key.public_key(), extensions, lifetime=lifetime)
        folder = self.directory / common_name.replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{kind}cert.pem", folder / f"{kind}key.pem"
        _write_public(paths[0], certificate.public_bytes(Encoding.PEM))
        write_private(paths[1], key_pem(key))
        return Issued(Credential(certificate, key), *paths)


def _write_public(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.chmod(path, 0o644)
