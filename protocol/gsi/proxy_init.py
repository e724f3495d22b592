"""Make a proxy for oneself, as grid-proxy-init does (wire-protocol.md 2.3)."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.gsi.checks import moment
from protocol.gsi.credential import Credential, CredentialError
from protocol.gsi.delegation import DelegationKey, generate_key
from protocol.gsi.issue import BACKDATE, issue_proxy
from protocol.gsi.proxies import ProxyFormat, ProxyInfo, ProxyPolicy
from protocol.gsi.proxy_rules import check_proxies
from protocol.gsi.refusal import ChainRefused

DEFAULT_LIFETIME = timedelta(hours=12)


def create_proxy(
    issuer: Credential,
    *,
    lifetime: timedelta = DEFAULT_LIFETIME,
    policy: ProxyPolicy = ProxyPolicy.FULL,
    path_length: int | None = None,
    format: ProxyFormat = ProxyFormat.RFC,  # noqa: A002 - the field's name
    bits: int = 2048,
    key: DelegationKey | None = None,
    now: datetime | None = None,
) -> Credential:
    """Make a key (unless given) and a proxy certificate for it below the issuer's.

    Valid from five minutes ago for `lifetime`, but no longer than the issuer.  The chain holds the
    issuer's certificates.  Raises CredentialError when the issuer cannot sign such a proxy or the
    result would break a rule of 2.2; ValueError for a policy or path length that the format lacks.
    """
    if not isinstance(issuer.private_key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CredentialError("a credential with this type of key cannot sign proxies")
    if format is ProxyFormat.LEGACY and (
        path_length is not None or policy not in (ProxyPolicy.FULL, ProxyPolicy.LIMITED)
    ):
        raise ValueError("legacy proxies are full or limited and have no path length")
    key = key or generate_key(bits)
    start = moment(now)
    proxy = issue_proxy(
        issuer.certificate,
        issuer.private_key,
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ProxyInfo(format, policy, path_length),
        not_before=start - BACKDATE,
        not_after=min(start + lifetime, issuer.certificate.not_valid_after_utc),
    )
    credential = Credential(proxy, key, issuer.certificates)
    try:
        check_proxies(credential.certificates, now=start)
    except ChainRefused as error:
        raise CredentialError(f"cannot make this proxy: {error.message}") from error
    return credential
