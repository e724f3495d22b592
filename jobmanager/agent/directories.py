"""Directories reached by descriptor: no symbolic link below an open one is followed.

A name that a link has been planted under is an OSError, never a way out of the directory.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

GROUP_OR_WORLD = 0o022
WORLD = 0o002


class Directory:
    """An open directory of the account; `path` is for messages and for other programs.

    Close it, or use it as a context manager.  Names are single components.  `forbidden` are the
    permission bits that no directory below it may have.
    """

    __slots__ = ("descriptor", "forbidden", "path")

    def __init__(self, descriptor: int, path: str, forbidden: int = GROUP_OR_WORLD) -> None:
        self.descriptor = descriptor
        self.path = path
        self.forbidden = forbidden

    @classmethod
    def at(cls, path: str, forbidden: int = GROUP_OR_WORLD) -> Self:
        """Open the directory at a path whose links are the account's own affair."""
        return cls(os.open(path, _DIRECTORY), path, forbidden)

    def enter(self, name: str, *, create: bool = False) -> "Directory":
        """Open a sub-directory, made with mode 0700 when it may be missing.

        Raises OSError, PermissionError also when it is not the account's own or when others may
        write to it.
        """
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self.descriptor)
        found = Directory(
            os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.descriptor),
            f"{self.path}/{name}",
            self.forbidden,
        )
        status = os.fstat(found.descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & self.forbidden:
            found.close()
            raise PermissionError(1, "others than the account may write to it", found.path)
        return found

    def descend(self, *names: str, create: bool = False) -> "Directory":
        """Open the directory that many levels below; `enter` for each, closing those between."""
        here = self
        for name in names:
            try:
                below = here.enter(name, create=create)
            finally:
                if here is not self:
                    here.close()
            here = below
        return here

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file; the descriptor is the caller's."""
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=self.descriptor)

    def create_unique(self, prefix: str, mode: int = 0o600) -> tuple[str, int]:
        """Make a new file with a name of its own and open it for reading and writing."""
        name = f"{prefix}{secrets.token_hex(8)}"
        return name, self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def write(self, name: str, data: bytes) -> None:
        """Put a file of mode 0600 in place as a whole: readers see the old or the new one."""
        temporary, descriptor = self.create_unique(f".{name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            self.rename(temporary, name)
        except OSError:
            self.remove(temporary)
            raise

    def read(self, name: str, limit: int) -> bytes | None:
        """The first `limit` bytes of a file, None when there is no such file."""
        try:
            descriptor = self.open(name, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit)

    def status(self, name: str) -> os.stat_result | None:
        """What is there under a name (a link itself, not what it names), None for nothing."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def rename(self, old: str, new: str) -> None:
        """Rename within the directory, replacing."""
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def link(self, name: str, other: "Directory", new: str) -> bool:
        """Make a hard link in another directory; false when the new name is taken."""
        try:
            os.link(
                name,
                new,
                src_dir_fd=self.descriptor,
                dst_dir_fd=other.descriptor,
                follow_symlinks=False,
            )
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def remove_empty(self, name: str) -> bool:
        """Remove a sub-directory if nothing is in it; whether it is gone."""
        try:
            os.rmdir(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def names(self) -> list[str]:
        """The names of what is in it."""
        return os.listdir(self.descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def existing(parent: Directory, *names: str) -> Iterator[Directory | None]:
    """The directory that many levels below, or None when one of the levels is missing."""
    try:
        found = parent.descend(*names)
    except FileNotFoundError:
        yield None
        return
    with found:
        yield found
