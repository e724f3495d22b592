"""Our service as a child process, started and stopped as a site would."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT = 30.0


@dataclass
class Server:
    """`gram serve` on a configuration file; `contact` is HOST:PORT, `subject` its name."""

    config: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    contact: str = ""
    subject: str = ""

    @property
    def log_path(self) -> Path:
        """Where the service's log goes."""
        return self.config.with_suffix(".log")

    @property
    def log(self) -> str:
        """The log so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, **popen: object) -> "Server":
        """Start and wait until the contact is announced; raises RuntimeError with the log."""
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gram", "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | self.environment,
                start_new_session=True,
                **popen,  # type: ignore[call-overload]  # user=, group= of subprocess
            )
        timer = threading.Timer(START_TIMEOUT, self.process.kill)
        timer.start()
        stdout = self.process.stdout
        line = stdout.readline() if stdout is not None else ""
        timer.cancel()
        if not line.startswith("gram contact: "):
            self.stop()
            raise RuntimeError(f"the service did not start ({line!r}):\n{self.log}")
        host, port, self.subject = line.removeprefix("gram contact: ").rstrip("\n").split(":", 2)
        self.contact = f"{host}:{port}"
        return self

    @property
    def pid(self) -> int:
        """The process id of the service."""
        if self.process is None:
            raise RuntimeError("the service is not running")
        return self.process.pid

    def kill(self) -> None:
        """`kill -9`, as a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return status
