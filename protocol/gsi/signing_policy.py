"""Signing policies: which subjects a CA may certify (wire-protocol.md 3.2, gatekeeper.md 19).

A file is a stream of words.  `'...'` makes one word of several, with backslash escapes inside; a
word that starts with `#` is a comment up to the end of the line.  An entry is

    access_id_CA  X509    '<CA subject>'        or: access_id_ANYBODY
    pos_rights    globus  CA:sign
    cond_subjects globus  '"<pattern>" "<pattern>"'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from protocol.gsi.names import comparison_key

MAX_POLICY = 1 << 20

_SPACE = re.compile(r"[ \t\n\v\f\r]+")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_PLAIN = re.compile(r"[^ \t\n\v\f\r]+")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PATTERNS = re.compile(r'\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)

_ARGUMENTS = {
    "access_id_ANYBODY": 0,
    "access_id_CA": 2,
    "access_id_USER": 2,
    "access_id_GROUP": 2,
    "access_id_HOST": 2,
    "access_id_APPLICATION": 2,
    "pos_rights": 2,
    "neg_rights": 2,
}


class PolicyError(ValueError):
    """A signing policy file breaks the grammar, or does not allow a subject."""


class Statement(NamedTuple):
    """One keyword with its authority and value (both empty for access_id_ANYBODY)."""

    keyword: str
    authority: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One access id, its rights, and the conditions on them."""

    access: Statement
    rights: tuple[Statement, ...]
    conditions: tuple[Statement, ...]

    def names(self, issuer: str) -> bool:
        """Whether the entry is about this issuer (slash form)."""
        return (
            self.access.keyword == "access_id_CA"
            and self.access.authority == "X509"
            and _equal(self.access.value, issuer)
        )


@dataclass(frozen=True, slots=True)
class SigningPolicy:
    """The entries of one file, in order."""

    entries: tuple[Entry, ...]

    @classmethod
    def parse(cls, data: bytes) -> SigningPolicy:
        """Read a file.  Raises PolicyError."""
        if len(data) > MAX_POLICY:
            raise PolicyError("the file is too large")
        # The patterns are compared with slash forms, which are ASCII; Latin-1 keeps other octets.
        statements = list(_statements(_words(data.decode("latin-1"))))
        entries = []
        while statements:
            entries.append(_take_entry(statements))
        return cls(tuple(entries))

    def check(self, issuer: str, subject: str) -> None:
        """Check that `issuer` may certify `subject` (both in slash form).

        The first entry that names the issuer or anybody decides; when it names the issuer, so may
        any further entry that does.  Raises PolicyError, with the reason, when it is not allowed.
        """
        relevant = [
            item
            for item in self.entries
            if item.access.keyword == "access_id_ANYBODY" or item.names(issuer)
        ]
        if not relevant:
            raise PolicyError(f"no entry for the CA {issuer}")
        if relevant[0].access.keyword == "access_id_ANYBODY":
            relevant = relevant[:1]
        else:
            relevant = [item for item in relevant if item.names(issuer)]
        refusals = [_refusal(item, subject) for item in relevant]
        first = refusals[0]
        if first is not None and None not in refusals:
            raise PolicyError(first)


def _words(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        if space := _SPACE.match(text, position):
            position = space.end()
            continue
        if text[position] == "#":
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
            continue
        word = (_QUOTED if text[position] == "'" else _PLAIN).match(text, position)
        if word is None:
            raise PolicyError("a quote is not closed")
        position = word.end()
        if not _SPACE.match(text, position):
            raise PolicyError(f"no blank or line feed after {word[0]!r}")
        yield _ESCAPE.sub(r"\1", word[1]) if word[0].startswith("'") else word[0]


def _statements(words: Iterator[str]) -> Iterator[Statement]:
    for keyword in words:
        count = 2 if keyword.startswith("cond_") else _ARGUMENTS.get(keyword)
        if count is None:
            raise PolicyError(f"unknown keyword {keyword!r}")
        arguments = [word for _, word in zip(range(count), words, strict=False)]
        if len(arguments) != count:
            raise PolicyError(f"{keyword} lacks an argument")
        yield Statement(keyword, *arguments)


def _take_entry(statements: list[Statement]) -> Entry:
    access = statements.pop(0)
    if not access.keyword.startswith("access_id_"):
        raise PolicyError(f"{access.keyword} outside an entry")
    rights, conditions = [], []
    while statements and not statements[0].keyword.startswith("access_id_"):
        item = statements.pop(0)
        if not item.keyword.startswith("cond_"):
            rights.append(item)
        elif rights:
            conditions.append(item)
        else:
            raise PolicyError(f"{item.keyword} without a right")
    return Entry(access, tuple(rights), tuple(conditions))


def _patterns(value: str) -> list[str]:
    """Split the value of cond_subjects; without inner double quotes it is one pattern."""
    if '"' not in value:
        return [_ESCAPE.sub(r"\1", value.strip(" "))]
    found, position = [], 0
    while match := _PATTERNS.match(value, position):
        found.append(_ESCAPE.sub(r"\1", match[1]))
        position = match.end()
    if value[position:].strip():
        raise PolicyError("cond_subjects is not a list of quoted patterns")
    return found


def _refusal(entry: Entry, subject: str) -> str | None:
    """Say why an entry does not allow a subject; None when it does."""
    if not entry.rights:
        return "the entry grants no right"
    for item in entry.rights:
        if item != ("pos_rights", "globus", "CA:sign"):
            return f"the entry has {item.keyword} {item.authority} {item.value}"
    for item in entry.conditions:
        if item.keyword == "cond_banned_subjects":
            # The reference denies everything then, whatever the patterns are.
            return "cond_banned_subjects is not supported: remove it from the file"
        if item.keyword != "cond_subjects" or item.authority != "globus":
            return f"the condition {item.keyword} {item.authority} is not supported"
        if not any(_matches(pattern, subject) for pattern in _patterns(item.value)):
            return f"no pattern allows {subject}"
    return None


def _equal(first: str, second: str) -> bool:
    return comparison_key(first) == comparison_key(second)


def _matches(pattern: str, subject: str) -> bool:
    """Match case-insensitively; only the last `*` is a wild card, for one character or more."""
    if "*" not in pattern:
        return _equal(pattern, subject)
    # As written, or with the attribute types in one spelling: "/UID*" matches only as written.
    return _wild(pattern.lower(), subject.lower()) or _wild(
        comparison_key(pattern), comparison_key(subject)
    )


def _wild(pattern: str, subject: str) -> bool:
    head, _, tail = pattern.rpartition("*")
    return (
        len(subject) > len(head) + len(tail) and subject.startswith(head) and subject.endswith(tail)
    )
