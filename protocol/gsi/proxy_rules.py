"""The part of a chain from the leaf to the end-entity certificate (wire-protocol.md 2.2, 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from protocol.gsi import certificate as cert
from protocol.gsi import names
from protocol.gsi.certificate import Facts, KeyUsage, examine, signed_by
from protocol.gsi.checks import PROXY_RSA_BITS, RSA_BITS, check_certificate, moment, refusing
from protocol.gsi.proxies import ProxyFormat, ProxyInfo, ProxyPolicy, proxy_info
from protocol.gsi.refusal import ChainRefused, Refusal

MAX_CERTIFICATES = 64


@dataclass(frozen=True, slots=True)
class ProxyPath:
    """Proxies in order from the leaf, and the end-entity certificate that they stem from."""

    proxies: tuple[tuple[Facts, ProxyInfo], ...]
    eec: Facts

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """Leaf to end-entity certificate."""
        return (*(facts.certificate for facts, _ in self.proxies), self.eec.certificate)

    @property
    def identity(self) -> str:
        """Slash form of the first certificate's subject that is no proxy, or independent (2.4)."""
        for facts, info in self.proxies:
            if info.policy is ProxyPolicy.INDEPENDENT:
                return names.identity(facts.subject)
        return names.identity(self.eec.subject)

    @property
    def limited(self) -> bool:
        """Whether any proxy is limited: stricter than looking at the leaf.

        The two differ only for an independent proxy made from a limited one.
        """
        return any(info.policy is ProxyPolicy.LIMITED for _, info in self.proxies)


def check_proxies(chain: Sequence[x509.Certificate], *, now: datetime | None = None) -> ProxyPath:
    """Find and check the way from the leaf (first) to the end-entity certificate.

    The rest of `chain` may be in any order and may hold CA certificates.  Who issued the
    end-entity certificate is not looked at.  Raises ChainRefused.
    """
    if not chain:
        raise ChainRefused(Refusal.NO_CERTIFICATE, "the peer sent no certificate")
    if len(chain) > MAX_CERTIFICATES:
        raise ChainRefused(Refusal.TOO_LONG, f"more than {MAX_CERTIFICATES} certificates")
    with refusing():
        path = _order(chain, moment(now))
        if path.eec.is_ca:
            raise ChainRefused(
                Refusal.CA_RULE, f"{names.oneline(path.eec.subject)} is a CA, not an end entity"
            )
        _check_links(path)
    return path


def _order(chain: Sequence[x509.Certificate], now: datetime) -> ProxyPath:
    rest = [examine(item) for item in chain]
    current = rest.pop(0)
    proxies = []
    while (info := proxy_info(current.certificate)) is not None:
        check_certificate(current, now, rsa_bits=PROXY_RSA_BITS)
        proxies.append((current, info))
        current = _issuer(current, rest)
        rest.remove(current)
    check_certificate(current, now, rsa_bits=RSA_BITS)
    return ProxyPath(tuple(proxies), current)


def _issuer(proxy: Facts, candidates: Sequence[Facts]) -> Facts:
    # Names are compared as text: some proxy makers re-encode strings in another type.
    wanted = names.oneline_parts(proxy.issuer)
    named = [item for item in candidates if names.oneline_parts(item.subject) == wanted]
    if not named:
        raise ChainRefused(
            Refusal.PROXY_RULE, f"issuer of {names.oneline(proxy.subject)} is not in the chain"
        )
    for item in named:
        if signed_by(proxy.certificate, item.certificate):
            return item
    raise ChainRefused(
        Refusal.SIGNATURE, f"{names.oneline(proxy.subject)} is not signed by its issuer"
    )


def _check_links(path: ProxyPath) -> None:
    links: list[tuple[Facts, ProxyInfo | None]] = [*path.proxies, (path.eec, None)]
    for below, (proxy, info) in enumerate(path.proxies):
        issuer, above = links[below + 1]
        problem = (
            _name_problem(proxy, issuer)
            or _policy_problem(info, above)
            or _issuer_problem(info, issuer)
            or _extension_problem(proxy, info)
        )
        if problem is None and info.path_length is not None and below > info.path_length:
            problem = f"path length {info.path_length} with {below} proxies below"
        if problem is not None:
            raise ChainRefused(
                Refusal.PROXY_RULE, f"proxy {names.oneline(proxy.subject)}: {problem}"
            )


def _name_problem(proxy: Facts, issuer: Facts) -> str | None:
    last = names.relative_names(proxy.subject)[-1]
    if len(last) != 1 or last[0].type != names.COMMON_NAME:
        return "subject does not end in a single CN"
    if names.oneline_parts(proxy.subject)[:-1] != names.oneline_parts(issuer.subject):
        return "subject is not the issuer's subject and one CN"
    return None


def _policy_problem(info: ProxyInfo, above: ProxyInfo | None) -> str | None:
    if info.policy is ProxyPolicy.RESTRICTED or info.octets is not None:
        return "its policy is not understood"
    if above is None:
        return None
    if above.format is not info.format:
        return "formats of proxies are mixed"
    if above.policy is ProxyPolicy.LIMITED and info.policy is ProxyPolicy.FULL:
        return "full proxy made from a limited one"
    return None


def _issuer_problem(info: ProxyInfo, issuer: Facts) -> str | None:
    usage = issuer.key_usage
    if usage is None:
        return None
    if not usage & KeyUsage.DIGITAL_SIGNATURE:
        return "the issuer's keyUsage lacks digitalSignature"
    if info.format is ProxyFormat.LEGACY and not usage & KeyUsage.KEY_CERT_SIGN:
        return "legacy proxy, and the issuer's keyUsage lacks keyCertSign"
    return None


def _extension_problem(proxy: Facts, info: ProxyInfo) -> str | None:
    # RFC 3820, 3.5 and 3.6; OpenSSL refuses these as well.
    alternative = proxy.extension(cert.SUBJECT_ALTERNATIVE_NAME) or proxy.extension(
        cert.ISSUER_ALTERNATIVE_NAME
    )
    if alternative is not None and info.format is not ProxyFormat.LEGACY:
        return "a proxy has no alternative names"
    return None
