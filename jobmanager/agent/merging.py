"""Putting the output of several processes together (job-manager.md §6.3): all at the end.

File after file in the order of the processes.  A merge that was interrupted is repeated or
continued: what goes into the job directory appears as a whole, and for other files it is noted
where the job's part begins.
"""

import os

from jobmanager.agent.directories import Directory
from jobmanager.agent.sinks import Sink, Stream, part_name

_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def merge_parts(job: Directory, stream: Stream, sink: Sink, processes: int) -> None:
    """Bring what the processes wrote to the stream's sink; raises OSError."""
    if not sink.split:
        return
    if job.status(stream) is None:
        _gather(job, stream, processes)
    if not sink.own:
        _append(job, stream, sink.path)


def parts_size(job: Directory, stream: Stream, sink: Sink, processes: int) -> int:
    """Bytes in the job directory that belong to a stream; 0 when its sink is elsewhere.

    Raises OSError.
    """
    if not sink.own:
        return 0
    status = job.status(stream)
    if status is not None or not sink.split:
        return 0 if status is None else status.st_size
    parts = [job.status(part_name(stream, index)) for index in range(processes)]
    return sum(part.st_size for part in parts if part is not None)


def _gather(job: Directory, stream: Stream, processes: int) -> None:
    temporary, target = job.create_unique(f".{stream}.")
    try:
        for index in range(processes):
            part = job.open(part_name(stream, index), _READ)
            try:
                _copy(part, target)
            finally:
                os.close(part)
        job.rename(temporary, stream)
    finally:
        os.close(target)
        job.remove(temporary)


def _append(job: Directory, stream: Stream, path: str) -> None:
    note = f"merged-{stream}"
    source = job.open(stream, _READ)
    try:
        target = os.open(path, _APPEND, 0o600)
        try:
            noted = job.read(note, 32)
            if noted == b"complete":
                return
            size = os.fstat(target).st_size
            begin = int(noted) if noted and noted.isdigit() else size
            job.write(note, b"%d" % begin)
            os.lseek(source, max(0, size - begin), os.SEEK_SET)
            _copy(source, target)
            job.write(note, b"complete")
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy(source: int, target: int) -> None:
    while data := os.read(source, _BLOCK):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
