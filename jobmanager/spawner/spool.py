"""The spool: what is on disk about every container, so that its end outlives everybody.

`<container>.job` is made at launch and stays locked while the shepherd lives (the kernel gives the
lock back whatever way it dies), `<container>.sock` is the shepherd's socket, `<container>.exit` the
exit record.  The directory is the process's working directory: nobody can put another one in its
place later, and socket names stay short.  Everything here raises OSError.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from .codec import FrameError, parse_object, record
from .frames import (
    CONTAINER_PATTERN,
    AccountName,
    ContainerInfo,
    ExitRecord,
    Pids,
    ProcessExit,
    SpawnerPolicy,
    Time,
)
from .policy import RefusalError

_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class JobNote:
    """The content of a `.job` file; `pids` is empty until the main processes exist."""

    account: AccountName
    started: Time
    pids: Pids


_NOTE = record(JobNote)
_EXIT = record(ExitRecord)


def enter(policy: SpawnerPolicy) -> None:
    """Make the spool when missing, check that nobody else can write to it, go there."""
    with suppress(FileExistsError):
        os.mkdir(policy.spool, 0o750)
    directory = os.open(policy.spool, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(directory)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
            raise RefusalError("spool", errno.EPERM, f"{policy.spool}: not ours alone")
        if policy.spool_group is not None:
            os.fchown(directory, -1, policy.spool_group)
            os.fchmod(directory, 0o2750)
        os.fchdir(directory)
    finally:
        os.close(directory)


def reserve(container: str, note: JobNote) -> int:
    """Make the `.job` file; its descriptor holds the lock.  Refuses a name that is in use."""
    try:
        if os.path.exists(f"{container}.exit"):
            raise FileExistsError
        lock = os.open(f"{container}.job", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise RefusalError("container", errno.EEXIST, "this container exists already") from None
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    write_note(lock, note)
    return lock


def write_note(lock: int, note: JobNote) -> None:
    """(Re)write the `.job` file; a later note is never shorter."""
    _write(lock, asdict(note))


def has_note(container: str) -> bool:
    """False once the container is forgotten, or its launch taken back."""
    return os.path.exists(f"{container}.job")


def is_abandoned(container: str) -> bool:
    """True when no shepherd lives that could still write the exit record."""
    try:
        lock = os.open(f"{container}.job", os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def known_info(container: str) -> ContainerInfo:
    """What the `.job` file says of a container that is not ended."""
    note = _read_note(container)
    return ContainerInfo(container, note.account, 0, note.pids, note.started, frozen=False)


def bare_record(container: str, reason: str) -> ExitRecord:
    """What can be said of the end of a container whose shepherd cannot say anything."""
    note = _read_note(container)
    ends = tuple(ProcessExit(None, None) for _ in note.pids)
    return ExitRecord(
        container, note.account, ends, note.started, time.time(), 0.0, 0.0, 0, 0, None, reason
    )


def _read_note(container: str) -> JobNote:
    try:
        return _NOTE(parse_object(_read(f"{container}.job")))
    except (FrameError, OSError):  # taken back, or the machine went down meanwhile
        return JobNote("unknown", 0.0, ())


def write_record(ended: ExitRecord) -> int:
    """Write the exit record atomically; its open descriptor is for `settle`."""
    temporary = f"{ended.container}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    try:
        _write(descriptor, asdict(ended))
        os.rename(temporary, f"{ended.container}.exit")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def settle(descriptor: int) -> None:
    """Make a written record survive a power failure; slow, so it comes after the news."""
    os.fsync(descriptor)
    os.close(descriptor)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def read_record(container: str) -> ExitRecord | None:
    """The exit record; None when there is none (or a power failure spoilt it)."""
    try:
        return _EXIT(parse_object(_read(f"{container}.exit")))
    except (FrameError, FileNotFoundError):
        return None


def records() -> Iterator[ExitRecord]:
    """Every exit record, in the order of container names."""
    for container in _names(".exit"):
        ended = read_record(container)
        if ended is not None:
            yield ended


def unfinished() -> list[str]:
    """The containers that were launched and have no exit record yet."""
    return [container for container in _names(".job") if read_record(container) is None]


def forget(container: str) -> None:
    """Remove what is left of an ended container; the record last, it is what is listed."""
    for suffix in (".sock", ".job", ".tmp", ".exit"):
        with suppress(FileNotFoundError):
            os.unlink(container + suffix)


def listen(container: str) -> socket.socket:
    """The shepherd's listening socket; the name is ours alone since `reserve`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(FileNotFoundError):
        os.unlink(f"{container}.sock")
    listener.bind(f"{container}.sock")
    os.chmod(f"{container}.sock", 0o600)
    listener.listen(4)
    listener.setblocking(False)
    return listener


def connect(container: str) -> socket.socket:
    """A connection to a living shepherd; fails at once when there is none to be had."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(f"{container}.sock")
    except OSError:
        sock.close()
        raise
    return sock


def _names(suffix: str) -> list[str]:
    names = (name.removesuffix(suffix) for name in os.listdir(".") if name.endswith(suffix))
    return sorted(filter(CONTAINER_PATTERN.fullmatch, names))


def _write(descriptor: int, document: dict[str, object]) -> None:
    data = json.dumps(document, separators=(",", ":")).encode("ascii")
    if os.pwrite(descriptor, data, 0) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MAX_FILE)
