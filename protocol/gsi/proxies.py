"""Proxy certificates: what kind a certificate is, and the ProxyCertInfo extension (2.1, 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from cryptography import x509

from protocol.gsi import der, names
from protocol.gsi.certificate import Facts, examine


class ProxyError(ValueError):
    """The certificate claims to be a proxy and breaks the rules for one."""


class ProxyFormat(Enum):
    """How a certificate says that it is a proxy; the value is the extension's type, if any."""

    RFC = "1.3.6.1.5.5.7.1.14"
    DRAFT = "1.3.6.1.4.1.3536.1.222"
    LEGACY = None


class ProxyPolicy(Enum):
    """What a proxy hands on; the value is the policy language."""

    FULL = "1.3.6.1.5.5.7.21.1"
    LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"
    INDEPENDENT = "1.3.6.1.5.5.7.21.2"
    RESTRICTED = None  # any other language


LEGACY_NAMES = {ProxyPolicy.FULL: "proxy", ProxyPolicy.LIMITED: "limited proxy"}

_EXTENSION_TYPES = {item.value for item in (ProxyFormat.RFC, ProxyFormat.DRAFT)}
_POLICIES = {item.value: item for item in ProxyPolicy if item.value is not None}
_DRAFT_PATH_LENGTH = 0xA1


@dataclass(frozen=True, slots=True)
class ProxyInfo:
    """Format and policy of a proxy, and how many proxies may follow below it (None: any number).

    `octets` is the policy's own text: only restricted policies have one.
    """

    format: ProxyFormat
    policy: ProxyPolicy
    path_length: int | None = None
    octets: bytes | None = None


def encode_proxy_info(info: ProxyInfo) -> bytes:
    """Return the DER value of the ProxyCertInfo extension, RFC or draft.

    Raises ValueError for legacy proxies, which have none, and for restricted policies.
    """
    if info.format is ProxyFormat.LEGACY or info.policy.value is None:
        raise ValueError("only RFC and draft proxies with a known policy can be encoded")
    policy = der.encode(der.SEQUENCE, der.encode_oid(info.policy.value))
    length = b"" if info.path_length is None else der.encode_integer(info.path_length)
    if info.format is ProxyFormat.RFC:
        return der.encode(der.SEQUENCE, length, policy)
    tagged = der.encode(_DRAFT_PATH_LENGTH, length) if length else b""
    return der.encode(der.SEQUENCE, policy, tagged)


def decode_proxy_info(value: bytes, format: ProxyFormat) -> ProxyInfo:  # noqa: A002 - the field's name
    """Read the DER value of a ProxyCertInfo extension of the given format.

    Raises ProxyError.
    """
    try:
        fields = der.members(value)
        length = _take_path_length(fields, format)
        policy, *more = fields
        language, *octets = der.members(policy.encoded)
        oid = der.decode_oid(language)
    except ValueError as error:  # DERError, or too few fields
        raise ProxyError(f"bad ProxyCertInfo: {error}") from error
    if more or len(octets) > 1 or any(item.tag != der.OCTET_STRING for item in octets):
        raise ProxyError("bad ProxyCertInfo: unexpected fields")
    if length is not None and length < 0:
        raise ProxyError("bad ProxyCertInfo: negative path length")
    text = octets[0].content if octets else None
    return ProxyInfo(format, _POLICIES.get(oid, ProxyPolicy.RESTRICTED), length, text)


def _take_path_length(fields: list[der.Element], format: ProxyFormat) -> int | None:  # noqa: A002 - as above
    if format is ProxyFormat.RFC and fields and fields[0].tag == der.INTEGER:
        return der.decode_integer(fields.pop(0))
    if format is ProxyFormat.DRAFT and fields and fields[-1].tag == _DRAFT_PATH_LENGTH:
        (number,) = der.elements(fields.pop().content)
        return der.decode_integer(number)
    return None


@lru_cache(maxsize=512)
def proxy_info(certificate: x509.Certificate) -> ProxyInfo | None:
    """Return what kind of proxy a certificate is; None when it is none.

    Only the certificate itself is looked at, not its issuer.  Raises ProxyError when it has
    several ProxyCertInfo extensions, one that is not critical or not readable, or one in a CA
    certificate; CertificateError when it cannot be read at all.
    """
    facts = examine(certificate)
    found = [item for item in facts.extensions if item.type in _EXTENSION_TYPES]
    if not found:
        return None if facts.is_ca else _legacy(facts)
    if len(found) > 1 or facts.is_ca:
        raise ProxyError("more than one ProxyCertInfo, or one in a CA certificate")
    if not found[0].critical:
        raise ProxyError("ProxyCertInfo is not critical")
    return decode_proxy_info(found[0].value, ProxyFormat(found[0].type))


def _legacy(facts: Facts) -> ProxyInfo | None:
    last = (names.oneline_parts(facts.subject) or ("",))[-1]
    for policy, word in LEGACY_NAMES.items():
        if last == f"CN={word}":
            return ProxyInfo(ProxyFormat.LEGACY, policy)
    return None
