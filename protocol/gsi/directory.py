"""The directory of trusted CAs: certificates, signing policies, CRLs (wire-protocol.md 3.1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cryptography import x509

from protocol.errors import GramError
from protocol.gsi import names
from protocol.gsi.certificate import PARSING_ERRORS, examine
from protocol.gsi.refusal import ChainRefused, Refusal
from protocol.gsi.revocation import MAX_CRL, RevocationList
from protocol.gsi.signing_policy import MAX_POLICY, SigningPolicy
from protocol.tables import ErrorCode

MAX_CERTIFICATE = 1 << 20
MAX_SAME_HASH = 16

_T = TypeVar("_T")


class _Version(NamedTuple):
    """What changes when a file is replaced or rewritten."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def _version(status: os.stat_result) -> _Version:
    return _Version(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


class _Files(Generic[_T]):
    """Parsed files by path, read again when they change.  Safe to use from several threads."""

    def __init__(self, parse: Callable[[bytes], _T], limit: int) -> None:
        self._parse = parse
        self._limit = limit
        self._known: dict[str, tuple[_Version, _T]] = {}

    def get(self, path: str) -> _T | None:
        """Return the parsed file, None when there is none.  Raises OSError, ValueError, ..."""
        try:
            known = self._known.get(path)
            if known is not None and known[0] == _version(os.stat(path)):
                return known[1]
            with open(path, "rb") as file:
                version = _version(os.fstat(file.fileno()))
                data = file.read(self._limit + 1)
        except FileNotFoundError:
            self._known.pop(path, None)
            return None
        if len(data) > self._limit:
            raise ValueError(f"{path} is larger than {self._limit} octets")
        parsed = self._parse(data)
        self._known[path] = version, parsed
        return parsed


class CADirectory:
    """A directory of `<hash>.0`, `<hash>.signing_policy`, `<hash>.r0` files.

    Names are `cryptography` names or their DER.  Files are kept parsed until they change.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._certificates = _Files(_parse_certificates, MAX_CERTIFICATE)
        self._policies = _Files(SigningPolicy.parse, MAX_POLICY)
        self._revocations = _Files(RevocationList.parse, MAX_CRL)

    def issuers(self, name: names.AnyName) -> tuple[x509.Certificate, ...]:
        """Return the trusted certificates with this subject: `<hash>.0`, `.1`, ... without a gap.

        Raises ChainRefused (UNTRUSTED) when one of the files cannot be read.
        """
        wanted = names.canonical(names.name_der(name))
        found: list[x509.Certificate] = []
        for number in range(MAX_SAME_HASH):
            path = self._file(name, str(number))
            try:
                certificates = self._certificates.get(path)
            except (OSError, *PARSING_ERRORS) as error:
                raise ChainRefused(Refusal.UNTRUSTED, f"cannot use {path}: {error}") from error
            if certificates is None:
                break
            found += (
                item for item in certificates if names.canonical(examine(item).subject) == wanted
            )
        return tuple(found)

    def signing_policy(self, name: names.AnyName) -> SigningPolicy:
        """Return the signing policy of a CA.

        Raises ChainRefused (SIGNING_POLICY) when there is none or it does not parse.
        """
        path = self._file(name, "signing_policy")
        try:
            policy = self._policies.get(path)
        except (OSError, *PARSING_ERRORS) as error:
            raise ChainRefused(Refusal.SIGNING_POLICY, f"cannot use {path}: {error}") from error
        if policy is None:
            raise ChainRefused(Refusal.SIGNING_POLICY, f"there is no {path}")
        return policy

    def crl(self, name: names.AnyName) -> RevocationList | None:
        """Return the revocation list of a CA, None when it has none.

        Raises ChainRefused (CRL) when it cannot be read.
        """
        path = self._file(name, "r0")
        try:
            return self._revocations.get(path)
        except (OSError, *PARSING_ERRORS) as error:
            raise ChainRefused(Refusal.CRL, f"cannot use {path}: {error}") from error

    def _file(self, name: names.AnyName, suffix: str) -> str:
        return f"{self.path}/{names.subject_hash(name)}.{suffix}"


def _parse_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(data))


def default_directory(environ: Mapping[str, str]) -> CADirectory:
    """Find the CA directory: the first of the places in wire-protocol.md 3.1 that exists.

    `X509_CERT_DIR`, once set, must exist.  Raises GramError (AUTHORIZATION).
    """
    if environ.get("X509_CERT_DIR"):
        places = [Path(environ["X509_CERT_DIR"])]
    else:
        places = [Path("/etc/grid-security/certificates")]
        if environ.get("HOME"):
            places.insert(0, Path(environ["HOME"]) / ".globus/certificates")
        if environ.get("GLOBUS_LOCATION"):
            places.append(Path(environ["GLOBUS_LOCATION"]) / "share/certificates")
    for place in places:
        if place.is_dir():
            return CADirectory(place)
    tried = ", ".join(map(str, places))
    raise GramError(ErrorCode.AUTHORIZATION, f"there is no directory of trusted CAs: {tried}")
