"""The structural limit of the language (rsl.md §6).

The reference keeps unfinished lists on a stack, so length counts as well as depth: a text fails
when more than 9 998 grammar symbols are pending at any moment.
"""

from rsl.errors import RSLLimitError
from rsl.lexer import BOOLEAN, CLOSE, DOLLAR, HASH, OPEN, Lexeme

MAX_BYTES = 1 << 20
MAX_PENDING = 9_998


def check_pending(lexemes: list[Lexeme]) -> None:
    """Raise RSLLimitError when too many symbols would be pending.

    Lexemes that form no specification are counted as far as they make sense; the parser refuses
    them anyway.
    """
    if len(lexemes) <= MAX_PENDING:
        return
    pending = 0
    # Symbols of the current concatenation beyond its first: they fold into one when it ends.
    chain = 0
    # Per open parenthesis: pending before it and after it closes, the chain around it, and
    # whether it holds an operand of a boolean (which stays on the stack as three symbols).
    groups: list[tuple[int, int, int, bool]] = []
    previous, operand_closed = "", False
    for lexeme in lexemes:
        kind = lexeme.type
        if kind == HASH:
            chain += 2
        elif previous not in (HASH, DOLLAR):
            pending -= chain
            chain = 0
        if kind == OPEN:
            operand = previous == BOOLEAN or (previous == CLOSE and operand_closed)
            after = pending if previous == DOLLAR else pending + (3 if operand else 1)
            groups.append((pending, after, chain, operand))
            chain = 0
        if kind != CLOSE:
            pending += 1
            highest = pending
        elif groups:
            before, pending, chain, operand_closed = groups.pop()
            highest = before + 3
        else:
            return
        if highest > MAX_PENDING:
            raise RSLLimitError(
                f"more than {MAX_PENDING} values, relations or parentheses are open at byte "
                f"{lexeme.offset}"
            )
        previous = kind
