"""A throw-away certificate authority for `gram demo` and for tests.  Never use it for a site.

Files get the names and modes that GSI programs expect (wire-protocol.md 3).
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol.gsi.credential import Credential, key_pem, write_private
from protocol.gsi.delegation import generate_key
from protocol.gsi.names import oneline, subject_hash
from protocol.gsi.proxies import ProxyFormat, ProxyPolicy
from protocol.gsi.proxy_init import create_proxy

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

LIFETIME = timedelta(days=30)
_BACKDATE = timedelta(minutes=5)
_TYPES = {
    "C": NameOID.COUNTRY_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}


def make_name(text: str) -> x509.Name:
    """Build a name from a simple slash form such as `/O=Lab/CN=Alice` (no escapes).

    Raises KeyError for an attribute type outside C, DC, O, OU, CN, emailAddress.
    """
    pairs = (part.partition("=") for part in text.strip("/").split("/"))
    return x509.Name([x509.NameAttribute(_TYPES[kind], value) for kind, _, value in pairs])


@dataclass
class LabCA:
    """A CA: issues users, hosts, sub-CAs and CRLs below `base`, and writes CA directories.

    Fresh 2048-bit RSA keys are made where none is given; a key costs tens of milliseconds.
    """

    subject: str = "/O=Gram Lab/CN=Gram Lab CA"
    base: str = "/O=Gram Lab"
    key: Key = field(default_factory=generate_key, repr=False)
    parent: LabCA | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    certificate: x509.Certificate = field(init=False)
    revoked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        issuer = self.parent or self
        self.certificate = issuer.sign(
            make_name(self.subject),
            self.key,
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (_key_usage("key_cert_sign", "crl_sign"), True),
            ],
        )

    @property
    def hash(self) -> str:
        """The eight hex digits that name this CA's files."""
        return subject_hash(self.certificate.subject)

    def sign(
        self,
        subject: x509.Name,
        key: Key,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        *,
        lifetime: timedelta = LIFETIME,
        not_before: datetime | None = None,
        serial: int | None = None,
    ) -> x509.Certificate:
        """Issue a certificate for any subject with (extension, critical) pairs, as given."""
        start = not_before or self.now - _BACKDATE
        builder = x509.CertificateBuilder(
            issuer_name=make_name(self.subject),
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=serial or x509.random_serial_number(),
            not_valid_before=start,
            not_valid_after=(not_before or self.now) + lifetime,
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())

    def user(self, common_name: str, *, key: Key | None = None, **options: object) -> Credential:
        """Issue a user credential `<base>/CN=<common name>`; options are those of `sign`."""
        return self._issue(common_name, key, [], **options)
