"""The attributes of a job description, as data, and the checks that need only them.

The rules are those of job-manager.md §3.3-3.5. Error numbers are GRAM's; allowed values are
compared exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rsl.errors import RSLValidationError, shown
from rsl.tree import Boolean, Concat, Literal, Relation, Specification, Value, Variable

PARAMETER_NOT_SUPPORTED = 1
BAD_RSL = 48
UNDEFINED_EXECUTABLE = 81
INVALID_SUBMIT_ATTRIBUTE = 138


class Phase(Enum):
    """What a specification is for; the value is the word used in messages."""

    SUBMIT = "submit"
    STDIO_UPDATE = "stdio_update"


class Kind(Enum):
    """The form of an attribute's value."""

    STRING = "a string"
    STRINGS = "strings"
    PAIRS = "pairs of strings"
    DEFINITIONS = "pairs of a variable's name and its value"
    OUTPUT = "a path, a URL, or a parenthesised list of destinations"
    CHOICE = "one of the allowed values"
    INTEGER = "an integer"
    AMOUNT = "an integer that is not negative"
    POSITIVE = "an integer greater than zero"
    PERIOD = "seconds, yes or no"
    IGNORED = "anything"


SUBMIT = frozenset({Phase.SUBMIT})
STDIO_UPDATE = frozenset({Phase.STDIO_UPDATE})


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. `name` is canonical, `spelling` the usual way to write it.

    `type_error` answers a value of the wrong form, `value_error` a string that is not acceptable.
    With `late`, a wrong form is not refused: the job is accepted and fails with the number.
    `default` is inserted on submission and may contain variables.
    """

    spelling: str
    kind: Kind
    description: str
    type_error: int
    value_error: int
    phases: frozenset[Phase] = SUBMIT
    default: tuple[Value, ...] | None = None
    allowed: tuple[str, ...] = ()
    required: bool = False
    late: bool = False

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.spelling.replace("_", "")


YES_NO = ("yes", "no")
_DEV_NULL = (Literal("/dev/null"),)
_HOME = (Variable((Literal("HOME"),)),)
_LIBRARIES = (Concat(Variable((Literal("GLOBUS_LOCATION"),)), Literal("/lib")),)
_ALL = SUBMIT | STDIO_UPDATE

ROWS = (
    Attribute("executable", Kind.STRING, "the program to run", 55, 134, required=True, late=True),
    Attribute("arguments", Kind.STRINGS, "arguments of the program", 50, 134, late=True),
    Attribute("directory", Kind.STRING, "working directory", 52, 134, default=_HOME, late=True),
    Attribute("environment", Kind.PAIRS, "environment variables", 54, 134, late=True),
    Attribute("stdin", Kind.STRING, "standard input", 64, 134, default=_DEV_NULL, late=True),
    Attribute("stdout", Kind.OUTPUT, "standard output", 65, 134, _ALL, _DEV_NULL),
    Attribute("stderr", Kind.OUTPUT, "standard error", 63, 134, _ALL, _DEV_NULL),
    Attribute("count", Kind.POSITIVE, "processes", 14, 14, default=(Literal("1"),)),
    Attribute(
        "job_type",
        Kind.CHOICE,
        "how the processes are started",
        57,
        19,
        default=(Literal("multiple"),),
        allowed=("single", "multiple", "mpi", "condor"),
    ),
    Attribute("host_count", Kind.AMOUNT, "nodes to spread the processes over", 56, 35),
    Attribute("max_time", Kind.AMOUNT, "minutes of wall clock or CPU time", 58, 13),
    Attribute("max_wall_time", Kind.AMOUNT, "minutes of wall clock time", 101, 102),
    Attribute("max_cpu_time", Kind.AMOUNT, "minutes of CPU time", 103, 104),
    Attribute("max_memory", Kind.AMOUNT, "megabytes of memory at most", 85, 87),
    Attribute("min_memory", Kind.AMOUNT, "megabytes of memory at least", 84, 86),
    Attribute("queue", Kind.STRING, "queue or partition", 62, 37),
    Attribute("project", Kind.STRING, "account to charge", 61, 38),
    Attribute(
        "gram_my_job",
        Kind.CHOICE,
        "has no effect",
        59,
        20,
        default=(Literal("collective"),),
        allowed=("collective", "independent"),
    ),
    Attribute(
        "dry_run",
        Kind.CHOICE,
        "check the request, start nothing",
        53,
        134,
        default=(Literal("no"),),
        allowed=YES_NO,
    ),
    Attribute("save_state", Kind.CHOICE, "has no effect", 112, 150, allowed=YES_NO),
    Attribute("two_phase", Kind.PERIOD, "wait so long for the commit", 114, 114),
    Attribute(
        "library_path", Kind.STRINGS, "directories of libraries", 134, 134, default=_LIBRARIES
    ),
    Attribute("proxy_timeout", Kind.INTEGER, "has no effect", 153, 153),
    Attribute("username", Kind.STRING, "the account the job must run as", 48, 48),
    Attribute("rsl_substitution", Kind.DEFINITIONS, "defines variables", 39, 39),
    Attribute("file_stage_in", Kind.PAIRS, "URL and path of files to fetch", 141, 134),
    Attribute("file_stage_in_shared", Kind.PAIRS, "the same, through the cache", 142, 134),
    Attribute("file_stage_out", Kind.PAIRS, "path and URL of files to deliver", 143, 134),
    Attribute("file_clean_up", Kind.STRINGS, "files to remove after the job", 145, 134),
    Attribute("scratch_dir", Kind.STRING, "where to make a scratch directory", 146, 136),
    Attribute("stdout_position", Kind.IGNORED, "has no effect", 116, 117, STDIO_UPDATE),
    Attribute("stderr_position", Kind.IGNORED, "has no effect", 118, 119, STDIO_UPDATE),
)

ATTRIBUTES: Mapping[str, Attribute] = {row.name: row for row in ROWS}
"""The attributes that every LRM accepts, by canonical name."""


def validate(
    spec: Specification, phase: Phase, attributes: Mapping[str, Attribute] = ATTRIBUTES
) -> Boolean:
    """A canonicalised specification checked, with the defaults for what it leaves out.

    The defaults stand first, not evaluated: there they see the predefined variables only.
    Raises RSLValidationError for the first relation that breaks a rule.
    """
    if not isinstance(spec, Boolean) or spec.op != "&":
        raise RSLValidationError(BAD_RSL, "the RSL is not a conjunction of relations, &(...)(...)")
    given: set[str] = set()
    for operand in spec.operands:
        if isinstance(operand, Boolean):
            text = "the RSL contains another boolean where a relation is needed"
            raise RSLValidationError(BAD_RSL, text)
        _check(operand, phase, attributes)
        given.add(operand.attribute)
    if phase is not Phase.SUBMIT:
        return spec
    missing = [row for name, row in attributes.items() if name not in given]
    for row in missing:
        if row.required and row.default is None:
            # Only the executable is required of every job; LRMs may require more (148).
            code = UNDEFINED_EXECUTABLE if row.name == "executable" else 148
            raise RSLValidationError(code, f'the RSL attribute "{row.name}" is missing')
    defaults = (Relation(row.name, "=", row.default) for row in missing if row.default)
    return Boolean("&", (*defaults, *spec.operands))


def _check(relation: Relation, phase: Phase, attributes: Mapping[str, Attribute]) -> None:
    name = relation.attribute
    attribute = attributes.get(name)
    if attribute is None:
        text = f'the RSL attribute "{shown(name)}" is not supported by the LRM adapter'
        code = PARAMETER_NOT_SUPPORTED if phase is Phase.SUBMIT else BAD_RSL
        raise RSLValidationError(code, text)
    if relation.op != "=":
        text = f'the RSL operator "{relation.op}" is not supported for the attribute "{name}"'
        raise RSLValidationError(BAD_RSL, text)
    if phase not in attribute.phases:
        code = INVALID_SUBMIT_ATTRIBUTE if phase is Phase.SUBMIT else BAD_RSL
        text = f'invalid RSL attribute "{name}" for {phase.value}'
        raise RSLValidationError(code, text)
    if attribute.allowed:
        _check_allowed(attribute, relation.values)


def _check_allowed(attribute: Attribute, values: tuple[Value, ...]) -> None:
    allowed = ", ".join(attribute.allowed)
    if len(values) != 1 or not isinstance(values[0], Literal):
        text = f'the RSL attribute "{attribute.name}" needs one value out of: {allowed}'
        raise RSLValidationError(attribute.type_error, text)
    value = values[0].text
    if value not in attribute.allowed:
        text = (
            f'the RSL attribute "{attribute.name}" has the value "{shown(value)}", '
            f"which is not one of: {allowed}"
        )
        raise RSLValidationError(attribute.value_error, text)
