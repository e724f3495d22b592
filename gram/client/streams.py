"""Where a job's output goes and its input comes from, as the embedded GASS server needs it."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from gram.client.errors import OutputTooLarge

BLOCK: Final = 256 * 1024
"""Bytes read or kept at a time."""

CAPTURE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of output that `Collected` keeps unless told otherwise."""

Sink: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes output piece by piece; the sender waits until it returns."""

Source: TypeAlias = Callable[[], AsyncIterator[bytes]]
"""Gives input piece by piece, from the start each time it is called."""

Output: TypeAlias = Sink | BinaryIO | str | Path | None
Input: TypeAlias = Source | BinaryIO | bytes | str | Path | None


class Collected:
    """A sink that keeps everything in memory; OutputTooLarge beyond `limit` bytes."""

    def __init__(self, limit: int = CAPTURE_LIMIT) -> None:
        self._limit = limit
        self._data = bytearray()

    async def __call__(self, data: bytes) -> None:
        """Keep data."""
        if len(self._data) + len(data) > self._limit:
            raise OutputTooLarge(self._limit)
        self._data += data

    @property
    def data(self) -> bytes:
        """Everything so far."""
        return bytes(self._data)


def file_sink(file: BinaryIO) -> Sink:
    """Return a sink that writes to an open binary file, e.g. `sys.stdout.buffer`."""

    def write(data: bytes) -> None:
        file.write(data)
        file.flush()

    async def sink(data: bytes) -> None:
        await asyncio.to_thread(write, data)

    return sink


def bytes_source(data: bytes) -> Source:
    """Return a source of these bytes."""

    async def source() -> AsyncIterator[bytes]:
        for start in range(0, len(data), BLOCK):
            yield data[start : start + BLOCK]

    return source


def file_source(file: BinaryIO) -> Source:
    """Return a source that reads an open binary file; from its start again if it can seek."""
    started = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal started
        if started:
            await asyncio.to_thread(file.seek, 0)
        started = True
        read = getattr(file, "read1", file.read)  # what a pipe has, not a full block
        while data := await asyncio.to_thread(read, BLOCK):
            yield data

    return source


def path_source(path: Path) -> Source:
    """Return a source that opens and reads a file each time."""

    async def source() -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(path.open, "rb")
        try:
            while data := await asyncio.to_thread(file.read, BLOCK):
                yield data
        finally:
            file.close()

    return source


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Which local files others may read and write through the GASS server: by default none.

    Each entry is a file or a directory, which stands for everything below it; symbolic links are
    followed first.  Anybody with our identity may use them, jobs on remote machines included.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading.  Raises OSError, PermissionError if not allowed."""
        real = _allowed(path, self.readable)
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(real, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PermissionError(errno.EACCES, "not a regular file", path)
        return open(descriptor, "rb")

    @asynccontextmanager
    async def replacing(self, path: str) -> AsyncIterator[Sink]:
        """Give a sink for a file that takes the place of `path` when all went well."""
        real = _allowed(path, self.writable)
        temporary = real.with_name(f".{real.name}.{secrets.token_hex(8)}")
        file = await asyncio.to_thread(_open, temporary, os.O_EXCL)
        try:
            with file:
                yield file_sink(file)
            await asyncio.to_thread(os.replace, temporary, real)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    @asynccontextmanager
    async def appending(self, path: str) -> AsyncIterator[Sink]:
        """Give a sink that appends to `path`, which is created if need be."""
        real = _allowed(path, self.writable)
        with await asyncio.to_thread(_open, real, os.O_APPEND) as file:
            yield file_sink(file)


def _open(path: Path, flag: int) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flag
    return open(os.open(path, flags, 0o666), "ab" if flag == os.O_APPEND else "wb")


def _allowed(path: str, permitted: tuple[Path, ...]) -> Path:
    """Return the real path if it is below one of the permitted ones."""
    if path.startswith(("/./", "/~")):  # working directory, home directory (job-manager.md 5.5)
        path = os.path.expanduser(path[1:])
    real = Path(os.path.realpath(path))
    for item in permitted:
        if real.is_relative_to(os.path.realpath(item)):
            return real
    raise PermissionError(errno.EACCES, "not permitted", path)
