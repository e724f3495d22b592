"""The verdict on a peer's certificate chain: our whole policy, on the chain as the peer sent it.

TLS libraries check some of this and miss other parts (wire-protocol.md 8, P6, P13), so nothing is
taken from them.  In brief, with the module that holds the rule: each certificate by itself
(`checks`), proxies (`proxy_rules`), CAs, signing policy and revocation (`trust`).  extendedKeyUsage
is never looked at (P5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from protocol.gsi.checks import moment, refusing
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxy_rules import check_proxies
from protocol.gsi.refusal import ChainRefused, Refusal
from protocol.gsi.trust import TrustPath

__all__ = ["ChainRefused", "Peer", "Refusal", "verify_chain"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified peer.

    `chain` goes from the leaf to the end-entity certificate `eec` and on through intermediate CAs,
    without the root; `identity` is the effective identity in slash form; `limited` tells whether a
    limited proxy is in the chain; `expires` is the earliest end of validity of the chain and its
    root (UTC).
    """

    chain: tuple[x509.Certificate, ...]
    identity: str
    limited: bool
    eec: x509.Certificate
    expires: datetime


def verify_chain(
    chain: Sequence[x509.Certificate], directory: CADirectory, *, now: datetime | None = None
) -> Peer:
    """Verify a chain, leaf first; the others may come in any order, with or without CAs.

    Raises ChainRefused, whatever is wrong.
    """
    time = moment(now)
    path = check_proxies(chain, now=time)
    with refusing():
        authorities = TrustPath(directory, chain, time).climb(path.eec)
        intermediates = tuple(facts.certificate for facts in authorities[:-1])
        shown = (*path.certificates, *intermediates)
        ends = (item.not_valid_after_utc for item in (*shown, authorities[-1].certificate))
        return Peer(shown, path.identity, path.limited, path.eec.certificate, min(ends))
