"""Rules that every certificate of a chain has to keep, whatever its place (2.2, rules 1 and 6).

Key strength is ours, not the reference's: RSA keys below 1024 or above 8192 bits are refused
everywhere, and below 2048 bits in end-entity and CA certificates (short-lived proxies of old
clients have 1024); elliptic curves below 256 bits and DSA are refused; signatures over MD5 or
SHA-1 are refused on all certificates but a trusted root, whose signature proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from protocol.gsi import certificate as cert
from protocol.gsi import names
from protocol.gsi.certificate import CertificateError, Facts
from protocol.gsi.proxies import ProxyError, ProxyFormat
from protocol.gsi.refusal import ChainRefused, Refusal

PROXY_RSA_BITS = 1024
RSA_BITS = 2048
MAX_RSA_BITS = 8192
CURVE_BITS = 256
DIGEST_OCTETS = 28

UNDERSTOOD = frozenset(
    {
        cert.BASIC_CONSTRAINTS,
        cert.KEY_USAGE,
        cert.EXTENDED_KEY_USAGE,
        cert.NETSCAPE_CERT_TYPE,
        cert.SUBJECT_KEY_IDENTIFIER,
        cert.AUTHORITY_KEY_IDENTIFIER,
        ProxyFormat.RFC.value,
        ProxyFormat.DRAFT.value,
    }
)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn errors about single certificates into ChainRefused."""
    try:
        yield
    except CertificateError as error:
        raise ChainRefused(Refusal.MALFORMED, str(error)) from error
    except ProxyError as error:
        raise ChainRefused(Refusal.PROXY_RULE, str(error)) from error
    except names.DNError as error:
        raise ChainRefused(Refusal.NAME, str(error)) from error


def moment(now: datetime | None) -> datetime:
    """Return the time to judge by: `now`, or the real time (UTC)."""
    return datetime.now(UTC) if now is None else now


def check_certificate(
    facts: Facts, now: datetime, *, rsa_bits: int = RSA_BITS, trusted: bool = False
) -> None:
    """Check validity, strength, critical extensions and the name; `trusted` marks a root.

    Raises ChainRefused.
    """
    name = names.oneline(facts.subject)
    if now < facts.not_before:
        raise ChainRefused(
            Refusal.NOT_YET_VALID, f"{name} is valid from {facts.not_before:%FT%TZ}, later than now"
        )
    if now > facts.not_after:
        raise ChainRefused(Refusal.EXPIRED, f"{name} expired at {facts.not_after:%FT%TZ}")
    problem = _weakness(facts, rsa_bits)
    if problem is None and not trusted and (facts.digest_size or DIGEST_OCTETS) < DIGEST_OCTETS:
        problem = "signature over MD5 or SHA-1"
    if problem is not None:
        raise ChainRefused(Refusal.KEY_STRENGTH, f"{name}: {problem}")
    for extension in facts.extensions:
        if extension.critical and extension.type not in UNDERSTOOD:
            raise ChainRefused(
                Refusal.CRITICAL_EXTENSION,
                f"{name}: critical extension {extension.type} is not understood",
            )
    if not trusted:
        names.identity(facts.subject)


def _weakness(facts: Facts, rsa_bits: int) -> str | None:
    match facts.public_key:
        case rsa.RSAPublicKey(key_size=bits):
            if not rsa_bits <= bits <= MAX_RSA_BITS:
                return f"RSA key of {bits} bits, outside {rsa_bits}..{MAX_RSA_BITS}"
        case ec.EllipticCurvePublicKey(key_size=bits):
            if bits < CURVE_BITS:
                return f"elliptic curve of {bits} bits, below {CURVE_BITS}"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return None
        case _:
            return "key type is not accepted"
    return None
