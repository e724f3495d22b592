"""Asking a specification for an attribute (rsl.md §11).

All of these take the first relation of that name, through all booleans and whatever its operator;
case does not count, underscores do.
"""

from rsl.errors import RSLAccessError
from rsl.tree import Literal, Relation, Sequence, Specification, Value, fold_case, relations


def find(spec: Specification, name: str) -> Relation | None:
    """The first relation with this attribute, or None."""
    wanted = fold_case(name)
    for relation in relations(spec):
        if fold_case(relation.attribute) == wanted:
            return relation
    return None


def get_single(spec: Specification, name: str) -> str | None:
    """The only value, which must be a literal; None if the attribute is absent.

    Raises RSLAccessError for any other value.
    """
    texts = get_multi(spec, name)
    if texts is None:
        return None
    if len(texts) != 1:
        raise RSLAccessError(f"{name} has {len(texts)} values where one is needed")
    return texts[0]


def get_multi(spec: Specification, name: str) -> tuple[str, ...] | None:
    """All values, which must be literals; None if the attribute is absent.

    Raises RSLAccessError for any other value.
    """
    relation = find(spec, name)
    if relation is None:
        return None
    return tuple(_text(name, value) for value in relation.values)


def get_sequence(spec: Specification, name: str) -> tuple[tuple[str, str], ...] | None:
    """All values, which must be pairs of literals; None if the attribute is absent.

    Raises RSLAccessError for any other value.
    """
    relation = find(spec, name)
    if relation is None:
        return None
    return tuple(_pair(name, value) for value in relation.values)


def _text(name: str, value: Value) -> str:
    if not isinstance(value, Literal):
        raise RSLAccessError(f"{name} has a value that is not a string")
    return value.text


def _pair(name: str, value: Value) -> tuple[str, str]:
    if not isinstance(value, Sequence) or len(value.items) != 2:
        raise RSLAccessError(f"{name} has a value that is not a pair")
    left, right = value.items
    return _text(name, left), _text(name, right)
