"""What a fork does before it is the program or agent it shall be: steps that each may fail.

A failing step is told to the parent over a pipe, which closes by itself when exec succeeds.
"""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .frames import LaunchRequest, Limits
from .policy import PR_SET_PDEATHSIG, Account, become, prctl

Step = tuple[str, Callable[[], object]]

_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_DESCRIPTOR_END = 1 << 20
_CPU_GRACE = 5  # seconds from SIGXCPU to SIGKILL
#: Before the spawner raises its own; jobs get it back.
INHERITED_FILE_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that failed: its name and an errno, 0 when no system call was the reason."""

    stage: str
    errno: int

    @property
    def text(self) -> str:
        """The reason for people."""
        return os.strerror(self.errno) if self.errno else "unexpected error"


def take_steps(report: int, steps: Iterable[Step]) -> NoReturn:
    """Take the steps, of which the last does not come back, and exit when one fails."""
    stage, code = "start", 0
    try:
        for name, step in steps:
            stage = name
            step()
    except OSError as error:
        code = error.errno or 0
    except MemoryError:
        code = errno.ENOMEM
    finally:
        try:
            os.write(report, f"{stage} {code}\n".encode("ascii"))
        finally:
            os._exit(127)  # whatever it was, a fork must not go on as a second spawner


def read_failure(report: bytes) -> Failure | None:
    """The first failure of what `take_steps` has written; None when there is none."""
    if not report:
        return None
    stage, _, code = report.decode("ascii").splitlines()[0].partition(" ")
    return Failure(stage, int(code))


def start_anew(keep: Iterable[int]) -> None:
    """An own session, default signals, /dev/null as 0-2 and only `keep` of all other descriptors.

    Objects of the parent that own closed descriptors must be kept alive: freed, they would close
    whatever has got their number by then.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    _close_others(keep)


def run_job(
    request: LaunchRequest, account: Account, *, no_new_privs: bool, cwd: int,
    streams: Sequence[int], barrier: tuple[int, int], report: int,
) -> NoReturn:  # fmt: skip
    """Become one main process of a job, in an own session, once `barrier` gives a byte.

    The working directory and the program are reached with the account's permissions.
    """
    shepherd = os.getppid()
    argv = [_bytes(argument) for argument in request.argv]
    environment = {_bytes(name): _bytes(value) for name, value in request.environment}

    def arrange() -> None:
        for standard, descriptor in enumerate(streams):
            os.dup2(descriptor, standard)
        _close_others((report,))

    take_steps(
        report,
        (
            ("session", os.setsid),
            ("barrier", lambda: _pass(*barrier)),
            ("account", lambda: become(account, no_new_privs=no_new_privs)),
            ("shepherd", lambda: _die_with(shepherd)),
            ("chdir", lambda: os.fchdir(cwd)),
            ("streams", arrange),
            ("limits", lambda: _limit(request.limits)),
            ("exec", lambda: _execute(argv, environment)),
        ),
    )


def _pass(barrier: int, release: int) -> None:
    os.close(release)  # so that the end of the shepherd is the end of the pipe
    if not os.read(barrier, 1):
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _die_with(shepherd: int) -> None:
    """Nobody could tell the end of a job without a shepherd, so its main processes go with it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shepherd:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))


def _limit(limits: Limits) -> None:
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_NOFILE, INHERITED_FILE_LIMIT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if limits.cpu_seconds is not None:
        _lower(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + _CPU_GRACE)
    if limits.memory_bytes is not None:
        _lower(resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes)


def _execute(argv: list[bytes], environment: dict[bytes, bytes]) -> None:
    if not argv[0]:  # what the kernel says; Python would not ask it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    os.execve(argv[0], argv, environment)  # noqa: S606 - argv is run as it is, without a shell


def _lower(kind: int, soft: int, hard: int) -> None:
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _close_others(keep: Iterable[int]) -> None:
    low = 3
    for descriptor in sorted(keep):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, _DESCRIPTOR_END)


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")
