"""Certificate revocation lists of CAs (wire-protocol.md 3.3).

A list that is present must be good: signed by the CA, inside its validity, free of critical
extensions (which make it partial or indirect).  Otherwise no certificate of that CA is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509

from protocol.gsi import names
from protocol.gsi.certificate import PARSING_ERRORS, Facts, signature_is_valid
from protocol.gsi.checks import DIGEST_OCTETS
from protocol.gsi.refusal import ChainRefused, Refusal

MAX_CRL = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """One parsed list: revoked serial numbers, issuer (DER name), validity in UTC."""

    crl: x509.CertificateRevocationList
    serials: frozenset[int]
    issuer: bytes
    last_update: datetime
    next_update: datetime | None
    problem: str | None

    @classmethod
    def parse(cls, data: bytes) -> RevocationList:
        """Read a PEM file.  Raises ValueError."""
        try:
            crl = x509.load_pem_x509_crl(data)
            digest = crl.signature_hash_algorithm
            problem = None
            if digest is not None and digest.digest_size < DIGEST_OCTETS:
                problem = "is signed over MD5 or SHA-1"
            elif any(item.critical for item in crl.extensions):
                problem = "has a critical extension, so it is not a complete list"
            return cls(
                crl,
                frozenset(item.serial_number for item in crl),
                names.name_der(crl.issuer),
                crl.last_update_utc,
                crl.next_update_utc,
                problem,
            )
        except PARSING_ERRORS as error:
            raise ValueError(f"unusable CRL: {error}") from error

    def check(self, subject: Facts, issuer: Facts, now: datetime) -> None:
        """Check that `issuer`'s list is good and does not list `subject`.  Raises ChainRefused."""
        ca = names.oneline(issuer.subject)
        problem = self.problem
        if names.canonical(self.issuer) != names.canonical(issuer.subject):
            problem = "is of another CA"
        elif problem is None and not _signed(self, issuer.certificate):
            problem = "is not signed by the CA"
        elif now < self.last_update:
            problem = f"is valid from {self.last_update:%FT%TZ}, later than now"
        elif self.next_update is not None and now > self.next_update:
            problem = f"expired at {self.next_update:%FT%TZ}"
        if problem is not None:
            raise ChainRefused(Refusal.CRL, f"the CRL of {ca} {problem}")
        if subject.serial in self.serials:
            raise ChainRefused(
                Refusal.REVOKED, f"{names.oneline(subject.subject)} was revoked by {ca}"
            )


@lru_cache(maxsize=64)
def _signed(revocations: RevocationList, issuer: x509.Certificate) -> bool:
    crl = revocations.crl
    return signature_is_valid(crl, crl.tbs_certlist_bytes, issuer)
