"""Contact strings: how people write the address of a gatekeeper or a job (wire-protocol.md §4)."""

import re
from dataclasses import dataclass
from typing import NoReturn, Self

from protocol.errors import GramError
from protocol.tables import DEFAULT_PORT, DEFAULT_SERVICE, ErrorCode

_HOST = r"[^\s:/\[\]@\x00-\x1f\x7f]+"
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f]+")
_JOB_SUBJECT = re.compile(r"[^:\x00-\x1f\x7f]+")
_SERVICE = re.compile(r"(?:[^\s:/@\x00-\x1f\x7f][^\s:@\x00-\x1f\x7f]*)?")
_PATH = re.compile(r"/[^\s:\x00-\x1f\x7f]*")
_GATEKEEPER = re.compile(
    rf"({_HOST}) (?: :([0-9]{{1,5}})? | (?=/|\Z) ) (?: /([^:]*) )? (?: :(.*) )?",
    re.VERBOSE | re.DOTALL,
)
_JOB = re.compile(
    rf"https://(?:({_HOST})|\[([0-9a-f:.]+)\]):([0-9]{{1,5}})(/.*)", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class GatekeeperContact:
    """Where a gatekeeper is, and which of its services (§4.1).

    `subject` is the expected name of the server, or None: then its host name counts. `service`
    may be empty, as in `host:port/`. Raises GramError(BAD_GATEKEEPER_CONTACT).
    """

    host: str
    port: int = DEFAULT_PORT
    service: str = DEFAULT_SERVICE
    subject: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(_HOST, self.host) or not 0 < self.port < 65536:
            _bad_gatekeeper_contact(f"{self.host}:{self.port}")
        if not _SERVICE.fullmatch(self.service):
            _bad_gatekeeper_contact(self.service)
        if self.subject is not None and not _SUBJECT.fullmatch(self.subject):
            _bad_gatekeeper_contact(self.subject)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Understand `host[:[port]][/service][:subject]`; raises GramError as the class does."""
        match = _GATEKEEPER.fullmatch(text)
        if match is None:
            _bad_gatekeeper_contact(text)
        host, port, service, subject = match.groups()
        return cls(
            host,
            int(port) if port else DEFAULT_PORT,
            DEFAULT_SERVICE if service is None else service,
            subject or None,
        )

    def __str__(self) -> str:
        service = "" if self.service == DEFAULT_SERVICE else f"/{self.service}"
        subject = "" if self.subject is None else f":{self.subject}"
        return f"{self.host}:{self.port}{service}{subject}"


@dataclass(frozen=True, slots=True)
class JobContact:
    """Where a job's manager is, and which job (§4.2, §5.11).

    `path` is what requests ask for; `subject` the expected name of the server, or None: then it is
    the client's own. In the URL the subject follows the path after a colon. Raises
    GramError(INVALID_JOB_CONTACT).
    """

    host: str
    port: int
    path: str
    subject: str | None = None

    def __post_init__(self) -> None:
        address = f"[{self.host}]" if ":" in self.host else self.host
        url = f"https://{address}:{self.port}{self.path}"
        if not _JOB.fullmatch(url) or not 0 < self.port < 65536:
            _invalid_job_contact(url)
        if not _PATH.fullmatch(self.path):
            _invalid_job_contact(self.path)
        if self.subject is not None and not _JOB_SUBJECT.fullmatch(self.subject):
            _invalid_job_contact(self.subject)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Understand `https://host:port/path/` or `…/path/:subject`; raises as the class does."""
        match = _JOB.fullmatch(url)
        if match is None:
            _invalid_job_contact(url)
        host, address, port, rest = match.groups()
        path, _, subject = rest.rpartition(":") if ":" in rest else (rest, "", "")
        return cls(host or address, int(port), path, subject or None)

    @property
    def url(self) -> str:
        """The contact as clients hold it."""
        address = f"[{self.host}]" if ":" in self.host else self.host
        subject = "" if self.subject is None else f":{self.subject}"
        return f"https://{address}:{self.port}{self.path}{subject}"

    def __str__(self) -> str:
        return self.url


def _bad_gatekeeper_contact(text: str) -> NoReturn:
    raise GramError(ErrorCode.BAD_GATEKEEPER_CONTACT, f"not a gatekeeper contact: {text[:200]!r}")


def _invalid_job_contact(text: str) -> NoReturn:
    raise GramError(ErrorCode.INVALID_JOB_CONTACT, f"not a job contact: {text[:200]!r}")
