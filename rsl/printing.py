"""From tree to text (rsl.md §9)."""

from rsl.errors import RSLUnparseError
from rsl.tree import Boolean, Concat, Literal, Relation, Sequence, Specification, Value, Variable


def unparse(spec: Specification) -> str:
    """The text of a tree, exactly as the reference prints it; `parse` gives the same tree back.

    Raises RSLUnparseError for a variable whose first argument is not a literal. Of a variable's
    other arguments only a literal second one is printed. The blank at the end of a top-level
    relation is essential (rsl.md §3.3).
    """
    out: list[str] = []
    pending: list[str | Specification | Value] = [spec]
    while pending:
        node = pending.pop()
        match node:
            case str():
                out.append(node)
            case Literal(text):
                out.append(_quote(text))
            case Boolean(op, operands):
                out.append(op)
                for operand in reversed(operands):
                    pending += (")", operand, "(")
            case Relation(attribute, op, values):
                out.append(f"{_quote(attribute)} {op} ")
                for value in reversed(values):
                    pending += (" ", value)
            case Sequence(items):
                out.append("(")
                pending.append(")")
                for item in reversed(items):
                    pending += (" ", item)
            case Concat(left, right):
                pending += (right, " # ", left)
            case Variable(arguments):
                out.append(_variable(arguments))
    return "".join(out)


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _variable(arguments: tuple[Value, ...]) -> str:
    literals = [argument.text for argument in arguments[:2] if isinstance(argument, Literal)]
    if not isinstance(arguments[0], Literal):
        raise RSLUnparseError("a variable whose name is not a literal cannot be printed")
    return "$(" + " ".join(_quote(text) for text in literals) + ")"
