"""A whole site in one directory: CA, host, users with accounts, grid-mapfile, our configuration."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from gram.labca import LabCA
from protocol.gsi.credential import Credential, write_private
from protocol.gsi.proxy_init import create_proxy
from tests.support.accounts import demoted, home_of, temporary_accounts
from tests.support.server import Server


@dataclass
class User:
    """A grid user with a proxy; as root with a local account of its own."""

    name: str
    credential: Credential
    account: pwd.struct_passwd | None
    directory: Path
    certificates: Path
    proxy: Path = field(init=False)

    def __post_init__(self) -> None:
        self.proxy = self.write_proxy("proxy", lifetime=timedelta(hours=12))

    @property
    def identity(self) -> str:
        """The name in slash form."""
        return self.credential.identity

    @property
    def login(self) -> str:
        """The local account."""
        return self.account.pw_name if self.account else pwd.getpwuid(os.geteuid()).pw_name

    @property
    def home(self) -> Path:
        """The account's home directory."""
        return home_of(self.account)

    def write_proxy(self, name: str, **options: object) -> Path:
        """Make another proxy file, as `create_proxy` with these options."""
        path = self.directory / name
        proxy = create_proxy(self.credential, **options)  # type: ignore[arg-type]  # test helper
        path.unlink(missing_ok=True)
        write_private(path, proxy.pem())
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        return path

    def environment(self, proxy: Path | None = None) -> dict[str, str]:
        """What a login of this user has."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "USER": self.login,
            "LOGNAME": self.login,
            "LANG": "C.UTF-8",
            "X509_USER_PROXY": str(proxy or self.proxy),
            "X509_CERT_DIR": str(self.certificates),
            "GLOBUS_HOSTNAME": "localhost",
        }

    def run(
        self,
        *command: str,
        proxy: Path | None = None,
        timeout: float = 60,
        stdin: bytes = b"",
        extra: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a client as this user, with its account, environment and proxy."""
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env=self.environment(proxy) | (extra or {}),
            cwd=self.directory,
            check=False,
            **demoted(self.account),  # type: ignore[call-overload]  # user=, group= of subprocess
        )

    def start(self, *command: str, proxy: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a client that goes on while the test looks at it."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(proxy),
            cwd=self.directory,
            **demoted(self.account),  # type: ignore[call-overload]  # user=, group= of subprocess
        )


@dataclass
class Site:
    """What a server and its clients need; `bob` only as root, `mallory` is not in the map."""

    directory: Path
    ca: LabCA
    certificates: Path
    host_certificate: Path
    host_key: Path
    gridmap: Path
    alice: User
    bob: User | None
    mallory: User

    def configure(self, name: str, extra: str = "", gatekeeper: str = "") -> Server:
        """A configuration file for our service; start it with `.start()`."""
        directory = self.directory / name
        directory.mkdir(mode=0o755, exist_ok=True)
        path = directory / "gram.toml"
        path.write_text(
            "[gatekeeper]\n"
            'listen = ["127.0.0.1:0"]\n'
            'host_name = "localhost"\n'
            f'certificate = "{self.host_certificate}"\n'
            f'private_key = "{self.host_key}"\n'
            f'trusted_certificates = "{self.certificates}"\n'
            f'gridmap = "{self.gridmap}"\n'
            f"{gatekeeper}\n"
            "[state]\n"
            f'directory = "{directory}/state"\n'
            "[service]\n"
            f'account = "{SERVICE_ACCOUNT}"\n'
            "minimum_uid = 1\n"
            "[http]\n"
            'listen = "127.0.0.1:0"\n'
            "[services.jobmanager-fork]\n"
            'lrm = "fork"\n'
            f"{extra}\n"
        )
        return Server(path)


SERVICE_ACCOUNT = "nobody"
"""Not for real sites: an account that is there on every Debian, so that tests can drop root."""


@contextmanager
def make_site() -> Iterator[Site]:
    """Build a site below /tmp (readable for all its accounts); remove everything afterwards."""
    root = os.geteuid() == 0
    directory = Path(tempfile.mkdtemp(prefix="gram-site-"))
    directory.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        accounts: list[pwd.struct_passwd] = []
        if root:
            accounts = stack.enter_context(temporary_accounts("galice", "gbob"))
        ca = LabCA(directory / "ca")
        certificates = ca.ca_directory(directory / "certificates")
        host = ca.host(["localhost"])

        def user(name: str, account: pwd.struct_passwd | None) -> User:
            folder = directory / name
            folder.mkdir(mode=0o755)
            if account is not None:
                os.chown(folder, account.pw_uid, account.pw_gid)
            return User(name, ca.user(name).credential, account, folder, certificates)

        alice = user("alice", accounts[0] if root else None)
        bob = user("bob", accounts[1]) if root else None
        mallory = user("mallory", accounts[1] if root else None)
        gridmap = directory / "grid-mapfile"
        lines = [f'"{someone.identity}" {someone.login}\n' for someone in (alice, bob) if someone]
        gridmap.write_text("".join(lines))
        gridmap.chmod(0o644)
        yield Site(
            directory, ca, certificates, host.certificate, host.key, gridmap,
            alice, bob, mallory,
        )  # fmt: skip
