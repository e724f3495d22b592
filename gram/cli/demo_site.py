"""A throw-away site for `gram demo`: CA, credentials, grid-mapfile, and the service on them."""

from __future__ import annotations

import os
import pwd
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from gram.labca import LabCA

START_TIMEOUT: Final = 45.0
STOP_TIMEOUT: Final = 10.0
MAX_LOG_SHOWN: Final = 4000
"""Bytes of the service's log that are shown when it does not start."""

_READY = b"gram contact: "


class DemoProblem(Exception):  # noqa: N818 - it is about the demo, not an error of the program
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """The files of the site; everything is below `directory`."""

    directory: Path
    certificates: Path
    proxy: Path
    configuration: Path
    identity: str

    @property
    def home(self) -> Path:
        """The home directory of the demo's jobs."""
        return self.directory / "home"

    @property
    def log(self) -> Path:
        """The service's log."""
        return self.directory / "service.log"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this site needs in its environment."""
        return {
            "HOME": str(self.home),
            "X509_USER_PROXY": str(self.proxy),
            "X509_CERT_DIR": str(self.certificates),
            "GLOBUS_HOSTNAME": "localhost",
        }


@contextmanager
def make_site() -> Iterator[Site]:
    """Build a site in a temporary directory that goes away at the end."""
    directory = Path(tempfile.mkdtemp(prefix="gram-demo-"))
    try:
        yield _fill(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _fill(directory: Path) -> Site:
    authority = LabCA(directory / "ca")
    certificates = authority.ca_directory(directory / "certificates")
    host = authority.host(["localhost"])
    user = authority.user("Demo User").credential
    authority.proxy(user, directory / "proxy")
    gridmap = directory / "grid-mapfile"
    gridmap.write_text(f'"{user.identity}" {pwd.getpwuid(os.geteuid()).pw_name}\n')
    configuration = directory / "gram.toml"
    configuration.write_text(
        f"""\
[gatekeeper]
listen = ["127.0.0.1:0"]
host_name = "localhost"
certificate = "{host.certificate}"
private_key = "{host.key}"
trusted_certificates = "{certificates}"
gridmap = "{gridmap}"
[state]
directory = "{directory}/state"
[http]
listen = "off"
[services.jobmanager-fork]
lrm = "fork"
"""
    )
    site = Site(directory, certificates, directory / "proxy", configuration, user.identity)
    site.home.mkdir(mode=0o700)
    return site


@dataclass(frozen=True, slots=True)
class Service:
    """The running service; `contact` is HOST:PORT."""

    process: subprocess.Popen[bytes]
    contact: str

    def wait(self) -> NoReturn:
        """Wait for ever; DemoProblem when the service ends."""
        status = self.process.wait()
        raise DemoProblem(f"the service ended with status {status}")


@contextmanager
def running_service(site: Site) -> Iterator[Service]:
    """Run the service as a child process.  Raises DemoProblem when it does not start.

    At the end the service is stopped, and jobs that are still running are killed.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    with ExitStack() as stack:
        log = stack.enter_context(site.log.open("wb"))
        service = subprocess.Popen(
            [sys.executable, "-m", "gram", "serve", "--config", str(site.configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**kept, **site.environment},
            cwd=site.directory,
            start_new_session=True,  # Ctrl-C is for us
        )
        stack.callback(_end_leftovers, site.directory)
        stack.callback(_stop, service)
        yield Service(service, _contact(service, site))


def _contact(service: subprocess.Popen[bytes], site: Site) -> str:
    line = _first_line(service)
    if not line.startswith(_READY):
        log = site.log.read_bytes()[-MAX_LOG_SHOWN:].decode(errors="replace")
        raise DemoProblem(f"the service did not start; its log ends:\n{log}")
    host, port, _ = line.removeprefix(_READY).decode().split(":", 2)
    return f"{host}:{port}"


def _first_line(service: subprocess.Popen[bytes]) -> bytes:
    """Return the first line of its output, what there is of it when it takes too long or ends."""
    if service.stdout is None:
        raise TypeError("the service's output is a pipe")
    line = b""
    deadline = time.monotonic() + START_TIMEOUT
    with selectors.DefaultSelector() as selector:
        selector.register(service.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0, deadline - time.monotonic())):
            data = os.read(service.stdout.fileno(), 4096)
            if not data:
                break
            line += data
    return line


def _stop(service: subprocess.Popen[bytes]) -> None:
    service.terminate()
    try:
        service.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
    if service.stdout is not None:
        service.stdout.close()


def _end_leftovers(directory: Path) -> None:
    """Kill the jobs that outlive their service: their environment names our directory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = _processes_of(directory)
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        deadline = time.monotonic() + 2
        while left and time.monotonic() < deadline and (left := _processes_of(directory)):
            time.sleep(0.05)


def _processes_of(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if os.fsencode(directory) in entry.read_bytes() and int(entry.parts[2]) != os.getpid():
                found.append(int(entry.parts[2]))
    return found
