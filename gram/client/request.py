"""RSL for the jobs that this library makes itself; always as a tree, never by pasting text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import rsl
from gram.client.advice import Side
from gram.client.errors import GramClientError
from protocol.tables import ErrorCode
from rsl import Boolean, Concat, Literal, Relation, Specification, Value, Variable

GASS_VARIABLE = "GLOBUSRUN_GASS_URL"
"""The RSL variable for the URL of the client's GASS server, the name that globusrun uses."""

CONTACT_VARIABLE = "GLOBUS_GRAM_JOB_CONTACT"
CACHE_TAG = "anExtraTag"
"""The tag under which globus-job-submit has output kept in the server's GASS cache."""

STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Program:
    """What `Client.run` runs: `argv[0]` is a path on the server, relative to `directory`.

    Fields that are None are left to the server.  `max_time` is in minutes.  `extra` holds further
    relations, which stand first: where an attribute is given twice the first one counts.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] | None = None
    directory: str | None = None
    count: int | None = None
    job_type: str | None = None
    queue: str | None = None
    project: str | None = None
    max_time: int | None = None
    extra: Specification | None = None


def relation(attribute: str, *values: Value | str) -> Relation:
    """Return `attribute = values`; strings become literals."""
    return Relation(
        attribute, "=", tuple(Literal(item) if isinstance(item, str) else item for item in values)
    )


def program_request(program: Program, gass_url: str, *, stdin: str | None) -> Specification:
    """Return the request for a program whose streams go through the GASS server at `gass_url`.

    stdout and stderr are /dev/stdout and /dev/stderr of the GASS server, as globusrun -s has it
    (job-manager.md 9.1); `stdin` is a path there, or None.  Raises ValueError without a program,
    for a variable that cannot be one, and for NUL bytes.
    """
    _check(program)
    executable, *arguments = program.argv
    parts: list[Specification] = [_substitution(gass_url)]
    if program.extra is not None:
        parts += _conjuncts(program.extra)
    parts += [_served("stderr", "/dev/stderr"), _served("stdout", "/dev/stdout")]
    if stdin is not None:
        parts.append(_served("stdin", stdin))
    parts.append(relation("executable", executable))
    if arguments:
        parts.append(relation("arguments", *arguments))
    if program.environment:
        pairs = [_pair(*item) for item in program.environment.items()]
        parts.append(relation("environment", *pairs))
    parts += _optional(program)
    return Boolean("&", tuple(parts))


def _check(program: Program) -> None:
    if not program.argv:
        raise ValueError("there is no program to run")
    variables = program.environment or {}
    if any(not name or "=" in name for name in variables):
        raise ValueError("a variable needs a name, without an equals sign")
    texts = (*program.argv, *variables.keys(), *variables.values())
    if any("\0" in text for text in texts):
        raise ValueError("a NUL byte cannot stand in an argument or a variable")


def _optional(program: Program) -> list[Specification]:
    values = {
        "directory": program.directory,
        "count": program.count,
        "jobtype": program.job_type,
        "queue": program.queue,
        "project": program.project,
        "maxtime": program.max_time,
    }
    return [relation(name, str(value)) for name, value in values.items() if value is not None]


def with_gass(spec: Specification, gass_url: str) -> Specification:
    """Return a request in which GLOBUSRUN_GASS_URL is defined, and unnamed streams go there."""
    additions: list[Specification] = [_substitution(gass_url)]
    additions += [_served(name, f"/dev/{name}") for name in STREAMS if not _has(spec, name)]
    return _prepend(spec, additions)


def with_stored_output(spec: Specification) -> Specification:
    """Return a request whose unnamed stdout and stderr are kept in the server's GASS cache.

    The form is that of globus-job-submit (job-manager.md 9.2); `Client.output` fetches them.  A
    request to restart a job keeps the streams that the job has.
    """
    if _has(spec, "restart"):
        return spec
    return _prepend(spec, [_stored(name) for name in STREAMS if not _has(spec, name)])


def with_dry_run(spec: Specification) -> Specification:
    """Return a request that is only checked: the answer is error 41 if it is fine."""
    return spec if _has(spec, "dryrun") else _prepend(spec, [relation("dryrun", "yes")])


def _stored(name: str) -> Relation:
    url = Concat(
        Literal("x-gass-cache://"), Concat(Variable((Literal(CONTACT_VARIABLE),)), Literal(name))
    )
    return relation(name, url, CACHE_TAG)


def user_of(spec: Specification) -> str | None:
    """Return the account that the request names: it goes into the request line (5.3)."""
    try:
        return rsl.get_single(rsl.canonicalise(spec), "username") or None
    except rsl.RSLAccessError:
        return None


def request_text(request: str | Specification) -> tuple[str, str | None]:
    """Return a request's text, and the account that it names.  Raises GramClientError."""
    if not isinstance(request, str):
        try:
            return rsl.unparse(request), user_of(request)
        except rsl.RSLError as error:
            raise GramClientError(ErrorCode.BAD_RSL, str(error), Side.HERE) from error
    try:
        return request, user_of(rsl.parse(request))
    except rsl.RSLError:
        return request, None  # the server's verdict counts


def _substitution(gass_url: str) -> Relation:
    return relation("rsl_substitution", _pair(GASS_VARIABLE, gass_url))


def _served(attribute: str, path: str) -> Relation:
    return relation(attribute, Concat(Variable((Literal(GASS_VARIABLE),)), Literal(path)))


def _pair(name: str, value: str) -> rsl.Sequence:
    return rsl.Sequence((Literal(name), Literal(value)))


def _prepend(spec: Specification, additions: Sequence[Specification]) -> Specification:
    if not additions:
        return spec
    return Boolean("&", (*additions, *_conjuncts(spec)))


def _conjuncts(spec: Specification) -> tuple[Specification, ...]:
    return spec.operands if isinstance(spec, Boolean) and spec.op == "&" else (spec,)


def _has(spec: Specification, name: str) -> bool:
    return rsl.find(rsl.canonicalise(spec), name) is not None
