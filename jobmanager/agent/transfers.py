"""Copies between places: GASS servers, files of the account, the cache (job-manager.md §5.2)."""

import asyncio
import contextlib
import os
import secrets
import stat
import weakref
from collections.abc import AsyncIterator, Callable, Iterator

from jobmanager.agent.errors import RefusedError
from jobmanager.agent.frames import JobWork, Settings
from jobmanager.agent.gass import GassClient, GassURL
from jobmanager.agent.places import Kind, Place, unsupported
from jobmanager.agent.threads import in_thread
from jobmanager.agent.workspace import Workspace

CHUNK = 256 * 1024
"""Bytes per piece of an upload."""
_COPY_STEP = 8 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Transfers:
    """All operations raise OSError for local trouble, RefusedError and BrokenError for a server."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self.gass = GassClient(workspace, settings)
        self._cache = workspace.cache
        self._fetching: weakref.WeakValueDictionary[str, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    async def fetch(self, work: JobWork, source: Place, target: str) -> None:
        """Copy a source to a local path; nothing is left there when it fails."""
        async with _replacing(target) as descriptor:
            await self._read(work, source, descriptor)

    async def fetch_to_cache(self, work: JobWork, source: Place, *, mode: int) -> str:
        """Put a source into the cache under the job's tag, unless it is there; its path there.

        The data gets at least the permissions `mode`.
        """
        url = source.name
        lock = self._fetching.setdefault(url, asyncio.Lock())
        async with lock:  # many jobs want the same program at once: it comes once
            if not await in_thread(self._cache.tag, url, work.contact):
                await self._bring_in(work, source, mode)
        path = await in_thread(self._cache.find, url, work.contact)
        if path is None:
            raise FileNotFoundError(2, "the cache entry was removed", url)
        await in_thread(_allow, path, mode)
        return path

    async def _bring_in(self, work: JobWork, source: Place, mode: int) -> None:
        download = await in_thread(self._cache.begin)
        try:
            await self._read(work, source, download.descriptor)
        except BaseException:
            self._cache.discard(download)
            raise
        await in_thread(self._cache.publish, download, source.name, work.contact, mode=mode)

    async def _read(self, work: JobWork, source: Place, descriptor: int) -> None:
        match source.kind:
            case Kind.NOTHING:
                return
            case Kind.GASS:
                await self.gass.download(work.id, source.name, _writer(descriptor))
            case Kind.LOCAL | Kind.CACHE:
                with self.opened(work, source) as origin:
                    await _copy(origin, descriptor)
            case Kind.UNSUPPORTED:
                raise RefusedError(unsupported(source.name))

    async def store(
        self, work: JobWork, origin: int, start: int, target: Place, tag: str | None = None
    ) -> None:
        """Copy an open file from offset `start` on to a destination, replacing what is there."""
        match target.kind:
            case Kind.NOTHING:
                return
            case Kind.GASS:
                await self._upload(work, origin, start, GassURL.parse(target.name))
            case Kind.LOCAL:
                async with _replacing(target.name) as descriptor:
                    await _copy(origin, descriptor, start)
            case Kind.CACHE:
                await self._store_in_cache(work, origin, start, target.name, tag)
            case Kind.UNSUPPORTED:
                raise RefusedError(unsupported(target.name))

    async def _upload(self, work: JobWork, origin: int, start: int, url: GassURL) -> None:
        upload = await self.gass.upload(work.id, url)
        try:
            while data := os.pread(origin, CHUNK, start):
                await upload.send(data)
                start += len(data)
            await upload.finish()
        finally:
            upload.abort()

    async def _store_in_cache(
        self, work: JobWork, origin: int, start: int, url: str, tag: str | None
    ) -> None:
        tags = (work.contact,) if tag is None else (work.contact, tag)
        path = await in_thread(self._cache.add_empty, url, *tags)
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            await _copy(origin, descriptor, start)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def opened(self, work: JobWork, source: Place) -> Iterator[int]:
        """A local file or an entry of the cache under the job's tag, for reading."""
        match source.kind:
            case Kind.LOCAL:
                path: str | None = source.name
            case Kind.CACHE:
                path = self._cache.find(source.name, work.contact)
            case _:
                raise RefusedError(f"{source.name} is not a file here")
        if path is None:
            raise FileNotFoundError(2, "the job has no such cache entry", source.name)
        descriptor = os.open(path, _READ)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(22, "not a file", path)
            yield descriptor
        finally:
            os.close(descriptor)


@contextlib.asynccontextmanager
async def _replacing(path: str) -> AsyncIterator[int]:
    """A new file that takes its place at the end, or is removed when the block fails."""
    directory, name = os.path.split(path)
    if not name:
        raise IsADirectoryError(21, "it is a directory", path)
    temporary = os.path.join(directory, f".gram-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, _NEW, 0o666)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    try:
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


async def _copy(origin: int, descriptor: int, start: int = 0) -> None:
    while count := await in_thread(os.sendfile, descriptor, origin, start, _COPY_STEP):
        start += count


def _writer(descriptor: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return write


def _allow(path: str, mode: int) -> None:
    """Give the account the permissions it lacks on its own cache file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        present = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & ~present:
            os.fchmod(descriptor, present | mode)
    finally:
        os.close(descriptor)
