"""From text to tree (rsl.md §4).

The grammar is LALR(1); the lexer is our own, because the language cannot be tokenised by regular
expressions alone. The tree is built while the parser reduces, without recursion.
"""

import functools
import typing as t
from collections.abc import Iterator

from lark import Lark, Transformer
from lark.exceptions import UnexpectedToken
from lark.lexer import Lexer

from rsl import tree
from rsl.errors import RSLLimitError, RSLSyntaxError
from rsl.lexer import BOOLEAN, CLOSE, DOLLAR, END, HASH, OPEN, OPERATOR, STRING, Lexeme, scan
from rsl.limits import MAX_BYTES, check_pending

GRAMMAR = """
?specification: BOOLEAN (_OPEN specification _CLOSE)+  -> boolean
              | STRING OPERATOR value+                 -> relation
?value: _OPEN value+ _CLOSE                            -> sequence
      | atom (_HASH atom)+                             -> concatenation
      | atom
?atom: STRING                                          -> literal
     | _DOLLAR _OPEN value+ _CLOSE                     -> variable

%declare BOOLEAN OPERATOR STRING _OPEN _CLOSE _HASH _DOLLAR
"""

Mode = t.Literal["compatible", "strict"]


class _RSLLexer(Lexer):
    """Hands the scan to the parser."""

    def __init__(self, _conf: object) -> None:
        """The terminals are known; there is nothing to configure."""

    def lex(self, data: bytes) -> Iterator[Lexeme]:  # type: ignore[override]  # lark's short form
        lexemes = scan(data).lexemes
        check_pending(lexemes)
        return iter(lexemes)


class _Builder(Transformer[Lexeme, tree.Specification]):
    """Makes a tree node of each reduced rule."""

    def boolean(self, children: list[t.Any]) -> tree.Boolean:
        return tree.Boolean(children[0].value, tuple(children[1:]))

    def relation(self, children: list[t.Any]) -> tree.Relation:
        return tree.Relation(children[0].value, children[1].value, tuple(children[2:]))

    def sequence(self, children: list[tree.Value]) -> tree.Sequence:
        return tree.Sequence(tuple(children))

    def variable(self, children: list[tree.Value]) -> tree.Variable:
        return tree.Variable(tuple(children))

    def literal(self, children: list[Lexeme]) -> tree.Literal:
        return tree.Literal(children[0].value)

    def concatenation(self, children: list[tree.Value]) -> tree.Value:
        return functools.reduce(lambda right, left: tree.Concat(left, right), reversed(children))


@functools.cache
def _parser() -> Lark:
    return Lark(
        GRAMMAR,
        parser="lalr",
        start="specification",
        lexer=_RSLLexer,
        transformer=_Builder(),
        maybe_placeholders=False,
    )


def parse(
    text: str | bytes, mode: Mode = "compatible", *, max_bytes: int = MAX_BYTES
) -> tree.Specification:
    """The tree of a specification.

    `compatible` accepts exactly what the reference accepts: the text ends at the first NUL, and
    where scanning stops the rest is ignored without notice (rsl.md §3.6). `strict` refuses both,
    and accepts a quote that is the last byte (rsl.md §13.3).
    Raises RSLSyntaxError, and RSLLimitError above `max_bytes` or the structural limit.
    """
    data = _bytes(text)
    if len(data) > max_bytes:
        raise RSLLimitError(f"the specification has {len(data)} bytes; {max_bytes} are allowed")
    head = data.partition(b"\0")[0]
    if mode == "strict":
        # With a blank behind it, a closing quote is not the last byte.
        head += b"\n"
        stop = scan(head).stop
        if stop is not None:
            raise _error(data, stop.offset, stop.reason)
        if len(head) <= len(data):
            raise _error(data, len(head) - 1, "illegal character '\\x00'")
    try:
        return t.cast(tree.Specification, _parser().parse(head))
    except UnexpectedToken as error:
        raise _explain(head, error) from None


def _bytes(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return tree.encode(text)
    except UnicodeEncodeError as error:
        before = tree.encode(text[: error.start])
        raise _error(before, len(before), "a surrogate that stands for no byte") from None


def _error(data: bytes, offset: int, message: str, details: str = "") -> RSLSyntaxError:
    before = data[:offset]
    line = before.count(b"\n") + 1
    column = offset - (before.rfind(b"\n") + 1) + 1
    place = f"at byte {offset}" if line == 1 else f"at byte {offset}, line {line}"
    return RSLSyntaxError(f"{message} {place}{details}", offset, line, column)


_FOUND = {STRING: "string", END: "end of input"}
_WANTED = (
    ({BOOLEAN, STRING}, "'&' '|' '+' or string"),
    ({STRING, DOLLAR, OPEN}, "value"),
    ({STRING, DOLLAR}, "string or variable after #"),
    ({OPERATOR}, "relational operator"),
    ({OPEN}, "'('"),
    ({CLOSE}, "')'"),
    ({END}, "end of input"),
)


def _explain(data: bytes, error: UnexpectedToken) -> RSLSyntaxError:
    """What was found, where, and what could have stood there."""
    accepted = (set(error.accepts or ()) - {HASH}) or {END}
    wanted = []
    for terminals, name in _WANTED:
        if terminals <= accepted:
            wanted.append(name)
            accepted -= terminals
    found = error.token
    reason = ""
    if isinstance(found, Lexeme):
        offset = found.offset
        what = _FOUND.get(found.type, f"'{found.value}'")
        if found.type == OPERATOR:
            what = f"relop {found.value}"
    else:
        what = _FOUND[END]
        stop = scan(data).stop
        offset = stop.offset if stop else len(data)
        reason = f"; scanning stopped there: {stop.reason}" if stop else ""
    return _error(data, offset, f"unexpected {what}", f" (expected {' or '.join(wanted)}){reason}")
