"""From bytes to lexemes (rsl.md §3).

The lexer carries a stack of counters for open variable references, because the parenthesis that
closes one may be followed by an implicit `#`. Where no lexeme matches, scanning stops and the
parser sees the end of the input; the scan remembers where and why.
"""

import re
from dataclasses import dataclass

from rsl.tree import decode

STRING, OPERATOR, BOOLEAN = "STRING", "OPERATOR", "BOOLEAN"
HASH, OPEN, CLOSE, DOLLAR = "_HASH", "_OPEN", "_CLOSE", "_DOLLAR"
END = "$END"

_NEVER_IN_LITERAL = b"\t\n =!<>()\"'^*$#?~"
_STARTS_LITERAL = frozenset(range(256)) - frozenset(_NEVER_IN_LITERAL + b"+&|")
_BLANK = frozenset(b" \t\n")
_QUOTE = frozenset(b"\"'^")
_SINGLE = {ord("#"): HASH, ord("+"): BOOLEAN, ord("&"): BOOLEAN, ord("|"): BOOLEAN}
_LEFT, _RIGHT, _REFERENCE = b"()$"

# A run of literal bytes, of blanks, a relational operator: longest match, no white space inside.
_LITERAL_RUN = re.compile(rb"[^\t\n =!<>()\"'^*$#?~]+")
_BLANK_RUN = re.compile(rb"[ \t\n]+")
_RELATIONAL = re.compile(rb"!=|<=|>=|[=<>]")


class Lexeme:
    """One terminal: its type, its text and the offset of its first byte."""

    __slots__ = ("offset", "type", "value")
    # The parser copies these into the end token it makes.
    start_pos = line = column = end_line = end_column = end_pos = None

    def __init__(self, type_: str, value: str, offset: int) -> None:
        self.type = type_
        self.value = value
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Stop:
    """Why scanning ended early, and the offset of the first byte that was not understood."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """The lexemes of a text, and where scanning stopped if that was before its end."""

    lexemes: list[Lexeme]
    stop: Stop | None


def scan(data: bytes) -> Scan:
    """All lexemes of `data`, which holds no NUL (rsl.md §3.7). Never raises."""
    lexemes: list[Lexeme] = []
    add = lexemes.append
    # For each open reference, innermost last: how many parentheses are open since its "$".
    references: list[int] = []
    at, size = 0, len(data)
    while at < size:
        first = data[at]
        if first in _STARTS_LITERAL:
            end = _end_of(_LITERAL_RUN, data, at)
            add(Lexeme(STRING, decode(data[at:end]), at))
            at = end
            if at < size and data[at] == _REFERENCE:
                add(Lexeme(HASH, "#", at))
        elif first in _BLANK:
            at = _end_of(_BLANK_RUN, data, at)
        elif first == _LEFT and data.startswith(b"*", at + 1):
            end = data.find(b"*)", at + 2)
            if end < 0:
                return Scan(lexemes, Stop(at, "unterminated comment"))
            at = end + 2
        elif first == _LEFT:
            add(Lexeme(OPEN, "(", at))
            at += 1
            if references:
                references[-1] += 1
        elif first == _RIGHT:
            add(Lexeme(CLOSE, ")", at))
            at += 1
            if references:
                references[-1] -= 1
                if references[-1] == 0:
                    references.pop()
                    if at < size and (data[at] == _REFERENCE or data[at] in _STARTS_LITERAL):
                        add(Lexeme(HASH, "#", at))
        elif first in _QUOTE:
            quoted = _quoted(data, at)
            if isinstance(quoted, str):
                return Scan(lexemes, Stop(at, quoted))
            text, end = quoted
            add(Lexeme(STRING, decode(text), at))
            at = end
        elif first == _REFERENCE:
            add(Lexeme(DOLLAR, "$", at))
            at += 1
            references.append(0)
        elif first in _SINGLE:
            add(Lexeme(_SINGLE[first], chr(first), at))
            at += 1
        else:
            relational = _RELATIONAL.match(data, at)
            if relational is None:
                return Scan(lexemes, Stop(at, f"illegal character {chr(first)!r}"))
            add(Lexeme(OPERATOR, relational.group().decode("ascii"), at))
            at = relational.end()
    return Scan(lexemes, None)


def _end_of(run: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where the run that begins at `at` ends; `at` itself when there is none."""
    match = run.match(data, at)
    return match.end() if match else at


def _quoted(data: bytes, start: int) -> tuple[bytes, int] | str:
    """The text of the quoted literal at `start` and the offset behind it, or why there is none.

    Whether a delimiter closes the literal shows only in the byte after it (rsl.md §3.3).
    """
    begin = start + 1
    if data[start:begin] == b"^":
        begin += 1
    delimiter = data[begin - 1 : begin]
    if not delimiter:
        return "^ at end of input"
    at = begin
    while (close := data.find(delimiter, at)) >= 0:
        following = data[close + 1 : close + 2]
        if not following:
            return "closing quote is the last byte of the input"
        if following != delimiter:
            return data[begin:close].replace(delimiter * 2, delimiter), close + 1
        at = close + 2
    return "unterminated quote"
