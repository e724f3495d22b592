"""Certificates that nobody should sign: every field can be made wrong."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.gsi import der
from protocol.gsi.credential import Credential
from protocol.gsi.issue import extension as encode_extension
from protocol.gsi.proxies import ProxyFormat, ProxyInfo, ProxyPolicy, encode_proxy_info
from tests.support.keys import rsa_key

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

SIGNATURES = {
    "sha256": (hashes.SHA256(), "1.2.840.113549.1.1.11"),
    "sha1": (hashes.SHA1(), "1.2.840.113549.1.1.5"),  # noqa: S303 - to see it refused
    "md5": (hashes.MD5(), "1.2.840.113549.1.1.4"),  # noqa: S303 - to see it refused
}

RFC = ProxyFormat.RFC
DRAFT = ProxyFormat.DRAFT
LEGACY = ProxyFormat.LEGACY
FULL = ProxyPolicy.FULL
LIMITED = ProxyPolicy.LIMITED
INDEPENDENT = ProxyPolicy.INDEPENDENT


def attribute(oid: str, value: bytes, tag: int = der.UTF8_STRING) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(tag, value))


def name(*rdns: bytes | list[bytes]) -> bytes:
    """A name from encoded attributes; a list of them makes one multi-valued RDN."""
    sets = (der.encode(der.SET, *(rdn if isinstance(rdn, list) else [rdn])) for rdn in rdns)
    return der.encode(der.SEQUENCE, *sets)


def common_name(value: str) -> bytes:
    return attribute("2.5.4.3", value.encode())


def below(issuer_name: bytes, *rdns: bytes | list[bytes]) -> bytes:
    """The issuer's name with further relative names."""
    return der.encode(
        der.SEQUENCE, der.element(issuer_name, der.SEQUENCE), der.element(name(*rdns), der.SEQUENCE)
    )


def proxy_extension(
    kind: ProxyFormat = RFC,
    policy: ProxyPolicy = FULL,
    path_length: int | None = None,
    *,
    critical: bool = True,
    value: bytes | None = None,
) -> bytes:
    content = encode_proxy_info(ProxyInfo(kind, policy, path_length)) if value is None else value
    return encode_extension(str(kind.value), content, critical=critical)


def algorithm(digest: str) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(SIGNATURES[digest][1]), der.encode(der.NULL))


def utc_time(moment: datetime) -> bytes:
    return der.encode(der.UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())


def signed(body: bytes, signer: rsa.RSAPrivateKey, digest: str, identifier: bytes) -> bytes:
    signature = signer.sign(body, padding.PKCS1v15(), SIGNATURES[digest][0])
    return der.encode(der.SEQUENCE, body, identifier, der.encode(der.BIT_STRING, b"\0", signature))


def certificate(
    *,
    subject: bytes,
    issuer: bytes,
    signer: rsa.RSAPrivateKey,
    key: rsa.RSAPrivateKey | rsa.RSAPublicKey,
    extensions: tuple[bytes, ...] = (),
    serial: int = 77,
    not_before: datetime = NOW - HOUR,
    not_after: datetime = NOW + HOUR,
    digest: str = "sha256",
    outer_digest: str | None = None,
) -> x509.Certificate:
    """Sign a certificate whose fields are DER, given as they shall appear."""
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key
    block = der.encode(0xA3, der.encode(der.SEQUENCE, *extensions)) if extensions else b""
    body = der.encode(
        der.SEQUENCE,
        der.encode(0xA0, der.encode_integer(2)),
        der.encode_integer(serial),
        algorithm(digest),
        issuer,
        der.encode(der.SEQUENCE, utc_time(not_before), utc_time(not_after)),
        subject,
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        block,
    )
    return x509.load_der_x509_certificate(
        signed(body, signer, digest, algorithm(outer_digest or digest))
    )


def revocation_list(issuer: bytes, signer: rsa.RSAPrivateKey, digest: str) -> bytes:
    """An empty revocation list in PEM."""
    body = der.encode(
        der.SEQUENCE,
        der.encode_integer(1),
        algorithm(digest),
        issuer,
        utc_time(NOW - HOUR),
        utc_time(NOW + HOUR),
    )
    made = x509.load_der_x509_crl(signed(body, signer, digest, algorithm(digest)))
    return made.public_bytes(Encoding.PEM)


def proxy(
    issuer: Credential,
    *,
    cn: str = "1",
    subject: bytes | None = None,
    issuer_name: bytes | None = None,
    extensions: tuple[bytes, ...] | None = None,
    signer: rsa.RSAPrivateKey | None = None,
    key: rsa.RSAPrivateKey | None = None,
    not_before: datetime = NOW - HOUR,
    not_after: datetime = NOW + HOUR,
    digest: str = "sha256",
) -> Credential:
    """A proxy below the issuer: an RFC 3820 full one, but for what is said otherwise."""
    owner = issuer.certificate.subject.public_bytes()
    own_key = key or rsa_key(f"proxy {len(issuer.chain)}")
    issuer_key = signer or issuer.private_key
    assert isinstance(issuer_key, rsa.RSAPrivateKey)
    made = certificate(
        subject=below(owner, common_name(cn)) if subject is None else subject,
        issuer=owner if issuer_name is None else issuer_name,
        signer=issuer_key,
        key=own_key,
        extensions=(proxy_extension(),) if extensions is None else extensions,
        not_before=not_before,
        not_after=not_after,
        digest=digest,
    )
    return Credential(made, own_key, issuer.certificates)
