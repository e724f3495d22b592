"""The largest texts the language allows, and what they are made of (rsl.md §6)."""

from collections.abc import Callable

BOUNDARIES: dict[str, tuple[Callable[[int], str], int]] = {
    "values": (lambda n: "x=" + "1 " * n, 9_996),
    "values in a boolean": (lambda n: "&(x=" + "1 " * n + ")", 9_994),
    "values in a sequence": (lambda n: "x=(" + "1 " * n + ")", 9_995),
    "relations": (lambda n: "&" + "(x=1)" * n, 3_332),
    "pairs": (lambda n: "&(e=" + "(a b)" * n + ")", 9_992),
    "nested sequences": (lambda n: "x=" + "(" * n + "1" + ")" * n, 9_994),
    "nested booleans": (lambda n: "&(" * n + "x=1" + ")" * n, 4_997),
    "concatenated literals": (lambda n: "x=" + "#".join("a" * n), 4_998),
    "concatenated variables": (lambda n: "x=" + "$(H)" * n, 4_997),
    "nested variables": (lambda n: "x=" + "$(" * n + "H" + ")" * n, 4_997),
    "arguments of a variable": (lambda n: "x=$(" + "1 " * n + ")", 9_994),
    "a list after a long concatenation": (lambda n: "x=" + "#".join("a" * 4_000) + " 1" * n, 9_995),
    "a list after concatenated variables": (lambda n: "x=" + "$(H)" * 2_000 + " 1" * n, 9_995),
    "a concatenation after a list": (lambda n: "x=" + "1 " * 5_000 + "#".join("a" * n), 2_498),
    "relations after pairs": (lambda n: "&(e=" + "(a b)" * 9_000 + ")" + "(x=1)" * n, 3_331),
    "a list in a nested boolean": (lambda n: "&(x=1)(|(y=1)(z=" + "1 " * n + "))", 9_986),
}
"""For each shape: the text with n parts, and the largest n that is accepted."""
