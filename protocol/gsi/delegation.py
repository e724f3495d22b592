"""Delegation messages: the certificate request, the proxy signed for it, the renewal (1.7, 1.8).

Octets only; who sends them when, and the length prefixes of a renewal, are the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import GramError
from protocol.gsi import der, issue
from protocol.gsi.certificate import PARSING_ERRORS
from protocol.gsi.checks import moment
from protocol.gsi.credential import Credential
from protocol.gsi.proxies import (
    ProxyFormat,
    ProxyInfo,
    ProxyPolicy,
    encode_proxy_info,
    proxy_info,
)
from protocol.gsi.proxy_rules import MAX_CERTIFICATES, check_proxies
from protocol.gsi.refusal import ChainRefused
from protocol.tables import ErrorCode

DelegationKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

REQUEST_NAME = "NULL SUBJECT NAME ENTRY"
MAX_REQUEST = 16384
MAX_RENEWAL = 1 << 20

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_ATTRIBUTES_TAG = 0xA0


class DelegationError(GramError):
    """A credential could not be delegated (code DELEGATION_FAILED)."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.DELEGATION_FAILED, message)


def generate_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Make an RSA key with public exponent 65537; takes tens of milliseconds."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def generate_ec_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key.

    It is a thousand times cheaper than RSA and reference clients sign it, but reference tools
    cannot delegate the resulting proxy any further (1.7, limits).
    """
    return ec.generate_private_key(ec.SECP256R1())


def make_request(key: DelegationKey, like: x509.Certificate | None = None) -> bytes:
    """Return the DER certificate request for `key`; 667 octets for an RSA key of 2048 bits.

    It is signed with the hash of the signature on `like`, the client's leaf certificate.
    """
    digest = issue.hash_like(like)
    wish = encode_proxy_info(ProxyInfo(ProxyFormat.RFC, ProxyPolicy.FULL))
    extension = issue.extension(ProxyFormat.RFC.value, wish, critical=True)
    attribute = der.encode(
        der.SEQUENCE,
        der.encode_oid(_EXTENSION_REQUEST),
        der.encode(der.SET, der.encode(der.SEQUENCE, extension)),
    )
    body = der.encode(
        der.SEQUENCE,
        der.encode_integer(0),
        der.encode(der.SEQUENCE, issue.common_name_rdn(REQUEST_NAME)),
        _public_key_info(key),
        der.encode(_ATTRIBUTES_TAG, attribute),
    )
    return issue.sign(key, digest, body)


def _public_key_info(key: DelegationKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign_request(
    request: bytes, issuer: Credential, *, limited: bool = True, now: datetime | None = None
) -> x509.Certificate:
    """Sign a proxy for the key in a certificate request, as the reference client does.

    Valid from five minutes ago to the end of the issuer certificate.  The issuer decides on format;
    an end entity issues RFC 3820.  Raises DelegationError: for a request that cannot be read or
    whose own signature is wrong, and when the proxy would break a rule of 2.2, e.g. a full proxy
    from a limited one, an exhausted path length, an expired issuer, a weak key.
    """
    public_key_info = _requested_key(request)
    if not isinstance(issuer.private_key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise DelegationError("a credential with this type of key cannot sign proxies")
    policy = ProxyPolicy.LIMITED if limited else ProxyPolicy.FULL
    try:
        above = proxy_info(issuer.certificate)
        proxy = issue.issue_proxy(
            issuer.certificate,
            issuer.private_key,
            public_key_info,
            ProxyInfo(ProxyFormat.RFC if above is None else above.format, policy),
            not_before=moment(now) - issue.BACKDATE,
            not_after=issuer.certificate.not_valid_after_utc,
        )
        check_proxies((proxy, *issuer.certificates), now=now)
    except (ChainRefused, *PARSING_ERRORS) as error:
        raise DelegationError(f"cannot delegate: {error}") from error
    return proxy


def _requested_key(request: bytes) -> bytes:
    if len(request) > MAX_REQUEST:
        raise DelegationError(f"certificate request larger than {MAX_REQUEST} octets")
    try:
        decoded = x509.load_der_x509_csr(request)
        if not decoded.is_signature_valid:
            raise DelegationError("the certificate request's own signature is wrong")
        return decoded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except PARSING_ERRORS as error:
        raise DelegationError(f"unusable certificate request: {error}") from error


def accept_reply(
    reply: bytes,
    key: DelegationKey,
    peer_chain: Sequence[x509.Certificate],
    *,
    now: datetime | None = None,
) -> Credential:
    """Build the delegated credential from the client's reply (1.7, checks).

    `peer_chain` is the chain that the client showed in TLS, leaf first, already verified.  The new
    certificate must hold `key`, be issued by that very leaf, and keep all rules for proxies.
    Raises DelegationError.
    """
    certificates = _read_certificates(reply)
    if len(certificates) != 1:
        raise DelegationError("expected one certificate")
    return _delegated(certificates[0], key, peer_chain, now)


def renewal_reply(
    request: bytes, issuer: Credential, *, limited: bool = True, now: datetime | None = None
) -> bytes:
    """Return the certificates of a renewal: new proxy, issuer, ... end-entity certificate (1.8).

    Concatenated DER without the length prefix.  Raises DelegationError.
    """
    proxy = sign_request(request, issuer, limited=limited, now=now)
    path = check_proxies((proxy, *issuer.certificates), now=now)
    return b"".join(item.public_bytes(Encoding.DER) for item in path.certificates)


def accept_renewal(data: bytes, key: DelegationKey, *, now: datetime | None = None) -> Credential:
    """Build the credential from the certificates of a renewal, without their length prefix.

    The chain brings its own end-entity certificate, so the caller must still `verify_chain` the
    result's certificates and compare the identity with the job's owner (1.8).  Raises
    DelegationError.
    """
    certificates = _read_certificates(data)
    if len(certificates) < 2:
        raise DelegationError("the renewal lacks the chain of the new proxy")
    return _delegated(certificates[0], key, certificates[1:], now)


def _read_certificates(data: bytes) -> list[x509.Certificate]:
    if len(data) > MAX_RENEWAL:
        raise DelegationError(f"certificates larger than {MAX_RENEWAL} octets")
    try:
        parts = der.elements(data)
        if len(parts) > MAX_CERTIFICATES:
            raise DelegationError(f"more than {MAX_CERTIFICATES} certificates")
        return [x509.load_der_x509_certificate(item.encoded) for item in parts]
    except PARSING_ERRORS as error:
        raise DelegationError(f"unusable certificate: {error}") from error


def _delegated(
    proxy: x509.Certificate,
    key: DelegationKey,
    chain: Sequence[x509.Certificate],
    now: datetime | None,
) -> Credential:
    try:
        path = check_proxies((proxy, *chain), now=now)
        same_key = proxy.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ) == _public_key_info(key)
    except (ChainRefused, *PARSING_ERRORS) as error:
        raise DelegationError(f"unusable delegated proxy: {error}") from error
    if not same_key:
        raise DelegationError("the delegated proxy is for another key than the one requested")
    if len(path.proxies) == 0 or path.certificates[1] != chain[0]:
        raise DelegationError("the delegated certificate is not a proxy of the client's own")
    return Credential(proxy, key, tuple(chain))
