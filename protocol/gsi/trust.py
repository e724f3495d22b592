"""The part of a chain from the end-entity certificate up to a trusted root.

Every link is checked: signature, CA rights, path length, signing policy, revocation (2.2, 3.2,
3.3).  CA certificates come from the directory or, when they are not roots, from the peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from protocol.gsi import names
from protocol.gsi.certificate import Facts, KeyUsage, examine, signed_by
from protocol.gsi.checks import check_certificate, refusing
from protocol.gsi.directory import CADirectory
from protocol.gsi.refusal import ChainRefused, Refusal
from protocol.gsi.signing_policy import PolicyError

MAX_TRIES = 32


@dataclass
class TrustPath:
    """One search for a trusted root.

    Several CAs can share a name, so branches are tried in turn, MAX_TRIES in all.
    """

    directory: CADirectory
    offered: Sequence[x509.Certificate]
    now: datetime
    tries: int = field(default=0, init=False)

    def climb(self, subject: Facts, below: int = 0) -> tuple[Facts, ...]:
        """Return the CAs above `subject`, root last.

        `below` counts the intermediate CAs passed so far that are not self-issued.  Raises
        ChainRefused with the first reason met.
        """
        refusal: ChainRefused | None = None
        for candidate, trusted in self._candidates(subject):
            self.tries += 1
            if self.tries > MAX_TRIES:
                raise ChainRefused(Refusal.TOO_LONG, f"more than {MAX_TRIES} CA certificates")
            try:
                with refusing():
                    root = self._check_link(subject, candidate, below, trusted=trusted)
                    if root:
                        return (candidate,)
                    passed = below + (not candidate.self_issued)
                    return (candidate, *self.climb(candidate, passed))
            except ChainRefused as error:
                refusal = refusal or error
        raise refusal or self._untrusted(subject)

    def _candidates(self, subject: Facts) -> list[tuple[Facts, bool]]:
        """Return possible issuers, each with whether the directory vouches for it."""
        wanted = names.canonical(subject.issuer)
        found = [(examine(item), True) for item in self.directory.issuers(subject.issuer)]
        known = {facts.certificate for facts, _ in found} | {subject.certificate}
        for item in self.offered:
            facts = examine(item)
            if item not in known and names.canonical(facts.subject) == wanted:
                found.append((facts, False))
        return found

    def _check_link(self, subject: Facts, issuer: Facts, below: int, *, trusted: bool) -> bool:
        """Check all rules between a certificate and its issuer; tell whether that is a root."""
        if not signed_by(subject.certificate, issuer.certificate):
            raise ChainRefused(
                Refusal.SIGNATURE,
                f"{names.oneline(subject.subject)} is not signed by "
                f"{names.oneline(issuer.subject)}",
            )
        self_signed = issuer.self_issued and signed_by(issuer.certificate, issuer.certificate)
        if self_signed and not trusted:
            raise self._untrusted(subject)
        check_certificate(issuer, self.now, trusted=self_signed)
        _check_ca(issuer, below)
        self._check_policy(subject, issuer)
        self._check_revocation(subject, issuer)
        if self_signed:
            self._check_revocation(issuer, issuer)
        return self_signed

    def _check_policy(self, subject: Facts, issuer: Facts) -> None:
        policy = self.directory.signing_policy(issuer.subject)
        try:
            policy.check(names.oneline(issuer.subject), names.oneline(subject.subject))
        except PolicyError as error:
            raise ChainRefused(
                Refusal.SIGNING_POLICY,
                f"signing policy of {names.oneline(issuer.subject)}: {error}",
            ) from error

    def _check_revocation(self, subject: Facts, issuer: Facts) -> None:
        revocations = self.directory.crl(issuer.subject)
        if revocations is not None:
            revocations.check(subject, issuer, self.now)

    def _untrusted(self, subject: Facts) -> ChainRefused:
        return ChainRefused(
            Refusal.UNTRUSTED,
            f"no trusted certificate of {names.oneline(subject.issuer)}: no usable "
            f"{names.subject_hash(subject.issuer)}.0 in {self.directory.path}",
        )


def _check_ca(issuer: Facts, below: int) -> None:
    problem = None
    if not issuer.is_ca:
        problem = "is not a CA (basicConstraints)"
    elif issuer.key_usage is not None and not issuer.key_usage & KeyUsage.KEY_CERT_SIGN:
        problem = "may not sign certificates (keyUsage)"
    elif issuer.path_length is not None and below > issuer.path_length:
        problem = f"has path length {issuer.path_length} and {below} CAs below it"
    if problem is not None:
        raise ChainRefused(Refusal.CA_RULE, f"{names.oneline(issuer.subject)} {problem}")
