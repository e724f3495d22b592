"""What the chain rules need to know of one certificate, read once.

`cryptography` objects are lazy and strict in places where grid certificates are odd (serial number
zero, long names), so names, serial number and extensions are read from the DER here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.gsi import der, names

BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
EXTENDED_KEY_USAGE = "2.5.29.37"
SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
ISSUER_ALTERNATIVE_NAME = "2.5.29.18"
NETSCAPE_CERT_TYPE = "2.16.840.1.113730.1.1"

_VERSION_TAG = 0xA0
_EXTENSIONS_TAG = 0xA3

# What `cryptography` raises on odd input; warnings too, where filters make errors of them.
PARSING_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, Warning)


class CertificateError(ValueError):
    """The certificate cannot be understood."""


class KeyUsage(IntFlag):
    """The bits of the keyUsage extension, first bit lowest."""

    DIGITAL_SIGNATURE = 1 << 0
    NON_REPUDIATION = 1 << 1
    KEY_ENCIPHERMENT = 1 << 2
    DATA_ENCIPHERMENT = 1 << 3
    KEY_AGREEMENT = 1 << 4
    KEY_CERT_SIGN = 1 << 5
    CRL_SIGN = 1 << 6
    ENCIPHER_ONLY = 1 << 7
    DECIPHER_ONLY = 1 << 8


class Extension(NamedTuple):
    """One extension: dotted type, critical flag, DER of the value."""

    type: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """A certificate and what the rules look at; names are DER, times are UTC."""

    certificate: x509.Certificate
    subject: bytes
    issuer: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    public_key: CertificatePublicKeyTypes
    digest_size: int | None  # octets of the signature's hash; None for Ed25519 and Ed448
    extensions: tuple[Extension, ...]
    is_ca: bool
    path_length: int | None
    key_usage: KeyUsage | None

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name."""
        return names.canonical(self.subject) == names.canonical(self.issuer)

    def extension(self, oid: str) -> Extension | None:
        """Return the extension of that type, if there is one."""
        return next((item for item in self.extensions if item.type == oid), None)


@lru_cache(maxsize=512)
def examine(certificate: x509.Certificate) -> Facts:
    """Read a certificate.  Raises CertificateError, whatever is wrong with it."""
    try:
        return _examine(certificate)
    except PARSING_ERRORS as error:
        raise CertificateError(f"unusable certificate: {error}") from error


def _examine(certificate: x509.Certificate) -> Facts:
    fields = der.members(certificate.tbs_certificate_bytes)
    if fields and fields[0].tag == _VERSION_TAG:
        del fields[0]
    if len(fields) < 6:
        raise der.DERError("certificate is too short")
    whole = der.members(certificate.public_bytes(Encoding.DER))
    if len(whole) != 3 or whole[1] != fields[1]:
        raise der.DERError("the two signature algorithms differ")
    extensions = _extensions(fields[6:])
    is_ca, path_length = _basic_constraints(extensions)
    digest = certificate.signature_hash_algorithm
    subject, issuer = fields[4].encoded, fields[2].encoded
    for name in (subject, issuer):
        names.canonical(name)  # raises for a name that no rule could compare
    return Facts(
        certificate=certificate,
        subject=subject,
        issuer=issuer,
        serial=der.decode_integer(fields[0]),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        public_key=certificate.public_key(),
        digest_size=None if digest is None else digest.digest_size,
        extensions=extensions,
        is_ca=is_ca,
        path_length=path_length,
        key_usage=_key_usage(extensions),
    )


def _extensions(fields: list[der.Element]) -> tuple[Extension, ...]:
    block = next((item for item in fields if item.tag == _EXTENSIONS_TAG), None)
    if block is None:
        return ()
    found = tuple(_extension(item) for item in der.members(block.content))
    if len({item.type for item in found}) != len(found):
        raise der.DERError("an extension occurs twice")
    return found


def _extension(item: der.Element) -> Extension:
    oid, *flag, value = der.members(item.encoded)
    critical = False
    if flag:
        if len(flag) != 1 or flag[0].tag != der.BOOLEAN or flag[0].content not in (b"\0", b"\xff"):
            raise der.DERError("bad critical flag")
        critical = flag[0].content == b"\xff"
    if value.tag != der.OCTET_STRING:
        raise der.DERError("extension without value")
    return Extension(der.decode_oid(oid), critical, value.content)


def _value(extensions: tuple[Extension, ...], oid: str) -> bytes | None:
    return next((item.value for item in extensions if item.type == oid), None)


def _basic_constraints(extensions: tuple[Extension, ...]) -> tuple[bool, int | None]:
    value = _value(extensions, BASIC_CONSTRAINTS)
    if value is None:
        return False, None
    fields = der.members(value)
    is_ca = bool(fields) and fields[0].tag == der.BOOLEAN
    if is_ca:
        is_ca = fields.pop(0).content == b"\xff"
    path_length = der.decode_integer(fields.pop(0)) if fields else None
    if fields or (path_length is not None and path_length < 0):
        raise der.DERError("bad basicConstraints")
    return is_ca, path_length


def _key_usage(extensions: tuple[Extension, ...]) -> KeyUsage | None:
    value = _value(extensions, KEY_USAGE)
    if value is None:
        return None
    return decode_key_usage(value)


def decode_key_usage(value: bytes) -> KeyUsage:
    """Decode the value of a keyUsage extension.  Raises DERError."""
    content = der.element(value, der.BIT_STRING)
    if not 1 <= len(content) <= 3 or content[0] > 7:
        raise der.DERError("bad keyUsage")
    bits = int.from_bytes(content[1:].ljust(2, b"\0"), "big")
    return KeyUsage(sum(1 << number for number in range(9) if bits >> 15 - number & 1))


def encode_key_usage(usage: KeyUsage) -> bytes:
    """Encode the value of a keyUsage extension."""
    used = usage.value.bit_length()
    octets = bytearray((used + 7) // 8)
    for number in range(used):
        if usage.value >> number & 1:
            octets[number // 8] |= 0x80 >> number % 8
    return der.encode(der.BIT_STRING, bytes([-used % 8]), bytes(octets))


@lru_cache(maxsize=1024)
def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether the issuer's key made the certificate's signature.  Names are not compared."""
    return signature_is_valid(certificate, certificate.tbs_certificate_bytes, issuer)


def signature_is_valid(
    signed: x509.Certificate | x509.CertificateRevocationList,
    data: bytes,
    issuer: x509.Certificate,
) -> bool:
    """Check the signature of a certificate or CRL over `data`; RSA, ECDSA, Ed25519 and Ed448."""
    try:
        digest = signed.signature_hash_algorithm
        match issuer.public_key(), signed.signature_algorithm_parameters:
            case rsa.RSAPublicKey() as key, (padding.PKCS1v15() | padding.PSS()) as how if digest:
                key.verify(signed.signature, data, how, digest)
            case ec.EllipticCurvePublicKey() as key, ec.ECDSA() as how:
                key.verify(signed.signature, data, how)
            case (ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()) as key, None:
                key.verify(signed.signature, data)
            case _:
                return False
    except (InvalidSignature, *PARSING_ERRORS):
        return False
    return True
