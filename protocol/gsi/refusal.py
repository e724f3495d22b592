"""Why a certificate chain was refused."""

from __future__ import annotations

from enum import Enum

from protocol.errors import GramError
from protocol.tables import ErrorCode


class Refusal(Enum):
    """The rule that a certificate chain broke; the value is stable and fit for logs."""

    NO_CERTIFICATE = "no-certificate"
    MALFORMED = "malformed"
    TOO_LONG = "too-long"
    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    REVOKED = "revoked"
    CRL = "crl"
    SIGNING_POLICY = "signing-policy"
    SIGNATURE = "signature"
    PROXY_RULE = "proxy-rule"
    CA_RULE = "ca-rule"
    KEY_STRENGTH = "key-strength"
    CRITICAL_EXTENSION = "critical-extension"
    NAME = "name"


class ChainRefused(GramError):  # noqa: N818 - a verdict; the reason says what is wrong
    """A peer's certificate chain breaks a rule; `reason` says which, `message` tells people."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(ErrorCode.AUTHORIZATION, message)
        self.reason = reason
