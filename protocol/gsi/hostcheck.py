"""Is the verified peer the host, or the subject, that a contact names? (wire-protocol.md 4.1)

Mode STRICT_RFC2818 of the reference: names are taken as typed, without any DNS look-up.
"""

from __future__ import annotations

import re

from cryptography import x509

from protocol.errors import GramError
from protocol.gsi import certificate as cert
from protocol.gsi import der, names
from protocol.gsi.certificate import examine
from protocol.gsi.chain import Peer
from protocol.tables import ErrorCode

_DNS_NAME_TAG = 0x82
_HOST_SERVICE = "host"
_HIDDEN_ATTRIBUTE = re.compile(r"\\[/+][^/+=]*=")


class NameMismatch(GramError):  # noqa: N818 - a verdict, like ChainRefused
    """The peer is not the one that was asked for (code AUTHORIZATION)."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.AUTHORIZATION, message)


def check_host(peer: Peer, host: str, subject: str | None = None) -> None:
    r"""Check a gatekeeper's name.

    With a subject (slash form without `\/` escapes), the identity must equal it exactly; a subject
    `service@host` stands for that service on that host.  Otherwise the host as typed must match a
    dNSName of the certificate or, without any, its first CN, `host` or `service/host`.  A dNSName
    and a CN without service count as the service `host`.  Raises NameMismatch.
    """
    if subject is not None and ("@" not in subject or "CN=" in subject):
        if subject not in _written_forms(peer.identity):
            raise NameMismatch(f"the peer is {peer.identity}, not {subject}")
        return
    service = None
    if subject is not None:
        service, _, host = subject.lower().partition("@")
    if peer.identity != names.identity(examine(peer.eec).subject):
        raise NameMismatch(f"the peer is an independent proxy, {peer.identity}, and no host")
    if not _certificate_matches(peer.eec, service, host):
        raise NameMismatch(f"the certificate of {peer.identity} does not name the host {host}")


def _written_forms(identity: str) -> tuple[str, ...]:
    """Return how an identity may be written in a contact: as it is, and without escapes.

    A value such as `x/CN=y` would look like another name without its escape, so it needs it.
    """
    if _HIDDEN_ATTRIBUTE.search(identity):
        return (identity,)
    return (identity, identity.replace("\\/", "/").replace("\\+", "+"))


def _certificate_matches(certificate: x509.Certificate, service: str | None, host: str) -> bool:
    wanted = host.lower()
    services: tuple[str | None, str] = (None, _HOST_SERVICE)
    dns_names = _dns_names(certificate)
    if dns_names:
        return service in services and any(
            _pattern_matches(pattern.lower(), wanted) for pattern in dns_names
        )
    common_name = _first_common_name(certificate)
    if common_name is None:
        return False
    offered, slash, name = common_name.lower().partition("/")
    if slash:
        services = (None, offered)
    else:
        name = offered
    return name == wanted and service in services


def _dns_names(certificate: x509.Certificate) -> list[str]:
    extension = examine(certificate).extension(cert.SUBJECT_ALTERNATIVE_NAME)
    if extension is None:
        return []
    try:
        items = der.members(extension.value)
    except der.DERError as error:
        raise NameMismatch(f"the peer's subjectAltName cannot be read: {error}") from error
    return [item.content.decode("latin-1") for item in items if item.tag == _DNS_NAME_TAG]


def _first_common_name(certificate: x509.Certificate) -> str | None:
    for rdn in names.relative_names(examine(certificate).subject):
        for attribute in rdn:
            if attribute.type == names.COMMON_NAME:
                return attribute.value.decode("latin-1")
    return None


def _pattern_matches(pattern: str, host: str) -> bool:
    """Match a dNSName; `*` ending its first label stands for the rest of that label, if any."""
    label, dot, domain = pattern.partition(".")
    if not label.endswith("*"):
        return pattern == host
    host_label, host_dot, host_domain = host.partition(".")
    prefix = label[:-1]
    return (dot, domain) == (host_dot, host_domain) and host_label.startswith(prefix)
