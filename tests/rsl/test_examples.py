"""Every example of the language's specification (rsl.md §14)."""

import doctest
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import rsl

SYMBOLS = {"HOME": "/home/alice", "LOGNAME": "alice"}
CONTROL = str.maketrans("␊␍␉␋␡", "\n\r\t\v\x7f")


@dataclass
class Example:
    number: str
    text: str
    expected: dict[str, str] = field(default_factory=dict)


def read_examples() -> list[Example]:
    examples: list[Example] = []
    for line in (Path(__file__).parent / "examples.txt").read_text("utf-8").split("\n"):
        first = re.fullmatch(r"(\d{3}) in   ⟦(.*)⟧", line)
        row = re.fullmatch(r"    (tree|unp|eval|note|ERR) +(.*)", line)
        if first:
            examples.append(Example(first[1], first[2].translate(CONTROL)))
        elif row:
            examples[-1].expected[row[1]] = row[2]
        else:
            assert not re.match(r"\d| +\S", line), f"not understood: {line!r}"
    return examples


EXAMPLES = read_examples()


def raw(text: str) -> str:
    assert (text[0], text[-1]) == ("⟦", "⟧")
    return text[1:-1].translate(CONTROL)


def draw(node: rsl.Specification | rsl.Value) -> str:
    """The notation of rsl.md §1."""
    match node:
        case rsl.Boolean(op, operands):
            return f"{op}{{ {' ; '.join(map(draw, operands))} }}"
        case rsl.Relation(attribute, op, values):
            return f"‹{attribute}› {op} [{', '.join(map(draw, values))}]"
        case rsl.Literal(text):
            return f"‹{text}›"
        case rsl.Sequence(items):
            return f"[{', '.join(map(draw, items))}]"
        case rsl.Variable(arguments):
            return f"$[{', '.join(map(draw, arguments))}]"
        case rsl.Concat(left, right):
            return f"cat({draw(left)}, {draw(right)})"


def test_the_file_is_complete() -> None:
    assert [example.number for example in EXAMPLES] == [f"{n:03}" for n in range(1, 198)]
    assert sum("ERR" in example.expected for example in EXAMPLES) == 59


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.number)
def test_example(example: Example) -> None:
    expected = example.expected
    if "ERR" in expected:
        assert expected.keys() == {"ERR"}
        with pytest.raises(rsl.RSLSyntaxError) as caught:
            rsl.parse(example.text)
        check_message(str(caught.value), expected["ERR"])
        assert f"at byte {caught.value.offset} " in expected["ERR"]
        return
    spec = rsl.parse(example.text)
    assert draw(spec) == expected["tree"].translate(CONTROL)
    if expected["unp"].startswith("NULL"):
        with pytest.raises(rsl.RSLUnparseError):
            rsl.unparse(spec)
    else:
        assert rsl.unparse(spec) == raw(expected["unp"])
    after = expected["unp"] if expected["eval"] == "(same)" else expected["eval"]
    if after == "ERROR":
        with pytest.raises(rsl.RSLEvaluationError):
            rsl.evaluate(spec, SYMBOLS)
    else:
        assert rsl.unparse(rsl.evaluate(spec, SYMBOLS)) == raw(after)


def check_message(ours: str, expected: str) -> None:
    """Ours may name more alternatives before the one the explanation names."""
    pattern = r"(unexpected .* at byte \d+) \(expected (.*)\)((?:; scanning stopped there: .*)?)"
    found, wanted = (re.fullmatch(pattern, text) for text in (ours, expected))
    assert found is not None
    assert wanted is not None
    assert (found[1], found[3]) == (wanted[1], wanted[3])
    assert found[2].endswith(wanted[2])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.number)
def test_strict_mode_refuses_ignored_tails(example: Example) -> None:
    """Strict mode differs only where a tail was lost (rsl.md §13.3)."""
    expected = example.expected
    lost = expected.get("note", expected.get("ERR", ""))
    if "closing quote is the last byte" in lost:
        assert rsl.parse(example.text, mode="strict") == rsl.parse(example.text + "\n")
    elif "note" in expected or "ERR" in expected:
        with pytest.raises(rsl.RSLSyntaxError) as caught:
            rsl.parse(example.text, mode="strict")
        if "note" in expected:
            offset, reason = re.search(r"byte (\d+) on was ignored: (.*)", lost).groups()
            assert str(caught.value) == f"{reason} at byte {offset}"
    else:
        assert rsl.parse(example.text, mode="strict") == rsl.parse(example.text)


def test_example_in_the_package() -> None:
    assert doctest.testmod(rsl).attempted == 3
    assert doctest.testmod(rsl).failed == 0
