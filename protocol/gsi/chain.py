from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from cryptography import x509
from protocol.gsi.directory import CADirectory
from protocol.gsi.refusal import ChainRefused as ChainRefused, Refusal as Refusal

@dataclass(frozen=True, slots=True)
class Peer:
    chain: tuple[x509.Certificate, ...]
    identity: str
    limited: bool
    eec: x509.Certificate
    expires: datetime

def verify_chain(chain: Sequence[x509.Certificate], directory: CADirectory, *, now: datetime | None = None) -> Peer:
    raise NotImplementedError
