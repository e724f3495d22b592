"""Sign proxy certificates, octet for octet as the reference does (wire-protocol.md 1.7, 2.3)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from protocol.gsi import certificate as cert
from protocol.gsi import der, names
from protocol.gsi.certificate import Facts, KeyUsage, examine
from protocol.gsi.proxies import LEGACY_NAMES, ProxyFormat, ProxyInfo, encode_proxy_info

SigningKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

BACKDATE = timedelta(minutes=5)

_RSA_OIDS = {
    "sha256": "1.2.840.113549.1.1.11",
    "sha384": "1.2.840.113549.1.1.12",
    "sha512": "1.2.840.113549.1.1.13",
}
_ECDSA_OIDS = {
    "sha256": "1.2.840.10045.4.3.2",
    "sha384": "1.2.840.10045.4.3.3",
    "sha512": "1.2.840.10045.4.3.4",
}
_CLEARED = KeyUsage.NON_REPUDIATION | KeyUsage.KEY_CERT_SIGN
_TRUE = der.encode(der.BOOLEAN, b"\xff")
_VERSION_3 = der.encode(0xA0, der.encode_integer(2))
_LAST_UTC_TIME = 2049


def hash_like(certificate: x509.Certificate | None) -> hashes.HashAlgorithm:
    """Return the hash of the certificate's own signature; SHA-256 without one or for a weak one."""
    if certificate is not None:
        digest = certificate.signature_hash_algorithm
        if digest is not None and digest.name in _RSA_OIDS:
            return digest
    return hashes.SHA256()


def sign(key: SigningKey, digest: hashes.HashAlgorithm, body: bytes) -> bytes:
    """Return SEQUENCE { body, signature algorithm, signature }; `body` is DER."""
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(body, padding.PKCS1v15(), digest)
    else:
        signature = key.sign(body, ec.ECDSA(digest))
    return der.encode(
        der.SEQUENCE,
        body,
        signature_algorithm(key, digest),
        der.encode(der.BIT_STRING, b"\0", signature),
    )


def signature_algorithm(key: SigningKey, digest: hashes.HashAlgorithm) -> bytes:
    """Return the AlgorithmIdentifier that `sign` uses."""
    if isinstance(key, rsa.RSAPrivateKey):
        return der.encode(
            der.SEQUENCE, der.encode_oid(_RSA_OIDS[digest.name]), der.encode(der.NULL)
        )
    return der.encode(der.SEQUENCE, der.encode_oid(_ECDSA_OIDS[digest.name]))


def proxy_number(public_key_info: bytes) -> int:
    """Return the number that serves as serial and CN of a proxy with this SubjectPublicKeyInfo."""
    digest = hashlib.sha1(public_key_info, usedforsecurity=False).digest()
    return int.from_bytes(digest[:3], "little") | digest[3] >> 1 << 24


def issue_proxy(
    issuer: x509.Certificate,
    key: SigningKey,
    public_key_info: bytes,
    info: ProxyInfo,
    *,
    not_before: datetime,
    not_after: datetime,
) -> x509.Certificate:
    """Sign a proxy for a public key (DER SubjectPublicKeyInfo) with the issuer's key.

    No rule of 2.2 is checked here.  Raises ValueError for a policy that cannot be encoded.
    """
    facts = examine(issuer)
    digest = hash_like(issuer)
    number = proxy_number(public_key_info)
    legacy = info.format is ProxyFormat.LEGACY
    serial = facts.serial if legacy else number
    common_name = LEGACY_NAMES[info.policy] if legacy else str(number)
    body = der.encode(
        der.SEQUENCE,
        _VERSION_3,
        der.encode_integer(serial),
        signature_algorithm(key, digest),
        facts.subject,
        der.encode(der.SEQUENCE, _time(not_before), _time(not_after)),
        _below(facts.subject, common_name),
        public_key_info,
        _extensions(facts, info),
    )
    return x509.load_der_x509_certificate(sign(key, digest, body))


def common_name_rdn(text: str) -> bytes:
    """Return the DER of a relative name with one CN, a PrintableString."""
    return der.encode(
        der.SET,
        der.encode(
            der.SEQUENCE,
            der.encode_oid(names.COMMON_NAME),
            der.encode(der.PRINTABLE_STRING, text.encode("ascii")),
        ),
    )


def _below(name: bytes, common_name: str) -> bytes:
    return der.encode(der.SEQUENCE, der.element(name, der.SEQUENCE), common_name_rdn(common_name))


def _time(moment: datetime) -> bytes:
    utc = moment.astimezone(UTC)
    if utc.year <= _LAST_UTC_TIME:
        return der.encode(der.UTC_TIME, f"{utc:%y%m%d%H%M%SZ}".encode())
    return der.encode(der.GENERALIZED_TIME, f"{utc:%Y%m%d%H%M%SZ}".encode())


def extension(oid: str, value: bytes, *, critical: bool) -> bytes:
    """Return the DER of one extension."""
    return der.encode(
        der.SEQUENCE,
        der.encode_oid(oid),
        _TRUE if critical else b"",
        der.encode(der.OCTET_STRING, value),
    )


def _extensions(issuer: Facts, info: ProxyInfo) -> bytes:
    parts = []
    purposes = issuer.extension(cert.EXTENDED_KEY_USAGE)
    if purposes is not None:
        parts.append(extension(purposes.type, purposes.value, critical=purposes.critical))
    if issuer.key_usage is not None:
        usage = cert.encode_key_usage(issuer.key_usage & ~_CLEARED)
        parts.append(extension(cert.KEY_USAGE, usage, critical=True))
    if info.format.value is not None:
        value = encode_proxy_info(info)
        parts.append(extension(info.format.value, value, critical=True))
    if not parts:
        return b""
    return der.encode(0xA3, der.encode(der.SEQUENCE, *parts))
