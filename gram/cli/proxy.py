"""`gram proxy`: make, show and destroy the user's proxy, as grid-proxy-init and friends do."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gram.cli.report import Json, Value, reporting, show, show_json

if TYPE_CHECKING:
    from protocol.gsi.credential import Credential

app = typer.Typer(help="Make, show and destroy your proxy.", no_args_is_help=True)

EXIT_EXPIRED = 1


class Format(Enum):
    """Proxy formats (wire-protocol.md 2.1)."""

    RFC = "rfc"
    DRAFT = "draft"
    LEGACY = "legacy"


def default_path() -> Path:
    """Return where the proxy belongs: $X509_USER_PROXY, else /tmp/x509up_u<uid>."""
    return Path(os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.geteuid()}")  # noqa: S108 - the agreed place


@app.command()
def init(
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--cert",
            metavar="FILE",
            help="Certificate (default: $X509_USER_CERT, ~/.globus/usercert.pem).",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="Key (default: $X509_USER_KEY, ~/.globus/userkey.pem)."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Proxy to write (default: $X509_USER_PROXY, /tmp/x509up_u<uid>)."
        ),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=100000, help="Lifetime.")] = 12,
    bits: Annotated[int, typer.Option(min=1024, max=8192, help="Size of the new key.")] = 2048,
    limited: Annotated[
        bool, typer.Option("--limited", help="A proxy that may not start jobs.")
    ] = False,
    independent: Annotated[
        bool, typer.Option("--independent", help="A proxy with an identity of its own.")
    ] = False,
    path_length: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="How many proxies may follow below it.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Kind of proxy.")] = Format.RFC,
    as_json: Json = False,
) -> None:
    """Make a proxy from your certificate and key; asks for the pass phrase of an encrypted key."""
    from protocol.gsi.credential import write_private
    from protocol.gsi.proxies import ProxyFormat, ProxyPolicy
    from protocol.gsi.proxy_init import create_proxy

    if limited and independent:
        raise typer.BadParameter("--limited and --independent exclude each other")
    policy = ProxyPolicy.LIMITED if limited else ProxyPolicy.FULL
    policy = ProxyPolicy.INDEPENDENT if independent else policy
    target = out or default_path()
    with reporting(as_json=as_json):
        issuer = _load_user(certificate, key)
        try:
            proxy = create_proxy(
                issuer,
                lifetime=timedelta(hours=hours),
                policy=policy,
                path_length=path_length,
                format=ProxyFormat[format_.name],
                bits=bits,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        write_private(target, proxy.pem())
        _show(proxy, target, as_json=as_json)


def _load_user(certificate: Path | None, key: Path | None) -> Credential:
    from protocol.gsi.credential import Credential, PassphraseError

    home = Path.home() / ".globus"
    certificate = certificate or Path(os.environ.get("X509_USER_CERT") or home / "usercert.pem")
    key = key or Path(os.environ.get("X509_USER_KEY") or home / "userkey.pem")
    store = home / "usercred.p12"

    def load(phrase: bytes | None) -> Credential:
        if not certificate.exists() and store.exists():
            return Credential.load_pkcs12(store, passphrase=phrase)
        return Credential.load_pair(certificate, key, passphrase=phrase)

    try:
        return load(None)
    except PassphraseError:
        phrase = str(typer.prompt("Pass phrase of the private key", hide_input=True, err=True))
        return load(phrase.encode())


@app.command()
def info(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Another proxy.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show your proxy.  Exits with 1 when it has expired, with 7 when there is none."""
    from gram.client.errors import CredentialProblem
    from protocol.gsi.credential import Credential, CredentialError

    target = file or default_path()
    with reporting(as_json=as_json):
        try:
            proxy = Credential.load(target)
        except CredentialError as error:
            raise CredentialProblem(
                error.message, advice="Make a proxy: `gram proxy init`."
            ) from error
        _show(proxy, target, as_json=as_json)
        if proxy.expires <= datetime.now(UTC):
            raise typer.Exit(EXIT_EXPIRED)


def _show(proxy: Credential, path: Path, *, as_json: bool) -> None:
    values = _values(proxy, path)
    if as_json:
        show_json(values)
        return
    width = max(map(len, values))
    for name, value in values.items():
        show(f"{name.replace('_', ' '):<{width}} : {_duration(value) if name == 'left' else value}")


def _values(proxy: Credential, path: Path) -> dict[str, Value]:
    from protocol.gsi.names import oneline
    from protocol.gsi.proxies import proxy_info

    kind = proxy_info(proxy.certificate)
    left = (proxy.expires - datetime.now(UTC)).total_seconds()
    return {
        "subject": oneline(proxy.certificate.subject),
        "issuer": oneline(proxy.certificate.issuer),
        "identity": proxy.identity,
        "type": (
            "no proxy" if kind is None else f"{kind.policy.name.lower()} {kind.format.name} proxy"
        ),
        "key": f"{getattr(proxy.private_key, 'key_size', '?')} bits",
        "path": str(path),
        "expires": f"{proxy.expires:%Y-%m-%dT%H:%M:%SZ}",
        "left": max(0, int(left)),
    }


def _duration(seconds: Value) -> str:
    hours, rest = divmod(int(str(seconds)), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours or rest else "expired"


@app.command()
def destroy(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Another proxy.")
    ] = None,
) -> None:
    """Overwrite and remove your proxy."""
    from gram.client.errors import CredentialProblem

    target = file or default_path()
    with reporting():
        try:
            _destroy(target)
        except FileNotFoundError:
            raise CredentialProblem(f"there is no proxy {target}", advice="") from None
    show(f"{target} is gone")


def _destroy(path: Path) -> None:
    """Overwrite, then remove; raises OSError, PermissionError when it is no file of ours."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(1, "not a regular file of yours", str(path))
        os.write(descriptor, bytes(found.st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
