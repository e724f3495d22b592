"""The shepherd of one container: starts its processes, holds them together, records the end.

It keeps the spawner's privilege, runs nothing of the user's, and outlives spawner and service.
Being a subreaper it inherits every orphan below it: the container is empty exactly when wait4 says
that there are no children (job-containers.md 8, 10).
"""

import errno
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NoReturn

from . import frames, spool
from .channel import Channel, Packet, close_all
from .child import Failure, read_failure, run_job, start_anew
from .codec import Frame, FrameError, decode
from .loop import Loop
from .members import freeze_members, members, signal_members
from .policy import PR_SET_CHILD_SUBREAPER, Account, prctl
from .processes import Processes

_LEFTOVER_GRACE = 1.0  # seconds from SIGTERM to SIGKILL for what the main processes leave behind
_FREEZE_TIMEOUT = 2.0
_SWEEPS = 20  # rounds of SIGKILL without a pause, against chains of forks
_SWEEP_PAUSE = 0.005  # then doubled up to
_LONGEST_PAUSE = 1.0
_RETRY_RECORD = 1.0
_MAX_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the spawner hands over: the job, as whom, its descriptors and its `.job` file."""

    launch: frames.Launch
    account: Account
    no_new_privs: bool
    descriptors: Sequence[int]
    lock: int
    started: float


def run_shepherd(assignment: Assignment, spawner: socket.socket) -> NoReturn:
    """Be the shepherd of a new container until it has ended."""
    try:
        start_anew((*assignment.descriptors, assignment.lock, spawner.fileno()))
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        Shepherd(assignment, spawner).run()
    finally:
        os._exit(0)


class Shepherd:
    """One container, from the fork of its processes to its exit record."""

    def __init__(self, assignment: Assignment, spawner: socket.socket) -> None:
        self._job = assignment
        self._request = assignment.launch.request
        self._loop = Loop()
        self._channels: list[Channel] = []
        self._attach(spawner)
        self._processes = Processes()
        self._starting = True
        self._failure: Failure | None = None  # why the launch is taken back
        self._reason = "exited"
        self._frozen = False
        self._kill_at: float | None = None
        self._killing = False
        self._pause = _SWEEP_PAUSE
        self._over = False

    def run(self) -> None:
        """Start the processes and serve until the container has ended."""
        try:
            self._start()
        except OSError as error:
            self._starting = False
            self._fail(Failure("start", error.errno or 0))
        self._loop.on_signals(
            {signal.SIGCHLD: self._reap, signal.SIGTERM: lambda: self._end("shutdown", 5.0)}
        )
        self._reap()
        self._loop.run()

    # Beginning.

    def _start(self) -> None:
        listener = spool.listen(self._request.container)
        self._loop.watch(listener.fileno(), lambda: self._accept(listener))
        barrier, release = os.pipe()
        report, report_end = os.pipe()
        self._loop.watch(report, lambda: self._hear(report))
        for index in range(self._request.processes):
            pid = os.fork()
            if pid == 0:
                run_job(
                    self._request, self._job.account, no_new_privs=self._job.no_new_privs,
                    cwd=self._job.descriptors[0],
                    streams=self._job.descriptors[1 + 3 * index : 4 + 3 * index],
                    barrier=(barrier, release), report=report_end,
                )  # fmt: skip
            self._processes.pids.append(pid)
        close_all((*self._job.descriptors, barrier, report_end))
        for signum in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        note = spool.JobNote(self._request.account, self._job.started, tuple(self._processes.pids))
        spool.write_note(self._job.lock, note)
        os.write(release, bytes(self._request.processes))
        os.close(release)
        if self._request.limits.wall_seconds is not None:
            self._loop.later(self._request.limits.wall_seconds, self._reach_wall_limit)

    def _hear(self, report: int) -> None:
        """A process says why it cannot run, or (end of file) every one runs its program."""
        failure = read_failure(os.read(report, 4096))
        if failure is not None:
            self._fail(failure)
            return
        self._loop.unwatch(report)
        os.close(report)
        self._starting = False
        if self._failure is None:
            self._tell(frames.Launched(self._job.launch.id, self._info()))
        self._reap()

    def _fail(self, failure: Failure) -> None:
        """Take the launch back: all or none of the processes run."""
        if self._failure is None:
            self._failure = failure
            self._kill()

    # End.

    def _reap(self) -> None:
        empty = self._processes.reap()
        if self._starting or self._over:
            return
        if empty:
            self._over = True
            self._finish()
        elif self._killing:
            signal_members(signal.SIGKILL)
        elif self._kill_at is not None:
            signal_members(signal.SIGTERM)  # who was forked while the first round went out
        elif self._processes.all_main_ended():
            self._stop(_LEFTOVER_GRACE)

    def _reach_wall_limit(self) -> None:
        self._end("wall-limit", self._request.limits.grace_seconds)

    def _end(self, reason: str, grace: float) -> None:
        """End the job from outside; the first reason is the one on record."""
        if self._reason == "exited" and not self._processes.all_main_ended():
            self._reason = reason
        self._stop(grace)

    def _stop(self, grace: float) -> None:
        """SIGTERM now and SIGKILL after the grace; a later call can only make it shorter."""
        kill_at = time.monotonic() + grace
        if self._kill_at is not None and self._kill_at <= kill_at:
            return
        self._kill_at = kill_at
        if grace == 0:
            self._kill()
            return
        signal_members(signal.SIGTERM)
        signal_members(signal.SIGCONT)
        self._set_frozen(False)
        self._loop.later(grace, self._kill)

    def _kill(self) -> None:
        if not self._killing:
            self._killing = True
            self._sweep()

    def _sweep(self) -> None:
        """SIGKILL until nobody is left, in rounds: a member may fork while it is listed."""
        for _ in range(_SWEEPS):
            if self._over:
                return
            signal_members(signal.SIGKILL)
            self._reap()
        self._loop.later(self._pause, self._sweep)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _finish(self) -> None:
        """Record the end, then tell it, then make the record last."""
        if self._failure is not None:
            spool.forget(self._request.container)
            failure = self._failure
            self._tell(
                frames.Refused(self._job.launch.id, failure.stage, failure.errno, failure.text)
            )
            self._loop.stop()
            return
        record = self._processes.record(self._request, self._job.started, self._reason)
        try:
            written = spool.write_record(record)
        except FileNotFoundError:  # the spool was removed: nobody could ever read the record
            self._tell(frames.Ended(record))
            self._loop.stop()
            return
        except OSError:  # no space: the record has to wait, not to be lost
            self._loop.later(_RETRY_RECORD, self._finish)
            return
        with suppress(FileNotFoundError):
            os.unlink(f"{self._request.container}.sock")
        self._tell(frames.Ended(record))
        with suppress(OSError):  # the record is there; nobody is left to hear about its durability
            spool.settle(written)
        self._loop.stop()

    # Requests.

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # it has gone again, or we are short of descriptors: the job matters more
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()) or len(self._channels) >= _MAX_CHANNELS:
            sock.close()
            return
        channel = self._attach(sock)
        if not self._starting:
            channel.send(frames.Launched(0, self._info()))

    def _attach(self, sock: socket.socket) -> Channel:
        channel = self._loop.attach(
            sock,
            lambda packet: self._answer(channel, packet),
            lambda: self._channels.remove(channel),
        )
        self._channels.append(channel)
        return channel

    def _tell(self, frame: Frame) -> None:
        for channel in self._channels:
            channel.send(frame)

    def _answer(self, channel: Channel, packet: Packet) -> None:
        try:
            frame = decode(packet.payload or b"", frames.SHEPHERD_REQUESTS)
            channel.send(self._serve(frame))
        except FrameError as error:
            channel.send(frames.Refused(error.request_id, "frame", 0, str(error)))

    def _serve(self, frame: Frame) -> Frame:
        match frame:
            case frames.Signal():
                return _result(frame.id, "signal", signal_members(frame.signum))
            case frames.Freeze():
                return self._freeze(frame)
            case frames.Thaw():
                code = signal_members(signal.SIGCONT)
                self._set_frozen(False)
                return _result(frame.id, "thaw", code)
            case frames.Kill():
                # After the answer: the end of the container is the end of the connection.
                self._loop.later(0.0, partial(self._end, "killed", frame.grace))
                return frames.Done(frame.id)
            case frames.ListMembers():
                return frames.Members(
                    frame.id, tuple(pid for pid, _ in islice(members(), frames.MAX_MEMBERS))
                )
            case _:
                raise FrameError("not for a shepherd")

    def _freeze(self, frame: frames.Freeze) -> Frame:
        if self._kill_at is not None:
            return _result(frame.id, "freeze", errno.ESRCH)
        if freeze_members(_FREEZE_TIMEOUT):
            self._set_frozen(True)
            return frames.Done(frame.id)
        signal_members(signal.SIGCONT)
        return _result(frame.id, "freeze", errno.ETIMEDOUT)

    def _set_frozen(self, frozen: bool) -> None:
        if frozen != self._frozen:
            self._frozen = frozen
            self._tell(frames.Launched(0, self._info()))

    def _info(self) -> frames.ContainerInfo:
        return frames.ContainerInfo(
            self._request.container, self._request.account, os.getpid(),
            tuple(self._processes.pids), self._job.started, self._frozen,
        )  # fmt: skip


def _result(request_id: int, stage: str, code: int) -> Frame:
    return (
        frames.Refused(request_id, stage, code, os.strerror(code))
        if code
        else frames.Done(request_id)
    )
