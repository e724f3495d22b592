"""Random RSL texts: well-formed, nearly well-formed, and nonsense."""

from random import Random

PIECES = (
    *(b"&", b"|", b"+", b"(", b")", b"(", b")", b"$", b"#", b"=", b"=", b"!=", b">", b">="),
    *(b"<", b"<=", b"!", b" ", b" ", b"\n", b"\t", b"(*c*)", b"(*", b"*)", b"*", b"~", b"?"),
    *(b"x", b"y", b"1", b"a+b", b"-n", b"/a/b.c", b"a_B", b"__", b"\\", b"\r", b"\x0b", b"\x7f"),
    *(b"\xc3", b"\xa9", "é".encode(), b"\xff", b"HOME", b"home", b"LOGNAME", b"A", b"B"),
    *(b'"', b"'", b"^", b'""', b"''", b'"a b"', b"'it''s'", b"^*z*", b'"$(HOME)"', b'"" ""'),
    *(b"$(HOME)", b"$(A)", b"$(LOGNAME)", b"$(NOPE)", b"$(HOME d)", b"$($(A))", b"\x00"),
    *(b"rsl_substitution", b"RSL_Substitution", b"rslsubstitution", b"rsl__substitution"),
    *(b"(rsl_substitution=(A 1)(B $(A)2))", b"(rsl_substitution=(HOME $(HOME)/x))"),
)
TEXTS = (
    b"",
    b"1",
    b"a b",
    b"it's",
    b'say "hi"',
    b"$(HOME)",
    b"(*c*)",
    b"/u",
    "é".encode(),
    b"\xc3",
)
TEXTS += (b"\xa9", b"x\ny", b"a_B", b"HOME", b"A", b"B", b"rsl_substitution", b"-", b"#", b"+1")
NAMES = (b"x", b"Max_Wall_Time", b"executable", b"__", b"a b", "é".encode(), b"\xc3_\xa9", b"a+b")
OPERATORS = (b"=", b"=", b"=", b"=", b"!=", b">", b">=", b"<", b"<=")
VARIABLES = (b"HOME", b"LOGNAME", b"A", b"B", b"HOME", b"NOPE", b"home", b"")


class Writer:
    """Writes random specifications in random spellings."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def text(self) -> bytes:
        """One input of any kind."""
        kind = self.random.randrange(10)
        if kind < 4:
            return self.specification(self.random.randrange(4)) + self.blank()
        if kind < 7:
            return self.mutated(self.specification(self.random.randrange(4)) + self.blank())
        if kind < 9:
            count = self.random.randrange(1, 25)
            return b"".join(self.random.choice(PIECES) for _ in range(count))
        return self.random.randbytes(self.random.randrange(40))

    def mutated(self, data: bytes) -> bytes:
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(len(data) + 1)
            end = min(len(data), at + self.random.randrange(6))
            new = self.random.choice((b"", b"", data[at:end] * 2, self.random.choice(PIECES)))
            data = data[:at] + new + data[end:]
        return data

    def blank(self) -> bytes:
        return self.random.choice((b"", b"", b"", b" ", b"\n", b"\t ", b"(*c*)", b" (**)\n"))

    def specification(self, depth: int) -> bytes:
        if depth == 0 or self.random.random() < 0.1:
            return self.relation(depth)
        parts = [self.random.choice((b"&", b"&", b"&", b"|", b"+"))]
        for _ in range(self.random.randrange(1, 4)):
            parts += (self.blank(), b"(", self.specification(depth - 1), self.blank(), b")")
        return b"".join(parts)

    def relation(self, depth: int) -> bytes:
        if self.random.random() < 0.2:
            name = self.random.choice((b"rsl_substitution", b"RSLsubstitution", b"RSL__sub"))
            pairs = (self.pair(depth) for _ in range(self.random.randrange(1, 3)))
            return name + b"=" + b"".join(pairs)
        operator = self.blank() + self.random.choice(OPERATORS) + self.blank()
        return self.spelled(self.random.choice(NAMES)) + operator + self.values(depth)

    def pair(self, depth: int) -> bytes:
        name = self.random.choice((b"A", b"B", b"HOME", b"$(LOGNAME)", b'""'))
        return b"(" + name + b" " + self.concatenation(depth) + b")"

    def values(self, depth: int) -> bytes:
        count = self.random.randrange(1, 4)
        return b"".join(self.value(depth) + b" " + self.blank() for _ in range(count))

    def value(self, depth: int) -> bytes:
        if depth > 0 and self.random.random() < 0.2:
            return b"(" + self.values(depth - 1) + b")"
        return self.concatenation(depth)

    def concatenation(self, depth: int) -> bytes:
        atoms = [self.atom(depth)]
        while self.random.random() < 0.3:
            join = self.random.choice((b"#", b" # ", b"#(*c*)", b""))
            atoms += (join, self.atom(depth))
        return b"".join(atoms)

    def atom(self, depth: int) -> bytes:
        if self.random.random() < 0.6:
            return self.spelled(self.random.choice(TEXTS))
        if self.random.random() < 0.8 or depth == 0:
            return b"$(" + self.spelled(self.random.choice(VARIABLES)) + b")"
        return b"$(" + self.values(depth - 1) + b")"

    def spelled(self, text: bytes) -> bytes:
        """A literal in one of its spellings, quoted if it must be."""
        plain = text and not set(text) & set(b"\t\n =!<>()\"'^*$#?~") and text[0] not in b"+&|"
        if plain and self.random.random() < 0.7:
            return text
        delimiter = self.random.choice((b'"', b"'", b"^*", b"^x", b"^ "))
        mark = delimiter[-1:]
        return delimiter + text.replace(mark, mark * 2) + mark
