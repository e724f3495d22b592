"""The members of a container: the descendants of this process, a subreaper (job-containers.md 10).

Nobody leaves the tree below a subreaper, but a listing is always a moment behind: it is for sending
signals, again and again if need be, never to conclude that a container is empty (only wait4 says
so).  A signal goes through a pidfd that was opened before the process was seen to be a descendant.
"""

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

_HAVE_CHILDREN_FILES = os.path.exists("/proc/thread-self/children")


def members() -> Iterator[tuple[int, int]]:
    """(pid, parent) of every descendant, a parent before its children, found while iterating.

    A caller that stops each process it is given thereby keeps it from having new children before
    those are listed.
    """
    queue = [os.getpid()]
    seen = set(queue)
    for parent in queue:
        for pid in _children(parent):
            if pid not in seen:
                seen.add(pid)
                queue.append(pid)
                yield pid, parent


def signal_members(signum: int) -> int:
    """Send to every member; gives the errno of the last one that could not be signalled, or 0."""
    failure = 0
    for pid, parent in members():
        try:
            _signal(pid, parent, signum)
        except ProcessLookupError:
            continue
        except OSError as error:
            failure = error.errno or errno.EIO
    return failure


def freeze_members(timeout: float) -> bool:
    """Stop every member; true when all are seen at rest, false after `timeout` seconds.

    At rest is also who stays in an uninterruptible wait: the stop is due before it runs again
    (a parent in vfork waits like that for a child that was stopped before its exec).
    """
    deadline = time.monotonic() + timeout
    before: dict[int, str] = {}
    while time.monotonic() < deadline:
        failure = signal_members(signal.SIGSTOP)
        now = {pid: _letter(pid) for pid, _ in members()}
        awake = {letter for letter in now.values() if letter not in "TtZX"}
        if failure == 0 and (not awake or (awake == {"D"} and now == before)):
            return True
        before = now
        time.sleep(0.002)
    return False


def _signal(pid: int, parent: int, signum: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        # Its parent may have died meanwhile; then it is ours.
        if _state(pid)[1] in (parent, os.getpid()):
            signal.pidfd_send_signal(pidfd, signum)
    finally:
        os.close(pidfd)


def _letter(pid: int) -> str:
    try:
        return _state(pid)[0]
    except ProcessLookupError:
        return "X"
    except PermissionError:  # a set-uid program that /proc hides from us
        return "?"


def _state(pid: int) -> tuple[str, int]:
    """State letter and parent of a process; raises ProcessLookupError when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command in parentheses may hold anything, also parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError from None
    return fields[0].decode("ascii"), int(fields[1])


def _children(parent: int) -> list[int]:
    if not _HAVE_CHILDREN_FILES:
        return _children_by_scan(parent)
    found: list[int] = []
    with suppress(OSError):  # the process or one of its threads went away: what is left counts
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _children_by_scan(parent: int) -> list[int]:
    """The slow way, for kernels without CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if _state(int(name))[1] == parent:
                found.append(int(name))
    return found
