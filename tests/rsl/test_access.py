"""The accessors (rsl.md §11)."""

import pytest

import rsl

SPEC = rsl.parse(
    "&(a=1)(|(B_c!=x y)(e=(A 1)(B '')))(b_C=late)(v=$(H))(s=(a b c))(n=(a (b)))(m=(a b) c)(A=2)"
)


def test_first_relation_of_the_name_counts() -> None:
    assert rsl.get_single(SPEC, "a") == "1"
    assert rsl.get_multi(SPEC, "A") == ("1",)
    assert rsl.get_multi(SPEC, "b_C") == ("x", "y")


def test_underscores_count() -> None:
    assert rsl.get_single(SPEC, "bc") is None


def test_absent_is_no_error() -> None:
    assert rsl.find(SPEC, "zz") is None
    assert rsl.get_single(SPEC, "zz") is None
    assert rsl.get_multi(SPEC, "zz") is None
    assert rsl.get_sequence(SPEC, "zz") is None


def test_pairs() -> None:
    assert rsl.get_sequence(SPEC, "E") == (("A", "1"), ("B", ""))


@pytest.mark.parametrize("name", ["b_c", "e", "v"])
def test_not_single(name: str) -> None:
    with pytest.raises(rsl.RSLAccessError):
        rsl.get_single(SPEC, name)


@pytest.mark.parametrize("name", ["e", "v", "m"])
def test_not_multi(name: str) -> None:
    with pytest.raises(rsl.RSLAccessError):
        rsl.get_multi(SPEC, name)


@pytest.mark.parametrize("name", ["a", "v", "s", "n", "m"])
def test_not_a_sequence(name: str) -> None:
    with pytest.raises(rsl.RSLAccessError):
        rsl.get_sequence(SPEC, name)
