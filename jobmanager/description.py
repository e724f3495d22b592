"""A job request's RSL as a typed description (job-manager.md §3-5.3, rsl.md §12.2).

Paths are resolved here as far as that needs no file system: the working directory below the home
directory, everything else below the working directory. What can only be judged where the job runs
is left to the agent.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import rsl
from protocol.errors import GramError
from protocol.tables import ErrorCode
from rsl.schema import ATTRIBUTES, Attribute, Phase, validate
from rsl.tree import Sequence, Specification, Value
from rsl.values import first_values, integer, one_string, pairs, period, strings, wrong_form

FORK_ATTRIBUTES: Mapping[str, Attribute] = ATTRIBUTES
"""Fork adds no attributes of its own (job-manager.md §3.6)."""

_T = TypeVar("_T")
_D = TypeVar("_D")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:/")
_CACHE_URL = "x-gass-cache://"

CHECK_ORDER = (
    ErrorCode.RSL_DIRECTORY,
    ErrorCode.BAD_DIRECTORY,
    ErrorCode.RSL_ENVIRONMENT,
    ErrorCode.INVALID_COUNT,
    ErrorCode.JOBTYPE_NOT_SUPPORTED,
    ErrorCode.RSL_EXECUTABLE,
    ErrorCode.EXECUTABLE_NOT_FOUND,
    ErrorCode.EXECUTABLE_PERMISSIONS,
    ErrorCode.RSL_STDIN,
    ErrorCode.STDIN_NOT_FOUND,
    ErrorCode.RSL_ARGUMENTS,
)
"""In this order a job's failures are looked for (job-manager.md §3.4, notes)."""


class JobType(StrEnum):
    """How `count` processes are started (job-manager.md §3.4)."""

    SINGLE = "single"
    MULTIPLE = "multiple"
    MPI = "mpi"
    CONDOR = "condor"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where output goes: an absolute path or a URL; `tag` keeps a cache entry after the job."""

    url: str
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file to copy: a URL and an absolute path, in the direction of the copy."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class JobDescription:
    """What a job is, evaluated and typed. Times are minutes, memory megabytes unless stated.

    `executable` is an absolute path, a URL, or a path that begins with "." and is relative to
    `directory`; `two_phase` is in seconds, 0 for off, and may be negative (the commit is late at
    once); `scratch_dir` is the directory to make the scratch directory in. `deferred` are the
    errors that the accepted job fails with, in the order of `CHECK_ORDER`; the fields they concern
    are empty then (`directory`: the home directory). `substitutions` are the variables that the
    request defined. What may be secret is not in the repr.
    """

    executable: str
    arguments: tuple[str, ...] = field(repr=False)
    directory: str
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    stdin: str
    stdout: tuple[Destination, ...]
    stderr: tuple[Destination, ...]
    count: int
    job_type: JobType
    host_count: int | None
    queue: str | None
    project: str | None
    max_time: int | None
    max_wall_time: int | None
    max_cpu_time: int | None
    max_memory: int | None
    min_memory: int | None
    two_phase: int
    dry_run: bool
    save_state: bool | None
    user_name: str | None
    library_path: tuple[str, ...]
    file_stage_in: tuple[Transfer, ...]
    file_stage_in_shared: tuple[Transfer, ...]
    file_stage_out: tuple[Transfer, ...]
    file_clean_up: tuple[str, ...]
    scratch_dir: str | None
    proxy_timeout: int | None
    deferred: tuple[tuple[ErrorCode, str], ...] = ()
    substitutions: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def describe(
    rsl_text: str,
    symbols: Mapping[str, str],
    *,
    attributes: Mapping[str, Attribute] = FORK_ATTRIBUTES,
) -> JobDescription:
    """The description of a submitted job.

    `symbols` are the predefined variables (job-manager.md §4.1); HOME and GLOBUS_LOCATION must be
    among them. Raises GramError with the code and text of the first rule that is broken: syntax
    (48), variables (39), then job-manager.md §3.3 and §2.1 in order.
    """
    with _gram_errors():
        spec = rsl.canonicalise(rsl.parse(rsl_text))
        scratch = _scratch_directory(spec, symbols, attributes)
        evaluated = rsl.evaluate(spec, symbols)
        complete = rsl.evaluate(validate(evaluated, Phase.SUBMIT, attributes), symbols)
        return _Request(complete, attributes).description(symbols["HOME"], scratch)


def scratch_directory(rsl_text: str, symbols: Mapping[str, str]) -> str | None:
    """Where the request wants its scratch directory made (an absolute path), or None.

    For callers who must know before `describe`, because it needs SCRATCH_DIRECTORY among the
    symbols. Raises GramError 48, 39 or 146.
    """
    with _gram_errors():
        spec = rsl.canonicalise(rsl.parse(rsl_text))
        return _scratch_directory(spec, symbols, FORK_ATTRIBUTES)


def describe_stdio(
    rsl_text: str, symbols: Mapping[str, str], base: JobDescription
) -> JobDescription:
    """`base` with the output of a STDIO_UPDATE request (job-manager.md §2.5).

    Raises GramError 48 for whatever is no legal update, 39 for undefined variables, 65 or 63 for a
    destination of the wrong form.
    """
    with _gram_errors():
        spec = validate(rsl.canonicalise(rsl.parse(rsl_text)), Phase.STDIO_UPDATE, ATTRIBUTES)
        evaluated = rsl.evaluate(spec, {**symbols, **dict(base.substitutions)})
        request = _Request(evaluated, ATTRIBUTES)
        return dataclasses.replace(
            base,
            stdout=request.output("stdout", base.directory, base.stdout),
            stderr=request.output("stderr", base.directory, base.stderr),
        )


def to_json(description: JobDescription) -> str:
    """A description as JSON; ASCII, so that every byte of its strings survives any store."""
    return json.dumps(dataclasses.asdict(description), separators=(",", ":"))


def from_json(text: str) -> JobDescription:
    """What `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    fields: dict[str, Any] = json.loads(text)
    return JobDescription(
        **{name: _DECODERS.get(name, _decode)(value) for name, value in fields.items()}
    )


def _decode(value: object) -> object:
    """Lists are tuples in a description, at every depth."""
    return tuple(map(_decode, value)) if isinstance(value, list) else value


def _destinations(value: list[dict[str, Any]]) -> tuple[Destination, ...]:
    return tuple(Destination(**item) for item in value)


def _transfers(value: list[dict[str, Any]]) -> tuple[Transfer, ...]:
    return tuple(Transfer(**item) for item in value)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "job_type": JobType,
    "stdout": _destinations,
    "stderr": _destinations,
    "file_stage_in": _transfers,
    "file_stage_in_shared": _transfers,
    "file_stage_out": _transfers,
    "deferred": lambda value: tuple((ErrorCode(code), text) for code, text in value),
}


@contextmanager
def _gram_errors() -> Iterator[None]:
    """Everything the RSL package raises, as GRAM errors."""
    try:
        yield
    except rsl.RSLValidationError as error:
        raise GramError(ErrorCode(error.code), error.message) from error
    except rsl.RSLEvaluationError as error:
        raise GramError(ErrorCode.RSL_EVALUATION_FAILED, str(error)) from error
    except rsl.RSLError as error:
        raise GramError(ErrorCode.BAD_RSL, str(error)) from error


def _below(directory: str, path: str) -> str:
    """A path resolved against a directory; URLs and absolute paths as they are."""
    return path if path.startswith("/") or _URL.match(path) else f"{directory}/{path}"


def _scratch_directory(
    spec: Specification, symbols: Mapping[str, str], attributes: Mapping[str, Attribute]
) -> str | None:
    """Evaluated ahead of everything else, with predefined variables only (job-manager.md §4.2)."""
    relation = next((r for r in rsl.relations(spec) if r.attribute == "scratchdir"), None)
    if relation is None or "scratchdir" not in attributes:
        return None
    known = {name: text for name, text in symbols.items() if name != "SCRATCH_DIRECTORY"}
    values = tuple(rsl.evaluate_value(value, known) for value in relation.values)
    return _below(symbols["HOME"], one_string(attributes["scratchdir"], values))


def _environment(attribute: Attribute, values: tuple[Value, ...]) -> tuple[tuple[str, str], ...]:
    variables = pairs(attribute, values)
    if any(not name or "=" in name for name, _ in variables):
        raise wrong_form(attribute, "names that are not empty and have no =")
    return variables


class _Request:
    """Reads the attributes of a validated, evaluated specification."""

    def __init__(self, spec: Specification, attributes: Mapping[str, Attribute]) -> None:
        self._spec = spec
        self._values = first_values(spec)
        self._attributes = attributes
        self._deferred: list[tuple[ErrorCode, str]] = []

    def description(self, home: str, scratch: str | None) -> JobDescription:
        """All attributes; the ones that can refuse a request in the order of §2.1, step 7."""
        directory = self._directory(home)
        count = self._read("count", integer, 1)
        return JobDescription(
            count=count,
            dry_run=self._read("dryrun", one_string, "no") == "yes",
            two_phase=self._read("twophase", period, 0),
            proxy_timeout=self._read("proxytimeout", integer, None),
            file_stage_in=self._transfers("filestagein", directory),
            file_stage_in_shared=self._transfers("filestageinshared", directory),
            file_stage_out=self._transfers("filestageout", directory),
            stdout=self.output("stdout", directory, ()),
            stderr=self.output("stderr", directory, ()),
            host_count=self._read("hostcount", integer, None),
            max_time=self._read("maxtime", integer, None),
            max_wall_time=self._read("maxwalltime", integer, None),
            max_cpu_time=self._read("maxcputime", integer, None),
            max_memory=self._read("maxmemory", integer, None),
            min_memory=self._read("minmemory", integer, None),
            queue=self._read("queue", one_string, None),
            project=self._read("project", one_string, None),
            library_path=self._read("librarypath", strings, ()),
            file_clean_up=tuple(
                _below(directory, path) for path in self._read("filecleanup", strings, ())
            ),
            user_name=self._read("username", one_string, None),
            job_type=JobType(self._read("jobtype", one_string, "multiple")),
            save_state=self._flag("savestate"),
            directory=directory,
            environment=self._read("environment", _environment, ()),
            executable=self._executable(directory),
            stdin=self._stdin(directory),
            arguments=self._read("arguments", strings, ()),
            scratch_dir=scratch,
            deferred=tuple(sorted(self._deferred, key=lambda error: CHECK_ORDER.index(error[0]))),
            substitutions=self._substitutions(),
        )

    def output(
        self, name: str, directory: str, absent: tuple[Destination, ...]
    ) -> tuple[Destination, ...]:
        """The destinations of stdout or stderr, in any of the forms of job-manager.md §5.3."""

        def read(attribute: Attribute, values: tuple[Value, ...]) -> tuple[Destination, ...]:
            lists = [value.items for value in values if isinstance(value, Sequence)]
            if lists and len(lists) != len(values):
                raise wrong_form(attribute)
            return tuple(destination(attribute, items) for items in lists or [values])

        def destination(attribute: Attribute, items: tuple[Value, ...]) -> Destination:
            words = strings(attribute, items)
            if len(words) == 1:
                return Destination(_below(directory, words[0]))
            if len(words) == 2 and words[0].startswith(_CACHE_URL):
                return Destination(words[0], words[1])
            raise wrong_form(attribute)

        return self._read(name, read, absent)

    def _read(
        self, name: str, read: Callable[[Attribute, tuple[Value, ...]], _T], absent: _D
    ) -> _T | _D:
        """The typed value; `absent` if it was not given or its error is left to the job."""
        values = self._values.get(name)
        if values is None:
            return absent
        attribute = self._attributes[name]
        try:
            return read(attribute, values)
        except rsl.RSLValidationError as error:
            if not attribute.late:
                raise
            self._deferred.append((ErrorCode(error.code), error.message))
            return absent

    def _flag(self, name: str) -> bool | None:
        word = self._read(name, one_string, None)
        return None if word is None else word == "yes"

    def _transfers(self, name: str, directory: str) -> tuple[Transfer, ...]:
        found = self._read(name, pairs, ())
        if name == "filestageout":
            return tuple(Transfer(_below(directory, path), url) for path, url in found)
        return tuple(Transfer(url, _below(directory, path)) for url, path in found)

    def _directory(self, home: str) -> str:
        path = self._read("directory", one_string, home)
        if not path:
            self._deferred.append((ErrorCode.BAD_DIRECTORY, "the directory is an empty string"))
            return home
        return _below(home, path)

    def _executable(self, directory: str) -> str:
        path = self._read("executable", self._not_empty, "")
        # A path like ./a.out is found after changing to the directory (job-manager.md §6.4).
        return path if path.startswith(".") or not path else _below(directory, path)

    def _stdin(self, directory: str) -> str:
        path = self._read("stdin", self._not_empty, "")
        return _below(directory, path) if path else ""

    @staticmethod
    def _not_empty(attribute: Attribute, values: tuple[Value, ...]) -> str:
        text = one_string(attribute, values)
        if not text:
            raise wrong_form(attribute, "a string that is not empty")
        return text

    def _substitutions(self) -> tuple[tuple[str, str], ...]:
        attribute = self._attributes.get("rslsubstitution")
        defined: dict[str, str] = {}
        for relation in rsl.relations(self._spec):
            if attribute is not None and relation.attribute == attribute.name:
                for name, text in pairs(attribute, relation.values):
                    defined.setdefault(name, text)
        return tuple(defined.items())
