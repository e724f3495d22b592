"""The reference server (Debian's globus-gatekeeper and job manager) in a private corner.

Everything it reads and writes is below one directory; it needs root, like the real one. Its job
managers run as the mapped accounts and are stopped by the pid files they write.
"""

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

GATEKEEPER = Path("/usr/sbin/globus-gatekeeper")
JOB_MANAGER = Path("/usr/sbin/globus-job-manager")


def installed() -> bool:
    """Whether the reference can run here."""
    return GATEKEEPER.exists() and JOB_MANAGER.exists() and os.geteuid() == 0


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Reference:
    """A running reference gatekeeper; its contact is `localhost:port`."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def contact(self) -> str:
        """What clients are given."""
        return f"localhost:{self.port}"

    @property
    def log(self) -> str:
        """The gatekeeper's log so far."""
        path = self.directory / "gatekeeper.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """Stop the gatekeeper and the job managers it started."""
        self.process.terminate()
        self.process.wait(10)
        for path in self.directory.glob("state/*/*/*.pid"):
            _end(int(path.read_text()))


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        for _ in range(20):
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.05)


def start(
    directory: Path,
    *,
    certificates: Path,
    host_certificate: Path,
    host_key: Path,
    gridmap: Path,
    services: tuple[str, ...] = ("jobmanager", "jobmanager-fork"),
) -> Reference:
    """Start the reference with this CA directory, host credential and grid-mapfile."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    (directory / "services").mkdir(exist_ok=True)
    state = directory / "state"
    state.mkdir(exist_ok=True)
    state.chmod(0o1777)
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)
    logs.chmod(0o1777)
    configuration = directory / "job-manager.conf"
    configuration.write_text(
        "-globus-toolkit-version 6.2\n"
        f"-log-pattern {logs}/gram_$(LOGNAME).log\n"
        f"-state-file-dir {state}\n"
        f"-x509-cert-dir {certificates}\n"
    )
    for service in services:
        (directory / "services" / service).write_text(
            "stderr_log,local_cred - /usr/sbin/globus-job-manager globus-job-manager "
            f"-conf {configuration} -type fork\n"
        )
    port = free_port()
    arguments = [
        *(str(GATEKEEPER), "-f", "-p", str(port)),
        *("-l", str(directory / "gatekeeper.log")),
        *("-grid_services", str(directory / "services")),
        *("-gridmap", str(gridmap)),
        *("-x509_cert_dir", str(certificates)),
        *("-x509_user_cert", str(host_certificate)),
        *("-x509_user_key", str(host_key)),
        *("-pidfile", str(directory / "gatekeeper.pid")),
    ]
    environment = {"PATH": os.environ["PATH"], "GLOBUS_HOSTNAME": "localhost", "HOME": "/root"}
    with (directory / "gatekeeper.err").open("wb") as errors:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    reference = Reference(directory, port, process)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return reference
        if process.poll() is not None:
            break
        time.sleep(0.1)
    reference.stop()
    raise RuntimeError(f"the reference gatekeeper did not start: {reference.log}")
