"""How a frame is written and checked: one rule for each field, applied when it is decoded.

A frame is a 4-byte big-endian length and at most `MAX_FRAME` bytes of ASCII JSON of the form
`{"kind": <class name>, <every field of the class>}`.  Unknown kinds and unknown, missing or
doubled fields are refused.  Strings carry bytes as UTF-8 with surrogate escapes.
"""

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NoReturn, TypeVar, get_type_hints

MAX_FRAME = 1 << 20
LENGTH = struct.Struct("!I")

Check = Callable[[object], object]
T = TypeVar("T")


class FrameError(ValueError):
    """A frame that is not exactly what it should be; `request_id` is 0 where none was readable."""

    def __init__(self, text: str, request_id: int = 0) -> None:
        super().__init__(text)
        self.request_id = request_id


class Frame:
    """The base of every kind of frame."""

    __slots__ = ()


def integer(low: int, high: int) -> Check:
    """An int, never a bool, in `low..high`."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise FrameError(f"not an integer in {low}..{high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A finite int or float in `low..high`, as float."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FrameError("not a number")
        if not low <= value <= high:  # nor is NaN in any range
            raise FrameError(f"not a number in {low}..{high}")
        return float(value)

    return check


def boolean(value: object) -> bool:
    """A bool."""
    if type(value) is not bool:
        raise FrameError("not a boolean")
    return value


def text(limit: int, pattern: str = r"[^\0]*") -> Check:
    """A string that stands for bytes, of at most `limit` characters, matching `pattern`."""
    matcher = re.compile(pattern)

    def check(value: object) -> str:
        if type(value) is not str or len(value) > limit or not matcher.fullmatch(value):
            raise FrameError(f"not a text of at most {limit} characters like {pattern}")
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise FrameError("not a text that stands for bytes") from error
        return value

    return check


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""
    return lambda value: None if value is None else check(value)


def many(check: Check, low: int, high: int) -> Check:
    """A list of `low..high` items, as tuple."""

    def check_all(value: object) -> tuple[object, ...]:
        if type(value) is not list or not low <= len(value) <= high:
            raise FrameError(f"not a list of {low}..{high} items")
        return tuple([check(item) for item in value])

    return check_all


def pair(first: Check, second: Check) -> Check:
    """A list of exactly two items, as tuple."""

    def check(value: object) -> tuple[object, object]:
        if type(value) is not list or len(value) != 2:
            raise FrameError("not a pair")
        return first(value[0]), second(value[1])

    return check


def record(cls: type[T]) -> Callable[[object], T]:
    """An object with exactly the fields of the dataclass `cls`, each passing its own rule.

    The rule of a field is what its annotation carries: `Annotated[type, rule]`, or a dataclass.
    """
    hints = get_type_hints(cls, include_extras=True).items()
    rules: dict[str, Check] = {
        name: hint.__metadata__[0] if hasattr(hint, "__metadata__") else record(hint)
        for name, hint in hints
    }

    def check(value: object) -> T:
        if not isinstance(value, dict) or value.keys() != rules.keys():
            raise FrameError("not exactly the fields " + ", ".join(rules))
        checked = {}
        for name, rule in rules.items():
            try:
                checked[name] = rule(value[name])
            except FrameError as error:
                raise FrameError(f"{name}: {error}") from None
        return cls(**checked)

    return check


def kinds(*classes: type[Frame]) -> Mapping[str, Callable[[object], Frame]]:
    """The table `decode` wants: the frames one side accepts."""
    return {cls.__name__: record(cls) for cls in classes}


def encode(frame: Frame) -> bytes:
    """The payload of a frame, without its length; raises FrameError when it is too long."""
    document = {"kind": type(frame).__name__, **asdict(frame)}  # type: ignore[call-overload] # every kind is a dataclass
    payload = json.dumps(document, separators=(",", ":")).encode("ascii")
    if len(payload) > MAX_FRAME:
        raise FrameError(f"a frame of {len(payload)} bytes is longer than {MAX_FRAME}")
    return payload


def decode(payload: bytes, accepted: Mapping[str, Callable[[object], Frame]]) -> Frame:
    """The checked frame, one of the kinds of `accepted`; raises FrameError."""
    document = parse_object(payload)
    claimed = document.get("id")
    request_id = claimed if type(claimed) is int and 0 < claimed < 1 << 63 else 0
    check = accepted.get(kind) if isinstance(kind := document.pop("kind", None), str) else None
    if check is None:
        raise FrameError("not a kind of frame that is expected here", request_id)
    try:
        return check(document)
    except FrameError as error:
        raise FrameError(f"{kind}: {error}", request_id) from None


def parse_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in ASCII bytes; raises FrameError for everything else."""
    try:
        document = json.loads(
            payload.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except FrameError:
        raise
    except (ValueError, RecursionError) as error:
        raise FrameError("not JSON in ASCII") from error
    if type(document) is not dict:
        raise FrameError("not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FrameError("a field is given twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise FrameError(f"{name} is not a number")
