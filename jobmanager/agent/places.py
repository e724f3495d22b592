"""What the names in a job description stand for (job-manager.md §4.3, §5.2, §5.3)."""

import os
import re
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote

from jobmanager.agent.frames import JobWork

CACHE_SCHEME = "x-gass-cache"
GASS_SCHEMES = ("https", "http")
NULL = "/dev/null"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE = re.compile(r"file:(?=/)(?://(?:localhost)?(?=/))?", re.IGNORECASE)


class Kind(Enum):
    """How a place is reached."""

    NOTHING = auto()
    LOCAL = auto()
    CACHE = auto()
    GASS = auto()
    UNSUPPORTED = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """A file: `name` is an absolute path for LOCAL, else the URL."""

    kind: Kind
    name: str


def is_url(text: str) -> bool:
    """Whether a value of executable or stdin is fetched first."""
    return _URL.match(text) is not None


def place(text: str, base: str) -> Place:
    """What a path or URL of a description names; relative paths are below `base`."""
    if text == NULL:
        return Place(Kind.NOTHING, text)
    if (local := _FILE.match(text)) is not None:
        path = unquote(text[local.end() :], errors="surrogateescape")
        return Place(Kind.UNSUPPORTED, text) if "\0" in path else Place(Kind.LOCAL, path)
    if (url := _URL.match(text)) is None:
        return Place(Kind.LOCAL, os.path.join(base, text))
    scheme = url[1].lower()
    if scheme == CACHE_SCHEME:
        return Place(Kind.CACHE, text)
    return Place(Kind.GASS if scheme in GASS_SCHEMES else Kind.UNSUPPORTED, text)


def unsupported(url: str) -> str:
    """The text for a URL that nothing here can read or write."""
    return f"cannot transfer {url}: only https, http, file and x-gass-cache URLs are supported"


def working_directory(work: JobWork, home: str) -> str:
    """The job's working directory; an empty name stays empty, for it is an error later."""
    return work.directory and os.path.join(home, work.directory)


def scratch_directory(home: str, scratch_dir: str, job: str) -> str:
    """The path of a job's scratch directory, below what `scratch_dir` names."""
    return os.path.join(home, scratch_dir, f"gram_scratch_{job}")
