"""What an authorisation decision is made of: the request, the refusal, who names an account."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AuthorisationRequest:
    """What a decision may depend on.

    `identity` is the client's name in slash form, `requested_user` the account it asks for (bytes
    that are not UTF-8 are surrogate escapes), `address` the client's, `chain_pem` its certificates.
    """

    identity: str
    service: str
    requested_user: str | None
    address: str
    chain_pem: bytes | None = field(default=None, repr=False)


class Reason(Enum):
    """Why a request is denied; the value is stable and fit for logs and metrics."""

    NOT_MAPPED = "not-mapped"
    MAP_UNREADABLE = "map-unreadable"
    BAD_REQUEST = "bad-requested-account"
    CALLOUT = "callout"
    OTHER_ACCOUNT = "other-account"
    TIMEOUT = "timeout"
    UNKNOWN_ACCOUNT = "unknown-account"
    ROOT = "root"
    SYSTEM_ACCOUNT = "system-account"
    FOREIGN_ACCOUNT = "foreign-account"
    NO_LOGIN = "no-login"
    MALFUNCTION = "malfunction"

    @property
    def http_status(self) -> int:
        """What the client is answered (14): 500 when not the client is at fault."""
        return 500 if self in _OUR_TROUBLE else 403


_OUR_TROUBLE = {
    Reason.UNKNOWN_ACCOUNT,
    Reason.ROOT,
    Reason.SYSTEM_ACCOUNT,
    Reason.FOREIGN_ACCOUNT,
    Reason.NO_LOGIN,
    Reason.MALFUNCTION,
}


class Denied(Exception):  # noqa: N818 - a verdict, not a malfunction
    """The request may not use an account; `text` is for the log, never for the client."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    @property
    def http_status(self) -> int:
        """What the client is answered: 403 or 500."""
        return self.reason.http_status

    def __str__(self) -> str:
        return self.text


class Mapper(Protocol):
    """Names an account; the answer is checked by who asked."""

    async def map(self, request: AuthorisationRequest) -> str:
        """Return the account, the requested one if there is one.  Raises Denied."""
