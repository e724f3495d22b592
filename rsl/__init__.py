"""The Resource Specification Language: parse, evaluate, print and check job specifications.

    >>> import rsl
    >>> spec = rsl.parse('&(executable=$(HOME)/bin/sim)(arguments=-n "10 20")')
    >>> rsl.unparse(rsl.evaluate(spec, {"HOME": "/home/alice"}))
    '&("executable" = "/home/alice/bin/sim" )("arguments" = "-n" "10 20" )'

Everything raised is an `RSLError`. The attribute schema is in `rsl.schema`.
"""

from rsl.access import find, get_multi, get_sequence, get_single
from rsl.errors import (
    RSLAccessError,
    RSLError,
    RSLEvaluationError,
    RSLLimitError,
    RSLSyntaxError,
    RSLUnparseError,
    RSLValidationError,
)
from rsl.evaluation import evaluate, evaluate_value
from rsl.parser import Mode, parse
from rsl.printing import unparse
from rsl.tree import (
    Boolean,
    Concat,
    Literal,
    Relation,
    Sequence,
    Specification,
    Value,
    Variable,
    canonical_name,
    canonicalise,
    relations,
)

__all__ = [
    "Boolean",
    "Concat",
    "Literal",
    "Mode",
    "RSLAccessError",
    "RSLError",
    "RSLEvaluationError",
    "RSLLimitError",
    "RSLSyntaxError",
    "RSLUnparseError",
    "RSLValidationError",
    "Relation",
    "Sequence",
    "Specification",
    "Value",
    "Variable",
    "canonical_name",
    "canonicalise",
    "evaluate",
    "evaluate_value",
    "find",
    "get_multi",
    "get_sequence",
    "get_single",
    "parse",
    "relations",
    "unparse",
]
