"""Sizes, depths and growth: legal input works, anything larger is refused, nothing recurses."""

import pytest

import rsl
from tests.rsl.boundaries import BOUNDARIES

SYMBOLS = {"H": "h"}


@pytest.mark.parametrize("shape", BOUNDARIES)
def test_largest_text_is_accepted(shape: str) -> None:
    build, largest = BOUNDARIES[shape]
    text = build(largest)
    spec = rsl.parse(text)
    rsl.canonicalise(spec)
    if shape == "nested variables":
        with pytest.raises(rsl.RSLEvaluationError):
            rsl.evaluate(spec, SYMBOLS)
        with pytest.raises(rsl.RSLUnparseError):
            rsl.unparse(spec)
        return
    if shape == "arguments of a variable":
        assert rsl.unparse(spec) == '"x" = $("1" "1") '
        return
    printed = rsl.unparse(spec)
    assert rsl.unparse(rsl.parse(printed)) == printed
    evaluated = rsl.unparse(rsl.evaluate(spec, SYMBOLS))
    assert evaluated.count('"x"') == printed.count('"x"')
    assert "$" not in evaluated
    assert "#" not in evaluated


@pytest.mark.parametrize("shape", BOUNDARIES)
def test_one_more_is_refused(shape: str) -> None:
    build, largest = BOUNDARIES[shape]
    with pytest.raises(rsl.RSLLimitError):
        rsl.parse(build(largest + 1))


def test_text_has_no_other_limit() -> None:
    literal = "a" * 500_000
    spec = rsl.parse(f"&(x='{literal}')(*{literal}*)")
    assert rsl.get_single(spec, "x") == literal


def test_size_of_the_input_is_bounded() -> None:
    assert rsl.parse("x=1", max_bytes=3) == rsl.parse("x=1")
    for text in ("x=12", b"x=12", "x=é"):
        with pytest.raises(rsl.RSLLimitError):
            rsl.parse(text, max_bytes=3)
    with pytest.raises(rsl.RSLLimitError):
        rsl.parse("x=" + " " * (1 << 20))


@pytest.mark.parametrize("text", ["(" * 200_000, "x=" + ")" * 200_000, "$" * 200_000, "#" * 99_999])
def test_long_nonsense_is_refused(text: str) -> None:
    with pytest.raises((rsl.RSLSyntaxError, rsl.RSLLimitError)):
        rsl.parse(text)


def test_evaluation_cannot_explode() -> None:
    """Each variable holds the one before it ten times; the last would have 10^20 characters."""
    pairs = "(V0 aaaaaaaaaa)"
    for number in range(1, 20):
        pairs += f"(V{number} {f'$(V{number - 1})' * 10})"
    spec = rsl.parse(f"&(rsl_substitution={pairs})(x=$(V19))")
    with pytest.raises(rsl.RSLLimitError):
        rsl.evaluate(spec, {})


def test_growth_bound_counts_all_text_that_is_made() -> None:
    spec = rsl.parse("&(x=$(H) $(H)#bc plain)")
    assert rsl.evaluate(spec, {"H": "h"}, max_text=4) == rsl.parse("&(x=h hbc plain)")
    with pytest.raises(rsl.RSLLimitError):
        rsl.evaluate(spec, {"H": "h"}, max_text=3)


def test_many_scopes_do_not_slow_down_look_ups() -> None:
    """Thousands of scopes around thousands of look-ups: quadratic work would run for minutes."""
    depth = 2_000
    inner = "&(rsl_substitution=(A 1))(x=" + "($(H)$(A))" * 3_000 + ")"
    text = "&(" * depth + inner + ")" * depth
    evaluated = rsl.evaluate(rsl.parse(text), SYMBOLS)
    assert rsl.unparse(evaluated).count('"h1"') == 3_000
