"""What this package raises. Every exception is an `RSLError`."""


class RSLError(Exception):
    """Something is wrong with a specification; `str()` is a sentence for people."""


class RSLSyntaxError(RSLError):
    """The text is no specification (rsl.md §5).

    `offset` counts bytes from 0; `line` and `column` count from 1, the column in bytes.
    """

    def __init__(self, message: str, offset: int, line: int, column: int) -> None:
        super().__init__(message)
        self.offset = offset
        self.line = line
        self.column = column


class RSLEvaluationError(RSLError):
    """A variable is undefined, or a value has a form that cannot be evaluated (rsl.md §8)."""


class RSLLimitError(RSLError):
    """The text is too long, too deep, or its evaluation grows too large (rsl.md §6)."""


class RSLUnparseError(RSLError):
    """The tree has no textual form: a variable whose name is not a literal (rsl.md §9)."""


class RSLAccessError(RSLError):
    """A relation does not have the kind of value that was asked for (rsl.md §11)."""


class RSLValidationError(RSLError):
    """A specification breaks the attribute schema; `code` is the GRAM error number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def shown(text: str) -> str:
    """A piece of the input as error messages quote it: short, and printable everywhere."""
    clean = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:80]
    )
    return clean if len(text) <= 80 else f"{clean}..."
