"""Opening what a job starts with, in fork's order of checks (job-manager.md §3.4 notes).

Every file is opened by the account itself; the descriptors go to whoever starts the job, so nobody
with more rights ever opens a name that the account chose.
"""

import os
import stat
from dataclasses import dataclass

from jobmanager.agent.directories import Directory
from jobmanager.agent.frames import JobWork
from jobmanager.agent.places import is_url, working_directory
from jobmanager.agent.sinks import Sinks, Stream, part_name, plan_sinks
from jobmanager.agent.workspace import Workspace, failing
from protocol.errors import GramError
from protocol.tables import ErrorCode

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_CAREFULLY = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""So that a pipe or a terminal does not stop the agent."""


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """The working directory, then stdin, stdout and stderr of each process; and where they are.

    The descriptors are the caller's to close.
    """

    descriptors: tuple[int, ...]
    executable: str
    directory: str
    stdin: str
    sinks: Sinks


def open_job(workspace: Workspace, work: JobWork) -> OpenedJob:
    """Check and open everything the job needs.

    Raises GramError with the code of the first check that fails: 52, 4, 54, 14, 26, 55, 5, 72, 64,
    11, 50, then 73 or 74 for an output that cannot be opened.
    """
    opened: list[int] = []
    try:
        _due(work, ErrorCode.RSL_DIRECTORY, ErrorCode.BAD_DIRECTORY)
        directory = working_directory(work, workspace.home)
        opened.append(_open_directory(directory))
        _due(work, ErrorCode.RSL_ENVIRONMENT)
        _due(work, ErrorCode.INVALID_COUNT, ErrorCode.RSL_COUNT)
        _due(work, ErrorCode.JOBTYPE_NOT_SUPPORTED)
        _due(work, ErrorCode.RSL_EXECUTABLE)
        executable = _find_executable(workspace, work, directory)
        _due(work, ErrorCode.RSL_STDIN)
        stdin = _find_stdin(workspace, work, directory)
        opened += [_open_stdin(stdin)]
        _due(work)
        with failing(ErrorCode.NO_RESOURCES, "cannot open the job directory"):
            job = workspace.open(work.id)
        with job:
            sinks = plan_sinks(workspace, work, job)
            for index in range(work.processes):
                if index:
                    opened.append(_open_stdin(stdin))
                for stream in Stream:
                    opened.append(_open_output(job, sinks, stream, index))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return OpenedJob(tuple(opened), executable, directory, stdin, sinks)


def _due(work: JobWork, *codes: ErrorCode) -> None:
    """Raise the description's own error of one of these codes (of any, without codes)."""
    for error in work.deferred:
        if not codes or error.code in codes:
            raise GramError(ErrorCode(error.code), error.message)


def _open_directory(path: str) -> int:
    if not path:
        raise GramError(ErrorCode.BAD_DIRECTORY, "the directory has no name")
    with failing(ErrorCode.BAD_DIRECTORY, f"cannot enter the directory {path}"):
        if not os.access(path, os.X_OK, effective_ids=True):
            os.stat(path)  # says more when it does not exist
            raise PermissionError(13, "permission denied")
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _find_executable(workspace: Workspace, work: JobWork, directory: str) -> str:
    if is_url(work.executable):
        path = _cached(workspace, work, work.executable, ErrorCode.EXECUTABLE_NOT_FOUND)
    else:
        path = os.path.join(directory, work.executable)
    with failing(ErrorCode.EXECUTABLE_NOT_FOUND, "cannot find the executable"):
        mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        text = f"the executable {path} is not a file"
        raise GramError(ErrorCode.EXECUTABLE_PERMISSIONS, text)
    if not os.access(path, os.X_OK, effective_ids=True):
        text = f"the account may not execute {path}"
        raise GramError(ErrorCode.EXECUTABLE_PERMISSIONS, text)
    return path


def _find_stdin(workspace: Workspace, work: JobWork, directory: str) -> str:
    if is_url(work.stdin):
        return _cached(workspace, work, work.stdin, ErrorCode.STDIN_NOT_FOUND)
    return os.path.join(directory, work.stdin)


def _cached(workspace: Workspace, work: JobWork, url: str, code: ErrorCode) -> str:
    with failing(code, f"cannot find {url} in the cache"):
        path = workspace.cache.find(url, work.contact)
    if path is None:
        raise GramError(code, f"{url} has not been fetched")
    return path


def _open_stdin(path: str) -> int:
    with failing(ErrorCode.STDIN_NOT_FOUND, "cannot read stdin"):
        return _blocking(os.open(path, os.O_RDONLY | _CAREFULLY))


def _open_output(job: Directory, sinks: Sinks, stream: Stream, index: int) -> int:
    sink = sinks.of(stream)
    with failing(stream.opening_error, f"cannot write {stream}"):
        if sink.split:
            return _blocking(job.open(part_name(stream, index), _APPEND | _CAREFULLY))
        if sink.own:
            return _blocking(job.open(stream, _APPEND | _CAREFULLY))
        return _blocking(os.open(sink.path, _APPEND | _CAREFULLY, 0o600))


def _blocking(descriptor: int) -> int:
    """What the job expects; a directory is nothing to read from."""
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(21, "it is a directory")
        os.set_blocking(descriptor, True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
