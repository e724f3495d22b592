"""The GASS cache on disk, shared with `globus-gass-cache` (job-manager.md §5.4).

An entry is a URL's data, held by tags: `global/md5/<url>/data` and a hard link to it below every
tag, `local/md5/<tag>/md5/<url>/data`.  How many links the data has says who still needs it.  The
tool takes an entry for itself by renaming the global `data` to `data.<who>`; it is waited for.

Beside its `data`, a tag has a link `data.<host>_<process>_<n>` for each time the tool added it, and
the tool's `-delete` fails without one; so we make one too.
"""

import contextlib
import hashlib
import itertools
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from jobmanager.agent.directories import WORLD, Directory, existing

CONFIG = b"type=normal\nlevels=2\n"
SCHEME = "x-gass-cache://"
_BUSY_WAIT = 2.0
"""Seconds to wait for another process that holds an entry; then its hold counts as abandoned."""
_POLL = 0.02
_ATTEMPTS = 10

_serial = itertools.count()


@dataclass(slots=True)
class Download:
    """Data on its way into the cache: write it to `descriptor`, then `GassCache.publish`."""

    name: str
    descriptor: int


class GassCache:
    """The cache in a directory, made when missing.

    All methods raise OSError, also when something in the cache is not what it should be.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def find(self, url: str, tag: str) -> str | None:
        """Path of the data of a URL under a tag, None when it is not there."""
        with (
            contextlib.ExitStack() as stack,
            contextlib.suppress(FileNotFoundError),
        ):
            root = stack.enter_context(Directory.at(self.path, WORLD))
            entry = stack.enter_context(root.descend(*_below_tag(url, tag)))
            if (status := entry.status("data")) is not None:
                _require_regular(status, entry)
                return f"{entry.path}/data"
        return None

    def add_empty(self, url: str, *tags: str) -> str:
        """Make sure that a URL has an entry under all the tags; the path under the first."""
        if not all(self.tag(url, tag) for tag in tags):
            download = self.begin()
            self.publish(download, url, tags[0], mode=0o600)
            for tag in tags[1:]:
                if not self.tag(url, tag):
                    raise FileNotFoundError(2, "the entry was removed while it was made", url)
        return _require(self.find(url, tags[0]), url)

    def tag(self, url: str, tag: str) -> bool:
        """Put a tag on a URL's data if the cache has it; whether it has."""
        if self.find(url, tag) is not None:
            return True
        with self._opened() as root, root.enter("tmp") as temporary:
            guard = f"gram_{_unique()}"
            if not _hold(root, url, temporary, guard):
                return False
            try:
                _attach(root, url, tag, temporary, guard)
            finally:
                temporary.remove(guard)
        return True

    def begin(self) -> Download:
        """Start to bring in data."""
        with self._opened() as root, root.enter("tmp") as temporary:
            name, descriptor = temporary.create_unique("gram_")
            return Download(name, descriptor)

    def publish(self, download: Download, url: str, tag: str, *, mode: int) -> str:
        """Make downloaded data a URL's entry under a tag; gives its path there.

        When somebody else was faster their data is used.
        """
        try:
            os.fchmod(download.descriptor, mode)
            with self._opened() as root, root.enter("tmp") as temporary:
                _attach(root, url, tag, temporary, download.name)
        finally:
            self.discard(download)
        return _require(self.find(url, tag), url)

    def discard(self, download: Download) -> None:
        """Drop data that will not be published."""
        os.close(download.descriptor)
        with self._opened() as root, root.enter("tmp") as temporary:
            temporary.remove(download.name)

    def remove_tag(self, tag: str) -> None:
        """Take a tag off everything; what has no other tag goes."""
        with (
            contextlib.suppress(FileNotFoundError),
            Directory.at(self.path, WORLD) as root,
            existing(root, "local", "md5", *_mangle(tag), "md5") as entries,
        ):
            for high, low in [] if entries is None else _entries(entries):
                _detach(root, (high, low), tag)
        _prune(self.path, "local", "md5", *_mangle(tag), files=("tag",))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Directory]:
        os.makedirs(self.path, 0o700, exist_ok=True)
        with Directory.at(self.path, WORLD) as root:
            if os.fstat(root.descriptor).st_uid != os.geteuid():
                raise PermissionError(1, "the cache belongs to somebody else", self.path)
            for name in ("global", "local", "tmp"):
                root.enter(name, create=True).close()
            if root.status("config") is None:
                root.write("config", CONFIG)
            yield root


# What can go wrong between two of these steps leaves at worst an entry without tags.


def _attach(root: Directory, url: str, tag: str, temporary: Directory, source: str) -> None:
    """Give a URL's data the tag; `source` in `temporary` becomes the data if there is none.

    The link in `temporary` keeps others from seeing the data as unneeded meanwhile.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):  # a directory was pruned meanwhile
            _publish_data(root, url, temporary, source)
            _link_tag(root, url, tag, temporary, source)
            with existing(root, "global", "md5", *_mangle(url)) as entry:
                if entry is not None and _same(entry.status("data"), temporary.status(source)):
                    return
    raise FileNotFoundError(2, "the cache entry keeps being removed", url)


def _publish_data(root: Directory, url: str, temporary: Directory, source: str) -> None:
    """Make `source` the URL's data, or the URL's data `source`."""
    with root.descend("global", "md5", *_mangle(url), create=True) as entry:
        _publish_text(entry, "url", url)
        if not temporary.link(source, entry, "data"):
            other = f"gram_{_unique()}"
            if _hold(root, url, temporary, other):
                temporary.rename(other, source)
                temporary.remove(other)  # still there when both were the same file


def _hold(root: Directory, url: str, temporary: Directory, guard: str) -> bool:
    """Link a URL's data to `guard`, waiting for a process that has it; false for no data."""
    deadline = time.monotonic() + _BUSY_WAIT
    while True:
        with existing(root, "global", "md5", *_mangle(url)) as entry:
            if entry is None:
                return False
            try:
                _require_regular(entry.status("data"), entry)
                return entry.link("data", temporary, guard)
            except FileNotFoundError:
                busy = any(name.startswith("data.") for name in entry.names())
        if not busy or time.monotonic() > deadline:
            return False
        time.sleep(_POLL)


def _link_tag(root: Directory, url: str, tag: str, temporary: Directory, held: str) -> None:
    with root.descend("local", "md5", *_mangle(tag), create=True) as owner:
        _publish_text(owner, "tag", tag)
        with owner.descend("md5", *_mangle(url), create=True) as entry:
            owner.link("tag", entry, "tag")
            entry.remove("data")  # left by an attempt whose data is gone
            temporary.link(held, entry, "data")
            if not any(name.startswith("data.") for name in entry.names()):
                temporary.link(held, entry, f"data.{_unique()}")


def _detach(root: Directory, place: tuple[str, str], tag: str) -> None:
    below = ("local", "md5", *_mangle(tag), "md5", *place)
    with existing(root, *below) as entry:
        if entry is None:
            return
        for name in entry.names():
            entry.remove(name)
    _prune(root.path, *below)
    with existing(root, "global", "md5", *place) as entry:
        status = None if entry is None else entry.status("data")
        if entry is None or status is None or status.st_nlink > 1:
            return
        entry.remove("data")
    _prune(root.path, "global", "md5", *place, files=("url",))


def _prune(root: str, *names: str, files: tuple[str, ...] = ()) -> None:
    """Remove `files` in the lowest directory if nothing else is there, then what is empty."""
    with contextlib.suppress(FileNotFoundError), Directory.at(root, WORLD) as top:
        with existing(top, *names) as lowest:
            if lowest is not None and not set(lowest.names()) - set(files):
                for name in files:
                    lowest.remove(name)
        for depth in range(len(names) - 1, 0, -1):
            with existing(top, *names[:depth]) as parent:
                if parent is not None and not parent.remove_empty(names[depth]):
                    return


def _entries(parent: Directory) -> list[tuple[str, str]]:
    found = []
    for high in parent.names():
        if re.fullmatch(r"[0-9a-f]{2}", high):
            with parent.enter(high) as level:
                found += [
                    (high, low) for low in level.names() if re.fullmatch(r"[0-9a-f]{30}", low)
                ]
    return found


def _publish_text(directory: Directory, name: str, text: str) -> None:
    """Make a small file as a whole, unless it is there."""
    if directory.status(name) is None:
        directory.write(name, _bytes(text))


def _require_regular(status: os.stat_result | None, entry: Directory) -> None:
    if status is None:
        raise FileNotFoundError(2, "no data", entry.path)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(1, "not a file of the account", f"{entry.path}/data")


def _require(path: str | None, url: str) -> str:
    if path is None:
        raise FileNotFoundError(2, "the cache entry was removed while it was made", url)
    return path


def _same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and one.st_ino == other.st_ino


def _below_tag(url: str, tag: str) -> tuple[str, ...]:
    return ("local", "md5", *_mangle(tag), "md5", *_mangle(url))


def _mangle(text: str) -> tuple[str, str]:
    digest = hashlib.md5(_bytes(text), usedforsecurity=False).hexdigest()
    return digest[:2], digest[2:]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unique() -> str:
    """A name in the tool's form: host, process, number."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname().split(".")[0])
    return f"{host}_{os.getpid():x}_{next(_serial)}"
