"""The grid-mapfile: which names may use which accounts (gatekeeper.md 8).

`parse` is pure: bytes in, a frozen `GridMap` out; it never fails, lines that break the grammar are
skipped and named in `warnings`.  `GridMapFile` keeps one in step with a file.

Deviations, all towards refusal: a name `<anonymous>` and an empty name never match; an entry whose
first account begins with a dot (a pool of accounts, 8.4) maps nobody; an empty account name is no
account; a name longer than 255 bytes is no account.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import structlog

from protocol.gsi.names import comparison_key

ANONYMOUS = "<anonymous>"
MAX_ACCOUNT_LENGTH = 255
MAX_SIZE = 64 * 2**20
_MAX_WARNINGS = 100

# White space is blank, TAB and LF; CR, VT and FF are not.  A quote after a backslash does not
# close, even when that backslash is itself escaped.
_LINE = re.compile(
    rb'[ \t\n]*(?:"([^"]*(?:(?<=\\)"[^"]*)*)(?<!\\)"|([^ \t\n"#][^ \t\n]*)(?=[ \t\n]))'
    rb"[ \t\n]*(.*)",
    re.DOTALL,
)
_IGNORED = re.compile(rb"[ \t\n]*(?:#.*)?", re.DOTALL)
_SEPARATOR = re.compile(rb"[, \t\n]+")
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.)|\Z)", re.DOTALL)


class Refusal(Enum):
    """Why the map names no account; the value is stable and fit for logs."""

    NO_ENTRY = "no-entry"
    NO_ACCOUNTS = "no-accounts"
    NOT_GRANTED = "account-not-granted"
    BAD_ACCOUNT = "bad-account-name"
    POOL = "pool-accounts-unsupported"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Mapped:
    """The account that a name may use."""

    account: str


@dataclass(frozen=True, slots=True)
class NotMapped:
    """The name may not use an account, or not the one it asks for."""

    reason: Refusal
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: name in display form, and accounts in the order written (possibly none).

    Bytes of an account that are not UTF-8 are surrogate escapes.
    """

    line: int
    dn: str
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GridMap:
    """A parsed map: `entries` in file order, and what an operator should look at."""

    entries: tuple[Entry, ...] = ()
    warnings: tuple[str, ...] = ()
    _index: dict[str, Entry] = field(default_factory=dict, repr=False, compare=False)

    def lookup(self, dn: str, requested: str | None = None) -> Mapped | NotMapped:
        """Return the account of a name, or why there is none (8.3).

        Only the first entry that matches counts.  Without a requested account the entry's first
        one is taken; otherwise the entry must list the requested one, letter for letter.
        """
        if dn in ("", ANONYMOUS):
            return NotMapped(Refusal.ANONYMOUS, "anonymous clients are never mapped")
        entry = self._index.get(comparison_key(dn))
        if entry is None:
            return NotMapped(Refusal.NO_ENTRY, f"no entry for {dn}")
        if not entry.accounts:
            return NotMapped(Refusal.NO_ACCOUNTS, f"line {entry.line} lists no account")
        if entry.accounts[0].startswith("."):
            text = f"line {entry.line} maps to a pool of accounts, which is not supported"
            return NotMapped(Refusal.POOL, text)
        account = entry.accounts[0] if requested is None else requested
        if account not in entry.accounts:
            text = f"line {entry.line} does not list the requested account"
            return NotMapped(Refusal.NOT_GRANTED, text)
        if not account or len(account.encode(errors="surrogateescape")) > MAX_ACCOUNT_LENGTH:
            return NotMapped(Refusal.BAD_ACCOUNT, f"line {entry.line}: no usable account name")
        return Mapped(account)


def parse(data: bytes) -> GridMap:
    """Parse a grid-mapfile (8.1).  Never raises; lines that break the grammar are skipped."""
    entries: list[Entry] = []
    index: dict[str, Entry] = {}
    warnings: list[str] = []
    omitted = 0
    for number, line in enumerate(_lines(data), 1):
        entry, problems = _parse_line(number, line)
        if entry is not None:
            entries.append(entry)
            first = index.setdefault(comparison_key(entry.dn), entry)
            problems += _conflicts(first, entry)
        omitted += len(problems[_MAX_WARNINGS - len(warnings) :])
        warnings += problems[: _MAX_WARNINGS - len(warnings)]
    if omitted:
        warnings.append(f"and {omitted} more")
    return GridMap(tuple(entries), tuple(warnings), index)


def _lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines with their LF, without copying a large file at once."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _parse_line(number: int, line: bytes) -> tuple[Entry | None, list[str]]:
    content, nul, _ = line.partition(b"\0")
    problems = [f"line {number}: the rest after a NUL byte is ignored"] if nul else []
    match = _LINE.fullmatch(content)
    if match is None:
        if not _IGNORED.fullmatch(content):
            problems.append(f"line {number}: skipped: unclosed quote, or nothing after the name")
        return None, problems
    quoted, plain, rest = match.groups()
    accounts = [item for item in _SEPARATOR.split(rest) if item]
    if rest.startswith(b","):
        accounts.insert(0, b"")
    names = tuple(account.decode(errors="surrogateescape") for account in accounts)
    entry = Entry(number, display_form(plain if quoted is None else quoted), names)
    return entry, problems + [f"line {number}: {text}" for text in _suspicions(entry, line)]


def display_form(written: bytes) -> str:
    r"""Undo the escapes of a written name and show it as certificate names are shown (8.1).

    `\xHH` is a byte, backslash and another byte is that byte; bytes outside 0x20..0x7E then appear
    as `\xHH` with upper-case digits.
    """
    if b"\\" in written:
        written = _ESCAPE.sub(_unescape, written)
    if written.isascii() and (text := written.decode()).isprintable():
        return text
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}" for byte in written)


def _unescape(match: re.Match[bytes]) -> bytes:
    digits, other = match.groups()
    return bytes.fromhex(digits.decode()) if digits else other or b""


def _suspicions(entry: Entry, line: bytes) -> Iterator[str]:
    """Yield what is legal but hardly meant."""
    if entry.line == 1 and line.startswith(b"\xef\xbb\xbf"):
        yield "the file begins with a byte order mark, so that this line matches nobody"
    if entry.dn in ("", ANONYMOUS):
        yield "anonymous clients are never mapped"
    if not entry.accounts:
        yield "no account, so that the name is refused here and in later lines"
        return
    if entry.accounts[0].startswith("."):
        yield "pools of accounts are not supported; the name is refused"
    if "" in entry.accounts:
        yield "a comma before the first account makes an empty account name; the name is refused"
    if any("#" in account for account in entry.accounts):
        yield "a comment cannot follow an entry; its words are taken as accounts"
    if entry.accounts[-1].endswith("\r"):
        yield "DOS line end: the last account name ends in a carriage return"
    if any('"' in account for account in entry.accounts):
        yield "a quote is part of an account name"


def _conflicts(first: Entry, entry: Entry) -> list[str]:
    if first is entry or first.accounts == entry.accounts:
        return []
    how = "the same" if first.dn == entry.dn else "the same but for the spelling"
    where = f"its name is {how} as in line {first.line}, which maps it differently"
    return [f"line {entry.line}: never reached: {where}"]


# --- the file -----------------------------------------------------------------------------------


class GridMapError(Exception):
    """There is no map: nobody is mapped."""


_SETTLED = 100_000_000
"""Nanoseconds after which a change of a file surely shows in its times and size."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What tells two contents of a path apart."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Version:
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


class GridMapFile:
    """The map in a file, read again when the file changes.

    Methods block (file system, parsing): call them in a thread.  They may be called in several.
    `warn` gets one line for each thing an operator should look at, once for each version.
    """

    def __init__(
        self, path: Path, *, max_size: int = MAX_SIZE, warn: Callable[[str], None] | None = None
    ) -> None:
        self.path = path
        self._max_size = max_size
        self._warn = warn or _log_warning
        self._lock = threading.Lock()
        self._version: _Version | None = None
        self._map = GridMap()

    def current(self) -> GridMap:
        """Return the map as the file is now.  Raises GridMapError; an old map never stays."""
        try:
            with self._lock:
                if self._version is None or _Version.of(os.stat(self.path)) != self._version:
                    self._load()
                return self._map
        except OSError as error:
            self._version = None
            raise GridMapError(f"{self.path}: {error.strerror}") from error

    def _load(self) -> None:
        """Read and parse.

        A file that changed a moment ago may be changing still: its map is not kept, and a last
        line without LF, which might be half an account name, does not count yet.
        """
        self._version = None
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise GridMapError(f"{self.path}: not a regular file")
            data = file.read(self._max_size + 1)
            if len(data) > self._max_size:
                raise GridMapError(f"{self.path}: larger than {self._max_size} bytes")
            version = _Version.of(os.fstat(descriptor))
        age = time.time_ns() - version.changed  # negative after the clock was set back
        settled = version == _Version.of(status) and not 0 <= age <= _SETTLED
        if not settled:
            data = data[: data.rfind(b"\n") + 1]
        self._map = parse(data)
        if settled:
            self._version = version
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                self._warn(f"{self.path}: writable by others than its owner")
            for warning in self._map.warnings:
                self._warn(f"{self.path}: {warning}")


def _log_warning(text: str) -> None:
    structlog.get_logger("gatekeeper").warning("gridmap.warning", detail=text)
