"""Properties of the RSL package (rsl.md §13.5)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rsl
from rsl.tree import decode
from tests.rsl.generate import PIECES

SYMBOLS = {"HOME": "/home/alice", "A": "\udca9", "": "empty"}

texts = st.binary(max_size=8).map(lambda data: decode(data.replace(b"\0", b"")))
names = st.sampled_from(["HOME", "A", "", "NOPE", "rsl_substitution", "é", "Max_Time"]) | texts
literals = st.builds(rsl.Literal, texts)
variables = st.builds(
    lambda name, rest: rsl.Variable((name, *rest)),
    st.builds(rsl.Literal, names),
    st.lists(literals, max_size=1),
)


def concatenation(parts: list[rsl.Value]) -> rsl.Value:
    value = parts[-1]
    for part in reversed(parts[:-1]):
        value = rsl.Concat(part, value)
    return value


strings = st.lists(literals | variables, min_size=1, max_size=4).map(concatenation)
values = st.recursive(
    strings,
    lambda inner: st.lists(inner, min_size=1, max_size=4).map(lambda v: rsl.Sequence(tuple(v))),
    max_leaves=8,
)
pairs = st.builds(lambda a, b: rsl.Sequence((a, b)), literals, strings)
relations = st.builds(
    rsl.Relation,
    names,
    st.sampled_from(["=", "!=", ">", ">=", "<", "<="]),
    st.lists(values, min_size=1, max_size=4).map(tuple),
) | st.builds(
    rsl.Relation,
    st.sampled_from(["rsl_substitution", "RSLSubstitution"]),
    st.just("="),
    st.lists(pairs, min_size=1, max_size=2).map(tuple),
)
specifications = st.recursive(
    relations,
    lambda inner: st.builds(
        rsl.Boolean,
        st.sampled_from(["&", "|", "+"]),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
soup = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@given(specifications)
def test_printing_and_parsing_gives_the_same_tree(spec: rsl.Specification) -> None:
    text = rsl.unparse(spec)
    assert rsl.parse(text) == spec
    assert rsl.parse(text, mode="strict") == spec
    assert rsl.unparse(rsl.parse(text)) == text


@given(specifications)
def test_an_evaluated_tree_evaluates_to_itself(spec: rsl.Specification) -> None:
    try:
        evaluated = rsl.evaluate(spec, SYMBOLS)
    except rsl.RSLEvaluationError:
        return
    assert rsl.evaluate(evaluated, {}) == evaluated
    assert rsl.parse(rsl.unparse(evaluated)) == evaluated


@given(specifications)
def test_canonicalising_twice_changes_nothing(spec: rsl.Specification) -> None:
    once = rsl.canonicalise(spec)
    assert rsl.canonicalise(once) == once
    assert all("_" not in relation.attribute for relation in rsl.relations(once))


@given(st.binary(max_size=200) | soup, st.sampled_from(["compatible", "strict"]))
@example(b"x=^", "strict")
@example(b"$)", "compatible")
@example(b"\xff\xfe&(\x00", "strict")
def test_any_bytes_parse_or_raise_our_error(data: bytes, mode: rsl.Mode) -> None:
    try:
        spec = rsl.parse(data, mode)
    except rsl.RSLError:
        return
    rsl.canonicalise(spec)
    for action in (rsl.unparse, lambda tree: rsl.evaluate(tree, SYMBOLS)):
        try:
            action(spec)
        except rsl.RSLError:
            continue


@given(st.text(st.characters(), max_size=40))
def test_any_text_parses_or_raises_our_error(text: str) -> None:
    try:
        rsl.parse("x=" + text)
    except rsl.RSLError:
        return


@given(soup)
def test_strict_accepts_only_what_compatible_reads_whole(data: bytes) -> None:
    try:
        spec = rsl.parse(data, mode="strict")
    except rsl.RSLError:
        return
    assert rsl.parse(data + b"\n") == spec
    with pytest.raises(rsl.RSLError):
        rsl.parse(data + b"\n?", mode="strict")
