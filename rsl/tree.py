"""The tree of a specification (rsl.md §1) and the walk over it.

Text is `str`, decoded from UTF-8 with `surrogateescape`, so that every byte survives. Trees may be
thousands of levels deep; the functions of this package walk them without recursion, but `==`,
`hash()` and `repr()` of the tree itself recurse: compare deep trees by their printed text.
"""

import typing as t
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BooleanOperator = t.Literal["&", "|", "+"]
RelationOperator = t.Literal["=", "!=", ">", ">=", "<", "<="]


@dataclass(frozen=True, slots=True)
class Literal:
    """A string; may be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """A parenthesised list of values; never empty."""

    items: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A reference `$(...)`; the first argument is meant to be the name."""

    arguments: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """Two values joined with `#`; `a#b#c` nests to the right. Neither side is a Sequence."""

    left: "Value"
    right: "Value"


Value = Literal | Sequence | Variable | Concat


@dataclass(frozen=True, slots=True)
class Relation:
    """`attribute op values`; the values are never empty."""

    attribute: str
    op: RelationOperator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Boolean:
    """`&` (and), `|` (or) or `+` (multi-request) over operands; never empty."""

    op: BooleanOperator
    operands: tuple["Specification", ...]


Specification = Boolean | Relation

_LOWER_CASE = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")


def encode(text: str) -> bytes:
    """The bytes of a text; raises UnicodeEncodeError for surrogates that stand for no byte."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """The text of any bytes."""
    return data.decode("utf-8", "surrogateescape")


def join(parts: list[str]) -> str:
    """Concatenate as bytes: two halves of a UTF-8 character become that character."""
    text = "".join(parts)
    return text if text.isascii() else decode(encode(text))


def canonical_name(name: str) -> str:
    """An attribute's canonical form: no underscores, ASCII lower case (rsl.md §7)."""
    return decode(encode(name).translate(_LOWER_CASE, b"_"))


def fold_case(name: str) -> str:
    """ASCII lower case, as the accessors compare names; underscores stay (rsl.md §7)."""
    return name.lower() if name.isascii() else decode(encode(name).translate(_LOWER_CASE))


def relations(spec: Specification) -> Iterator[Relation]:
    """All relations, depth first and in order, through every boolean."""
    pending = [spec]
    while pending:
        node = pending.pop()
        if isinstance(node, Relation):
            yield node
        else:
            pending.extend(reversed(node.operands))


def _nothing() -> None:
    """Entering or leaving a boolean means nothing to most walks."""


def map_relations(
    spec: Specification,
    change: Callable[[Relation], Relation],
    enter: Callable[[], None] = _nothing,
    leave: Callable[[], None] = _nothing,
) -> Specification:
    """A new tree with every relation changed, in order; `enter`/`leave` surround each boolean."""
    if isinstance(spec, Relation):
        return change(spec)
    enter()
    open_booleans: list[tuple[Boolean, Iterator[Specification], list[Specification]]] = [
        (spec, iter(spec.operands), [])
    ]
    while True:
        boolean, operands, changed = open_booleans[-1]
        for operand in operands:
            if isinstance(operand, Boolean):
                enter()
                open_booleans.append((operand, iter(operand.operands), []))
                break
            changed.append(change(operand))
        else:
            leave()
            open_booleans.pop()
            done = Boolean(boolean.op, tuple(changed))
            if not open_booleans:
                return done
            open_booleans[-1][2].append(done)


def canonicalise(spec: Specification) -> Specification:
    """A new tree whose attributes have their canonical names (rsl.md §7)."""
    return map_relations(
        spec,
        lambda relation: Relation(canonical_name(relation.attribute), relation.op, relation.values),
    )
