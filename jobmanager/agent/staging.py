"""File staging before and after the job (job-manager.md §5.1, §5.2).

What is done is noted in the job directory, so an operation that is repeated goes on with the rest.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator

from jobmanager.agent.directories import Directory
from jobmanager.agent.errors import StagingError, reason
from jobmanager.agent.frames import Copy, JobWork
from jobmanager.agent.places import Kind, Place, is_url, place, unsupported, working_directory
from jobmanager.agent.threads import in_thread
from jobmanager.agent.transfers import Transfers
from jobmanager.agent.workspace import Workspace, failing
from jobmanager.records import Failure
from protocol.errors import GramError
from protocol.tables import ErrorCode

_CHECKLIST = "staged"
_MAX_CHECKLIST = 1 << 20
_EXECUTABLE = 0o500
_READABLE = 0o400


class Staging:
    """Stages the files of one account's jobs."""

    def __init__(self, workspace: Workspace, transfers: Transfers) -> None:
        self._workspace = workspace
        self._transfers = transfers

    async def stage_in(self, work: JobWork) -> tuple[str | None, str | None]:
        """Fetch everything; local paths of executable and stdin where they were URLs.

        Raises StagingError 43, 44 or 135.
        """
        executable = stdin = None
        if is_url(work.executable):
            with _naming(ErrorCode.STAGING_EXECUTABLE, "executable", work.executable):
                executable = await self._to_cache(work, work.executable, _EXECUTABLE)
        if is_url(work.stdin):
            with _naming(ErrorCode.STAGING_STDIN, "stdin", work.stdin):
                stdin = await self._to_cache(work, work.stdin, _READABLE)
        with self._checklist(work) as checklist:
            for copy in work.stage_in:
                if checklist.misses("in", copy):
                    with _naming(ErrorCode.STAGE_IN_FAILED, "filestagein", *_ends(copy)):
                        await self._copy_in(work, copy)
                    checklist.add("in", copy)
            for copy in work.stage_in_shared:
                if checklist.misses("shared", copy):
                    with _naming(ErrorCode.STAGE_IN_FAILED, "filestagein", *_ends(copy)):
                        await self._share_in(work, copy)
                    checklist.add("shared", copy)
        return executable, stdin

    async def stage_out(self, work: JobWork) -> None:
        """Deliver `file_stage_out`; raises StagingError 155."""
        base = working_directory(work, self._workspace.home)
        with self._checklist(work) as checklist:
            for copy in work.stage_out:
                if checklist.misses("out", copy):
                    with _naming(ErrorCode.STAGE_OUT_FAILED, "filestageout", *_ends(copy)):
                        target = place(copy.destination, base)
                        with self._transfers.opened(work, place(copy.source, base)) as origin:
                            await self._transfers.store(work, origin, 0, target)
                    checklist.add("out", copy)

    async def _to_cache(self, work: JobWork, url: str, mode: int) -> str:
        found = place(url, self._workspace.home)
        return await self._transfers.fetch_to_cache(work, Place(found.kind, url), mode=mode)

    async def _copy_in(self, work: JobWork, copy: Copy) -> None:
        base = working_directory(work, self._workspace.home)
        await self._transfers.fetch(work, place(copy.source, base), _local(copy, base))

    async def _share_in(self, work: JobWork, copy: Copy) -> None:
        base = working_directory(work, self._workspace.home)
        link = _local(copy, base)
        path = await self._to_cache(work, copy.source, _READABLE)
        await in_thread(_replace_link, path, link)

    @contextlib.contextmanager
    def _checklist(self, work: JobWork) -> "Iterator[Checklist]":
        with failing(ErrorCode.NO_RESOURCES, "cannot open the job directory"):
            directory = self._workspace.open(work.id)
        with directory:
            yield Checklist(directory)


class Checklist:
    """The items of a job that are staged."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        with failing(ErrorCode.NO_RESOURCES, "cannot read what has been staged"):
            noted = directory.read(_CHECKLIST, _MAX_CHECKLIST) or b""
        self._done = set(noted.split(b"\n"))

    def misses(self, kind: str, copy: Copy) -> bool:
        """Whether an item is still to be done."""
        return _digest(kind, copy) not in self._done

    def add(self, kind: str, copy: Copy) -> None:
        """Note that an item is done."""
        with failing(ErrorCode.NO_RESOURCES, "cannot note what has been staged"):
            descriptor = self._directory.open(_CHECKLIST, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(descriptor, _digest(kind, copy) + b"\n")
            finally:
                os.close(descriptor)


def _digest(kind: str, copy: Copy) -> bytes:
    text = "\0".join((kind, copy.source, copy.destination))
    data = text.encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).hexdigest()[:32].encode("ascii")


def _local(copy: Copy, base: str) -> str:
    target = place(copy.destination, base)
    if target.kind is not Kind.LOCAL:
        raise OSError(22, f"the destination must be a file here: {unsupported(target.name)}")
    return target.name


def _replace_link(path: str, link: str) -> None:
    """Make a symbolic link, also in the place of another one (an earlier job's, say)."""
    if os.path.lexists(link) and not os.path.islink(link):
        raise FileExistsError(17, "there is a file already", link)
    temporary = os.path.join(os.path.dirname(link), f".gram-{secrets.token_hex(8)}")
    os.symlink(path, temporary)
    os.rename(temporary, link)


def _ends(copy: Copy) -> tuple[str, str]:
    return copy.source, copy.destination


@contextlib.contextmanager
def _naming(code: ErrorCode, kind: str, source: str, destination: str = "") -> Iterator[None]:
    """Say which item failed, with the code of its kind (job-manager.md §5.2)."""
    try:
        yield
    except (OSError, GramError) as error:
        raise StagingError(code, Failure(reason(error), kind, source, destination)) from error
