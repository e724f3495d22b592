"""Where a job's output ends up on this machine, remembered in its directory (job-manager.md §5.3).

The choice is made once, when the job is opened: a destination that comes later (STDIO_UPDATE) only
changes where the bytes are sent from there.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from jobmanager.agent.directories import Directory
from jobmanager.agent.errors import reason
from jobmanager.agent.frames import Flag, JobWork, Output, Path, Size, String
from jobmanager.agent.places import NULL, Kind, is_url, place, working_directory
from jobmanager.agent.workspace import Workspace
from jobmanager.spawner.codec import Frame, FrameError, decode, encode, kinds
from protocol.errors import GramError
from protocol.tables import ErrorCode

_RECORD = "output"
_MAX_RECORD = 65536


class Stream(StrEnum):
    """The two streams; the values are file names in the job directory."""

    STDOUT = "stdout"
    STDERR = "stderr"

    @property
    def opening_error(self) -> ErrorCode:
        """The error of a local destination that cannot be opened."""
        return ErrorCode.OPENING_STDOUT if self is Stream.STDOUT else ErrorCode.OPENING_STDERR

    def outputs(self, work: JobWork) -> tuple[Output, ...]:
        """The stream's destinations."""
        return work.stdout if self is Stream.STDOUT else work.stderr


@dataclass(frozen=True, slots=True)
class Sink:
    """A file that gets all bytes of a stream, from offset `start` on.

    `url` is the destination it was chosen for, empty for a file in the job directory.  `split`:
    each process writes a file of its own first, in the job directory.
    """

    path: Path
    url: String
    start: Size
    split: Flag

    @property
    def own(self) -> bool:
        """Whether it is in the job directory."""
        return not self.url


@dataclass(frozen=True, slots=True)
class Sinks(Frame):
    """The sinks of a job that was opened with so many processes."""

    stdout: Sink
    stderr: Sink
    processes: Size

    def of(self, stream: Stream) -> Sink:
        """The sink of one stream."""
        return self.stdout if stream is Stream.STDOUT else self.stderr


_KINDS = kinds(Sinks)


def load_sinks(job: Directory) -> Sinks | None:
    """What was decided when the job was opened, None when it was not.

    Raises GramError(NO_RESOURCES) when the record cannot be read.
    """
    try:
        payload = job.read(_RECORD, _MAX_RECORD)
        found = None if payload is None else decode(payload, _KINDS)
    except (OSError, FrameError) as error:
        text = f"cannot read where the job's output is: {reason(error)}"
        raise GramError(ErrorCode.NO_RESOURCES, text) from error
    return found if isinstance(found, Sinks) else None


def plan_sinks(workspace: Workspace, work: JobWork, job: Directory) -> Sinks:
    """Decide for a job that is being opened.

    What it wrote to the same file when it was opened before stays its part of that file.  Raises
    GramError 73 or 74 for a cache destination that has gone, NO_RESOURCES otherwise.
    """
    before = load_sinks(job)
    sinks = Sinks(
        _plan(workspace, work, job, Stream.STDOUT),
        _plan(workspace, work, job, Stream.STDERR),
        work.processes,
    )
    if before is not None:
        sinks = Sinks(
            _continue(before.stdout, sinks.stdout),
            _continue(before.stderr, sinks.stderr),
            work.processes,
        )
    try:
        job.write(_RECORD, encode(sinks))
    except OSError as error:
        text = f"cannot write to the job directory: {reason(error)}"
        raise GramError(ErrorCode.NO_RESOURCES, text) from error
    return sinks


def _plan(workspace: Workspace, work: JobWork, job: Directory, stream: Stream) -> Sink:
    outputs = stream.outputs(work)
    own = Sink(f"{job.path}/{stream}", "", 0, split=work.processes > 1)
    if len(outputs) > 1:
        return own
    url = outputs[0].url
    target = place(url, working_directory(work, workspace.home))
    match target.kind:
        case Kind.NOTHING:
            return Sink(NULL, url, 0, split=False)
        case Kind.CACHE:
            path = _cached(workspace, work, outputs[0], stream)
        case Kind.LOCAL if not is_url(url):
            path = target.name
        case _:
            return own
    return Sink(path, url, _size(path), own.split)


def _continue(before: Sink, now: Sink) -> Sink:
    return replace(now, start=before.start) if before.path == now.path else now


def _cached(workspace: Workspace, work: JobWork, output: Output, stream: Stream) -> str:
    tags = (work.contact,) if output.tag is None else (work.contact, output.tag)
    try:
        return workspace.cache.add_empty(output.url, *tags)
    except OSError as error:
        text = f"cannot use {output.url} for {stream}: {reason(error)}"
        raise GramError(stream.opening_error, text) from error


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def part_name(stream: Stream, index: int) -> str:
    """The file of one process of several, in the job directory."""
    return f"{stream}{index:03d}"


@contextlib.contextmanager
def open_sink(job: Directory, stream: Stream, sink: Sink) -> Iterator[tuple[int, int]]:
    """The whole output of a stream for reading, and where in it the job's part begins.

    That of several processes is there once it has been merged.  Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    if sink.own or sink.split:
        descriptor, start = job.open(stream, flags), 0
    else:
        descriptor, start = os.open(sink.path, flags | os.O_CLOEXEC), sink.start
    try:
        yield descriptor, start
    finally:
        os.close(descriptor)
