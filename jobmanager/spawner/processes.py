"""The main processes of a container and what wait4 tells about all its members."""

import os
import signal
import time
from resource import struct_rusage

from .frames import ExitRecord, LaunchRequest, ProcessExit


class Processes:
    """Collects ends and usage; every member of the container is waited for here, once."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self._ends: dict[int, ProcessExit] = {}
        self._members = 0
        self._last_status: int | None = None
        self._cpu_user = self._cpu_system = 0.0
        self._max_rss_kb = 0

    def reap(self) -> bool:
        """Take every ended child, adopted ones too; true when there are no children at all."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._count(pid, status, usage)

    def _count(self, pid: int, status: int, usage: struct_rusage) -> None:
        self._members += 1
        self._last_status = status
        self._cpu_user += usage.ru_utime
        self._cpu_system += usage.ru_stime
        self._max_rss_kb = max(self._max_rss_kb, usage.ru_maxrss)
        if pid in self.pids and pid not in self._ends:
            code = os.waitstatus_to_exitcode(status)
            self._ends[pid] = ProcessExit(
                code if code >= 0 else None, -code if code < 0 else None,
                usage.ru_utime, usage.ru_stime, usage.ru_maxrss,
            )  # fmt: skip

    def all_main_ended(self) -> bool:
        """True when nothing but leftovers of the main processes can be alive."""
        return len(self._ends) == len(self.pids)

    def record(self, request: LaunchRequest, started: float, reason: str) -> ExitRecord:
        """The exit record of the now empty container."""
        ends = tuple(self._ends[pid] for pid in self.pids)
        if reason == "exited" and any(_over_cpu(end, request.limits.cpu_seconds) for end in ends):
            reason = "cpu-limit"
        return ExitRecord(
            request.container, request.account, ends, started, max(started, time.time()),
            self._cpu_user, self._cpu_system, self._max_rss_kb,
            self._members, self._last_status, reason,
        )  # fmt: skip


def _over_cpu(end: ProcessExit, limit: int | None) -> bool:
    """RLIMIT_CPU sends SIGXCPU, and SIGKILL to those who ignore it."""
    return limit is not None and (
        end.signal == signal.SIGXCPU
        or (end.signal == signal.SIGKILL and end.cpu_user + end.cpu_system >= limit)
    )
