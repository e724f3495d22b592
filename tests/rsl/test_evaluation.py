"""Evaluation beyond the examples (rsl.md §7, §8)."""

import pytest

import rsl

SYMBOLS = {"HOME": "/home/alice", "LOGNAME": "alice"}


def evaluated(text: str) -> str:
    return rsl.unparse(rsl.evaluate(rsl.parse(text), SYMBOLS)).strip()


def test_neither_argument_is_changed() -> None:
    symbols = dict(SYMBOLS)
    spec = rsl.parse("&(rsl_substitution=(A 1)(HOME 2))(x=$(A) $(HOME))")
    before = rsl.unparse(spec)
    rsl.evaluate(spec, symbols)
    with pytest.raises(rsl.RSLEvaluationError):
        rsl.evaluate(rsl.parse("&(rsl_substitution=(B 1))(x=$(NOPE))"), symbols)
    assert symbols == SYMBOLS
    assert rsl.unparse(spec) == before


def test_relation_alone_binds_in_the_callers_scope() -> None:
    """So a name that is defined there keeps its meaning."""
    text = "rsl_substitution=(HOME /x)(B $(HOME)/y)"
    assert evaluated(text) == '"rsl_substitution" = ("HOME" "/x" ) ("B" "/home/alice/y" )'


def test_halves_of_a_character_join() -> None:
    spec = rsl.parse(b"&(rsl_substitution=(H \xc3)(\xc3\xa9 ok))(x=$(H)\xa9 $(\xc3\xa9))")
    assert rsl.get_multi(rsl.evaluate(spec, {}), "x") == ("é", "ok")


def test_shadowed_names_come_back() -> None:
    text = (
        "&(rsl_substitution=(A 1))(&(rsl_substitution=(A 2)(HOME 3))(|(rsl_substitution=(A 4))"
        "(x=$(A)))(x=$(A)$(HOME)))(x=$(A)$(HOME))"
    )
    found = [r.values for r in rsl.relations(rsl.evaluate(rsl.parse(text), SYMBOLS))]
    texts = [v[0].text for v in found if isinstance(v[0], rsl.Literal)]
    assert texts == ["4", "23", "1/home/alice"]


def test_a_value_of_its_own() -> None:
    relation = rsl.parse("x=$(HOME)/a ($(LOGNAME) (b)) c")
    assert isinstance(relation, rsl.Relation)
    values = [rsl.evaluate_value(value, SYMBOLS) for value in relation.values]
    assert values == list(rsl.parse("x=/home/alice/a (alice (b)) c").values)


def test_error_names_the_variable_printably() -> None:
    with pytest.raises(rsl.RSLEvaluationError, match=r'"a.b" is not defined'):
        rsl.evaluate(rsl.parse('x=$("a\nb")'), {})


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Max_Wall_Time", "maxwalltime"),
        ("maxWallTime", "maxwalltime"),
        ("__", ""),
        ("A B_c", "a bc"),
        ("É_", "É"),
        ("\udcc3_\udca9", "é"),
    ],
)
def test_canonical_names(name: str, canonical: str) -> None:
    assert rsl.canonical_name(name) == canonical
    spec = rsl.Boolean("&", (rsl.Boolean("|", (rsl.Relation(name, "<", (rsl.Literal("a_B"),)),)),))
    changed = rsl.Boolean(
        "&", (rsl.Boolean("|", (rsl.Relation(canonical, "<", (rsl.Literal("a_B"),)),)),)
    )
    assert rsl.canonicalise(spec) == changed
