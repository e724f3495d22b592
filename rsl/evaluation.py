"""Replacing variables and concatenations by literals (rsl.md §8)."""

from collections.abc import Callable, Iterator, Mapping

from rsl.errors import RSLEvaluationError, RSLLimitError, shown
from rsl.tree import (
    Concat,
    Literal,
    Relation,
    Sequence,
    Specification,
    Value,
    Variable,
    fold_case,
    join,
    map_relations,
)

MAX_TEXT = 1 << 20

_SUBSTITUTION = frozenset({"rsl_substitution", "rslsubstitution"})


def evaluate(
    spec: Specification, symbols: Mapping[str, str], *, max_text: int = MAX_TEXT
) -> Specification:
    """A new tree of literals and sequences only; neither argument is changed.

    `symbols` are the names defined outside; `rsl_substitution` adds to them from where it stands to
    the end of the boolean around it. Raises RSLEvaluationError, and RSLLimitError when the text
    that variables and concatenations turn into has more than `max_text` characters altogether.
    """
    evaluation = _Evaluation(symbols, max_text)
    return map_relations(spec, evaluation.relation, evaluation.open_scope, evaluation.close_scope)


def evaluate_value(value: Value, symbols: Mapping[str, str], *, max_text: int = MAX_TEXT) -> Value:
    """One value evaluated on its own, with `symbols` only. Raises as `evaluate` does."""
    return _Evaluation(symbols, max_text).value(value)


class _Evaluation:
    def __init__(self, symbols: Mapping[str, str], max_text: int) -> None:
        self._symbols = dict(symbols)
        self._left = max_text
        # Per scope, innermost last: the names it defines, each with the outer meaning it hides.
        # A relation outside all booleans defines names in the caller's scope.
        self._scopes: list[dict[str, str | None]] = [dict.fromkeys(symbols)]

    def open_scope(self) -> None:
        self._scopes.append({})

    def close_scope(self) -> None:
        for name, hidden in self._scopes.pop().items():
            if hidden is None:
                del self._symbols[name]
            else:
                self._symbols[name] = hidden

    def relation(self, relation: Relation) -> Relation:
        defines = fold_case(relation.attribute) in _SUBSTITUTION
        change: Callable[[Value], Value] = self._definition if defines else self.value
        return Relation(relation.attribute, relation.op, tuple(map(change, relation.values)))

    def _definition(self, value: Value) -> Sequence:
        if not isinstance(value, Sequence) or len(value.items) != 2:
            raise RSLEvaluationError("rsl_substitution needs pairs of a name and a value")
        name, text = self._text(value.items[0]), self._text(value.items[1])
        scope = self._scopes[-1]
        if name not in scope:
            scope[name] = self._symbols.get(name)
            self._symbols[name] = text
        return Sequence((Literal(name), Literal(text)))

    def value(self, value: Value) -> Value:
        if isinstance(value, Literal):
            return value
        if not isinstance(value, Sequence):
            return Literal(self._text(value))
        open_lists: list[tuple[Iterator[Value], list[Value]]] = [(iter(value.items), [])]
        while True:
            items, done = open_lists[-1]
            for item in items:
                if isinstance(item, Sequence):
                    open_lists.append((iter(item.items), []))
                    break
                done.append(item if isinstance(item, Literal) else Literal(self._text(item)))
            else:
                open_lists.pop()
                sequence = Sequence(tuple(done))
                if not open_lists:
                    return sequence
                open_lists[-1][1].append(sequence)

    def _text(self, value: Value) -> str:
        """The string that a literal, a variable or a concatenation stands for."""
        if isinstance(value, Literal):
            return value.text
        parts: list[str] = []
        pending: list[Value] = [value]
        while pending:
            part = pending.pop()
            if isinstance(part, Concat):
                pending += (part.right, part.left)
                continue
            if isinstance(part, Sequence):
                raise RSLEvaluationError("a parenthesised list stands where a string is needed")
            text = part.text if isinstance(part, Literal) else self._look_up(part)
            self._left -= len(text)
            if self._left < 0:
                raise RSLLimitError("the specification grows too large when it is evaluated")
            parts.append(text)
        return join(parts)

    def _look_up(self, variable: Variable) -> str:
        name = variable.arguments[0]
        if len(variable.arguments) != 1 or not isinstance(name, Literal):
            raise RSLEvaluationError("a variable reference needs exactly one argument, its name")
        text = self._symbols.get(name.text)
        if text is None:
            raise RSLEvaluationError(f'the variable "{shown(name.text)}" is not defined')
        return text
