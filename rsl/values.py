"""Typed values of validated and evaluated attributes (job-manager.md §3.4).

Each function takes an attribute and its values and raises RSLValidationError with the attribute's
own error numbers. Of an attribute that is given twice, the first counts.
"""

import re

from rsl.errors import RSLValidationError
from rsl.schema import Attribute, Kind
from rsl.tree import Literal, Sequence, Specification, Value, relations

_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)")
_DIGITS = 10
LARGEST = (1 << 31) - 1


def first_values(spec: Specification) -> dict[str, tuple[Value, ...]]:
    """The values that count for each attribute of a validated specification."""
    values: dict[str, tuple[Value, ...]] = {}
    for relation in relations(spec):
        values.setdefault(relation.attribute, relation.values)
    return values


def wrong_form(attribute: Attribute, detail: str = "") -> RSLValidationError:
    """The attribute's type error."""
    text = f'the RSL attribute "{attribute.name}" needs {detail or attribute.kind.value}'
    return RSLValidationError(attribute.type_error, text)


def one_string(attribute: Attribute, values: tuple[Value, ...]) -> str:
    """The text of the only value."""
    texts = strings(attribute, values)
    if len(texts) != 1:
        raise wrong_form(attribute)
    return texts[0]


def strings(attribute: Attribute, values: tuple[Value, ...]) -> tuple[str, ...]:
    """The texts of all values."""
    texts = tuple(value.text for value in values if isinstance(value, Literal))
    if len(texts) != len(values):
        raise wrong_form(attribute)
    return texts


def pairs(attribute: Attribute, values: tuple[Value, ...]) -> tuple[tuple[str, str], ...]:
    """The texts of values that are sequences of two strings."""
    found: list[tuple[str, str]] = []
    for value in values:
        texts = strings(attribute, value.items) if isinstance(value, Sequence) else ()
        if len(texts) != 2:
            raise wrong_form(attribute)
        found.append((texts[0], texts[1]))
    return tuple(found)


def integer(attribute: Attribute, values: tuple[Value, ...]) -> int:
    """A decimal number, with an optional sign and leading blanks (rsl.md §12.2), of 32 bits."""
    text = one_string(attribute, values)
    match = _INTEGER.fullmatch(text)
    number = int(match[2]) if match and len(match[2]) <= _DIGITS else LARGEST + 1
    if match and match[1] == "-":
        number = -number
    lowest = {Kind.POSITIVE: 1, Kind.AMOUNT: 0}.get(attribute.kind, -LARGEST)
    if not lowest <= number <= LARGEST:
        text = f'the RSL attribute "{attribute.name}" needs {attribute.kind.value}'
        raise RSLValidationError(attribute.value_error, text)
    return number


def period(attribute: Attribute, values: tuple[Value, ...]) -> int:
    """Seconds; `yes` means 60 and `no` 0 (job-manager.md §2.4)."""
    words = {"yes": 60, "no": 0}
    text = one_string(attribute, values)
    return words[text] if text in words else integer(attribute, values)
