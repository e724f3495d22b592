"""Credentials: a certificate, its private key, and the issuers to show with it."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from protocol.errors import GramError
from protocol.gsi import names
from protocol.gsi.certificate import PARSING_ERRORS
from protocol.gsi.proxies import ProxyPolicy, proxy_info
from protocol.tables import ErrorCode

PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

MAX_FILE = 1 << 20

_PRIVATE_MODES = 0o600
_PUBLIC_MODES = 0o644
_KEY_BLOCK = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )?PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)


class CredentialError(GramError):
    """A credential cannot be used (code AUTHORIZATION) or has expired (USER_PROXY_EXPIRED)."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.AUTHORIZATION) -> None:
        super().__init__(code, message)


class PassphraseError(CredentialError):
    """The private key is encrypted and no pass phrase was given."""


@dataclass(frozen=True, slots=True, eq=False)
class Credential:
    """A leaf certificate, its private key, and its issuers from the next one upwards."""

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @classmethod
    def from_pem(cls, data: bytes) -> Credential:
        """Read certificate, key and chain from PEM.  Raises CredentialError."""
        return _assemble(_certificates(data), _private_key(data, None))

    @classmethod
    def load(cls, path: str | Path) -> Credential:
        """Read a proxy file, after the checks on private files (wire-protocol.md 3.4).

        Raises CredentialError when the file is missing, not regular, empty, too large, not owned by
        the effective user, or has mode bits beyond 0600.
        """
        return cls.from_pem(_read(path, _PRIVATE_MODES))

    @classmethod
    def load_pair(
        cls, certificate: str | Path, key: str | Path, *, passphrase: bytes | None = None
    ) -> Credential:
        """Read a certificate file (0644 at most; may hold a chain) and a key file (0600 at most).

        Raises CredentialError as `load` does; PassphraseError when the key is encrypted.
        """
        certificates = _certificates(_read(certificate, _PUBLIC_MODES))
        return _assemble(certificates, _private_key(_read(key, _PRIVATE_MODES), passphrase))

    @classmethod
    def load_pkcs12(cls, path: str | Path, *, passphrase: bytes | None = None) -> Credential:
        """Read a PKCS#12 file (0600 at most).  Raises as `load_pair` does."""
        data = _read(path, _PRIVATE_MODES)
        try:
            store = pkcs12.load_pkcs12(data, passphrase)
        except PARSING_ERRORS as error:
            if passphrase is None:
                raise PassphraseError(f"{path} is encrypted or no PKCS#12 file") from error
            raise CredentialError(f"{path}: {error}") from error
        if store.cert is None:
            raise CredentialError(f"{path} holds no certificate")
        extra = [item.certificate for item in store.additional_certs]
        return _assemble([store.cert.certificate, *extra], store.key)

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The leaf and its chain."""
        return (self.certificate, *self.chain)

    @property
    def identity(self) -> str:
        """The effective identity (2.4) in slash form.

        It is what the certificates claim; only `verify_chain` proves it.  Raises CredentialError.
        """
        try:
            for item in self.certificates:
                info = proxy_info(item)
                if info is None or info.policy is ProxyPolicy.INDEPENDENT:
                    return names.identity(item.subject)
        except ValueError as error:
            raise CredentialError(f"credential has no usable identity: {error}") from error
        raise CredentialError("credential has no end-entity certificate")

    @property
    def expires(self) -> datetime:
        """The earliest end of validity among all its certificates (UTC)."""
        return min(item.not_valid_after_utc for item in self.certificates)

    def pem(self) -> bytes:
        """Return the proxy file: certificate, private key (PKCS#8), chain."""
        return b"".join(
            (
                self.certificate.public_bytes(Encoding.PEM),
                key_pem(self.private_key),
                *(item.public_bytes(Encoding.PEM) for item in self.chain),
            )
        )


def key_pem(key: PrivateKey) -> bytes:
    """Return the key in unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certificates(data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except PARSING_ERRORS as error:
        raise CredentialError(f"no usable certificate: {error}") from error


def _private_key(data: bytes, passphrase: bytes | None) -> PrivateKeyTypes:
    block = _KEY_BLOCK.search(data)
    if block is None:
        raise CredentialError("no private key")
    encrypted = block[1] == b"ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in block[0]
    if encrypted and passphrase is None:
        raise PassphraseError("the private key is encrypted")
    try:
        return load_pem_private_key(block[0], passphrase if encrypted else None)
    except PARSING_ERRORS:
        # The library's text is not passed on: it is about the key.
        raise CredentialError("private key unreadable, or wrong pass phrase") from None


def _assemble(certificates: list[x509.Certificate], key: PrivateKeyTypes | None) -> Credential:
    if not isinstance(
        key,
        rsa.RSAPrivateKey
        | ec.EllipticCurvePrivateKey
        | ed25519.Ed25519PrivateKey
        | ed448.Ed448PrivateKey,
    ):
        raise CredentialError("the private key has a type that is not supported")
    leaf, *chain = certificates
    if _public_der(leaf) != key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise CredentialError("private key and certificate do not belong together")
    return Credential(leaf, key, tuple(chain))


def _public_der(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    except PARSING_ERRORS as error:
        raise CredentialError(f"the certificate's key cannot be read: {error}") from error


def _read(path: str | Path, modes: int) -> bytes:
    """Read a file of ours; `modes` are the permission bits that it may have at most."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CredentialError(f"cannot open {path}: {error.strerror}") from error
    try:
        _check_status(path, os.fstat(descriptor), modes)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if not 0 < len(data) <= MAX_FILE:
        raise CredentialError(f"{path} is empty or larger than {MAX_FILE} octets")
    return data


def _check_status(path: str | Path, status: os.stat_result, modes: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise CredentialError(f"{path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise CredentialError(
            f"{path} is owned by user {status.st_uid}, not by user {os.geteuid()}"
        )
    if mode & ~modes:
        raise CredentialError(f"{path} has mode {mode:04o}; at most {modes:04o} is allowed")


def write_private(path: str | Path, data: bytes) -> None:
    """Write a file that is 0600 from its creation, and put it in the place of `path` at once.

    Raises OSError.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def find_credential(
    environ: Mapping[str, str],
    *,
    now: datetime | None = None,
    system: Path = Path("/etc"),
    temporary: Path = Path("/tmp"),  # noqa: S108 - the agreed place; the open file's owner is checked
) -> Credential:
    """Find the credential that GSI programs would take: host, then proxy, then user (3.4).

    An explicit setting that does not work is an error, as is an expired proxy: nothing further is
    tried.  Raises CredentialError, PassphraseError.
    """
    certificate, key = environ.get("X509_USER_CERT"), environ.get("X509_USER_KEY")
    if certificate and key:
        return Credential.load_pair(certificate, key)
    home = Path(environ["HOME"]) / ".globus" if environ.get("HOME") else None
    for directory in _host_directories(environ, home, system):
        pair = directory / "hostcert.pem", directory / "hostkey.pem"
        if all(_usable(item) for item in pair):
            return Credential.load_pair(*pair)
    explicit = environ.get("X509_USER_PROXY")
    proxy = explicit or str(temporary / f"x509up_u{os.geteuid()}")
    if explicit or os.path.lexists(proxy):
        return _unexpired(Credential.load(proxy), proxy, now)
    return _user_credential(certificate, key, home)


def _host_directories(environ: Mapping[str, str], home: Path | None, system: Path) -> list[Path]:
    found = [system / "grid-security"]
    if environ.get("GLOBUS_LOCATION"):
        found.append(Path(environ["GLOBUS_LOCATION"]) / "etc")
    if home is not None:
        found.append(home)
    return found


def _usable(path: Path) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid() and os.access(path, os.R_OK)
    except OSError:
        return False


def _unexpired(credential: Credential, path: str, now: datetime | None) -> Credential:
    if credential.expires <= (now or datetime.now(UTC)):
        raise CredentialError(
            f"the proxy {path} expired at {credential.expires:%FT%TZ}", ErrorCode.USER_PROXY_EXPIRED
        )
    return credential


def _user_credential(certificate: str | None, key: str | None, home: Path | None) -> Credential:
    if home is None:
        raise CredentialError("no credential found: no proxy, and HOME is not set")
    pair = Path(certificate or home / "usercert.pem"), Path(key or home / "userkey.pem")
    if pair[0].exists() or certificate or key:
        return Credential.load_pair(*pair)
    store = home / "usercred.p12"
    if store.exists():
        return Credential.load_pkcs12(store)
    raise CredentialError(
        f"no credential found: no proxy, no {pair[0]}, no {store}; make one with `gram proxy init`"
    )
